"""The commands that explain: policies, metrics, about and the completion of the shell."""

import csv
import io
import json

import pytest

from lrbench_caffe import InputError, Policy
from lrbench_caffe.display.sketch import BLOCKS, sketch
from lrbench_caffe.policies import FUNCTIONS, catalogue, parameter_names
from lrbench_caffe.ranking import METRICS, glossary

pytest.importorskip("click")


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.function)
def test_each_function_is_explained_with_all_its_parameters(entry):
    assert tuple(entry.parameters) == parameter_names(entry.function)
    assert entry.meaning and all(all(texts) for texts in entry.parameters.values())
    assert bool(entry.formula) == (entry.function not in ("WARMUP", "PLATEAU"))
    example = Policy.parse(entry.example)
    assert entry.function in example.function
    assert example.end >= catalogue.LENGTH


def test_the_13_functions_come_in_the_order_of_table_1():
    names = [entry.function for entry in catalogue.entries()]
    assert names[:13] == list(FUNCTIONS)


def test_each_metric_is_explained():
    assert {entry.name for entry in glossary.entries()} == set(METRICS)
    assert glossary.entry("LD").better == "lower" and glossary.entry("top1").better == "higher"


def test_a_sketch_is_at_0_lowest_and_at_the_maximum_highest():
    assert sketch([0.0, 0.5, 1.0], width=3)[::2] == BLOCKS[0] + BLOCKS[-1]
    assert sketch([0.3] * 100, width=7) == BLOCKS[-1] * 7
    assert sketch([], width=5) == "" and sketch([0.0], width=5) == BLOCKS[0]


def test_policies_lists_the_functions_and_explains_one(invoke):
    listed = list(csv.DictReader(io.StringIO(invoke("policies", "--format", "csv").stdout)))
    assert [line["function"] for line in listed] == [e.function for e in catalogue.entries()]
    shown = invoke("policies", "sin2").stdout
    assert "g(t) = SIN(t) / 2 ^ floor(t / (2 l))" in shown
    assert catalogue.entry("SIN2").example in shown
    assert "the evaluations decide its rate" in invoke("policies", "PLATEAU").stdout


def test_metrics_lists_the_metrics_and_explains_one(invoke):
    listed = json.loads(invoke("metrics", "--format", "json").stdout)
    assert {line["metric"] for line in listed} == set(METRICS)
    assert "|test loss - train loss|; lower is better" in invoke("metrics", "ld").stdout


def test_a_misspelt_function_or_metric_gets_the_nearest(invoke):
    with pytest.raises(InputError, match="did you mean SINEXP"):
        catalogue.entry("SINEX")
    for command, suggestion in ((["policies", "STPE"], "STEP"), (["metrics", "top-5x"], "top5")):
        done = invoke(*command)
        assert done.returncode == 2 and suggestion in done.stderr, command


def test_about_names_caffe_and_the_database_without_passwords(invoke, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret-1")
    monkeypatch.setenv("LRBENCH_DSN", "postgresql://u:secret-2@127.0.0.1:1/none")
    done = invoke("about", "--format", "json")
    facts = {fact["name"]: fact["value"] for fact in json.loads(done.stdout)}
    assert facts["Caffe"].startswith("1.0.0 in ") and "openblas" in facts["BLAS"]
    assert "none at 127.0.0.1, port 1" in facts["database"]
    assert "secret" not in done.stdout and "PGPASSWORD=(not shown)" in facts["variables"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_is_a_script_of_the_shell(shell, invoke):
    assert "_LRBENCH_COMPLETE=%s_complete" % shell in invoke("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lrbench reco", "recommend"),
        ("lrbench train --until", "--until-top1"),
        ("lrbench policies tri", "TRIEXP"),
        ("lrbench metrics cda", "cdac"),
    ],
)
def test_the_completion_knows_commands_options_and_values(words, expected, lrbench, monkeypatch):
    monkeypatch.setenv("_LRBENCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert "plain," + expected in lrbench().stdout.splitlines()
