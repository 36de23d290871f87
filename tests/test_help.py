"""The help: how to begin, commands by workflow, options in groups, and examples that are valid."""

import re
import shlex

import pytest

click = pytest.importorskip("click")
cloup = pytest.importorskip("cloup")
from lrbench_caffe.cli import main  # noqa: E402
from lrbench_caffe.cli.help import EXAMPLES  # noqa: E402

WIDTH = 80


def all_commands(command=main, path="lrbench"):
    """Each command that does something, by its path."""
    if not isinstance(command, click.Group):
        return {path: command}
    found = {}
    for name, member in command.commands.items():
        found.update(all_commands(member, path + " " + name))
    return found


COMMANDS = all_commands()


def help_of(path):
    context = cloup.Context(
        COMMANDS[path], info_name=path, terminal_width=WIDTH, max_content_width=WIDTH
    )
    return COMMANDS[path].get_help(context)


def test_lrbench_alone_says_how_to_begin(invoke):
    done = invoke()
    assert done.returncode == 0 and "lrbench demo" in done.stdout
    assert "lrbench --help lists all commands" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_each_command_has_a_whole_phrase_in_80_columns(invoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    for path in ([], ["study"], ["db"]):
        lines = invoke(*path, "--help").stdout.splitlines()
        described = [line for line in lines if line.startswith("  ") and line[2] != "-"]
        assert described and not [line for line in described if line.endswith("...")], path


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_each_option_is_in_a_group_and_each_command_has_examples(path):
    text = help_of(path)
    others = text.partition("Other options:")[2].partition("\n\n")[0]
    assert "--help" in (others or text) and others.count("  -") <= 1, others
    assert max(map(len, text.splitlines())) <= WIDTH
    examples = re.sub(r" \\\n +", " ", text.partition("Examples:\n")[2]).splitlines()
    assert [line.strip() for line in examples] == ["lrbench " + line for line in EXAMPLES[path]]


@pytest.mark.parametrize("path", sorted(EXAMPLES))
def test_the_examples_are_valid(path):
    for example in EXAMPLES[path]:
        words = shlex.split("lrbench " + example)
        assert " ".join(words).startswith(path)
        arguments = words[len(path.split()) :]
        COMMANDS[path].make_context(path, arguments)  # a usage error would be an exception


def test_a_misspelt_command_or_option_gets_the_nearest(invoke):
    assert "train" in invoke("trian").stderr
    assert "Did you mean --policy?" in invoke("train", "--polcy", "x").stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--seed", "x"), "'--seed': expected a whole number in digits, not 'x'"),
        (("--max-iter", "1e4"), "'--max-iter': expected a whole number in digits, not '1e4'"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--until-top1", "99"), "expected a share of 1, for example 0.99, not '99'"),
        (("--until-top1", "nan"), "expected a share of 1, for example 0.99, not 'nan'"),
        (("--min-delta", "x"), "'--min-delta': expected a number, not 'x'"),
        (("--min-delta", "nan"), "'--min-delta': expected a number, not 'nan'"),
    ],
)
def test_an_invalid_number_gets_the_kind_of_number_that_is_expected(arguments, message, invoke):
    done = invoke("train", "solver.prototxt", *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_each_option_with_a_number_names_what_it_expects():
    for command in COMMANDS.values():
        for option in command.params:
            assert type(option.type) not in (
                type(click.INT),
                type(click.FLOAT),
                click.IntRange,
                click.FloatRange,
            ), (command.name, option.name)
