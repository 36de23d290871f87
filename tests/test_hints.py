"""What to do next: each command names a next one that is valid, at a terminal only."""

import re
import shlex
import sys

import pytest
from terminal import Terminal

click = pytest.importorskip("click")
pytest.importorskip("cloup")
from test_help import COMMANDS  # noqa: E402

from lrbench_caffe.cli import hints  # noqa: E402
from lrbench_caffe.database.names import LOCAL  # noqa: E402

HOSTILE = "a name's {by} [--x] $(reboot)"
VALUES = {"test_net": "1", "select": "0"}


def templates():
    return [(name, text) for name, texts in hints.NEXT.items() for text in texts]


def parsed(text):
    """The command of a line, and its parameters; a line that is not valid is an error."""
    words = shlex.split(text)
    path = max((p for p in COMMANDS if words[: len(p.split())] == p.split()), key=len)
    context = COMMANDS[path].make_context(path, words[len(path.split()) :])
    return path, context.params


def test_each_command_has_a_next_one_or_is_the_last():
    aliases = {"trials", "trial"}
    names = {path.partition(" ")[2] for path in COMMANDS}
    assert set(hints.NEXT) | set(hints.LAST) | aliases == names
    assert not set(hints.NEXT) & set(hints.LAST)


@pytest.mark.parametrize("command, template", templates())
@pytest.mark.parametrize("value", ["x", HOSTILE])
def test_each_next_command_is_valid_with_all_its_values(command, template, value, monkeypatch):
    names = re.findall(r"\{(\w+)\}", template)
    values = {name: VALUES.get(name, "1" if name == "policy" else value) for name in names}
    values.update(policy="FIX(k0=0.1)", state="finished", by="ld", local="--local", function="FIX")
    monkeypatch.setitem(hints.NEXT, command, (template,))
    text = hints.next_command(command, **values)
    if "origin" in values:  # they exclude each other
        text = hints.next_command(command, **dict(values, local=None))
    _, parameters = parsed(text)
    if value == HOSTILE and set(names) - set(values):
        assert HOSTILE in map(str, parameters.values())
    assert "{" not in text.replace(HOSTILE, "").replace(shlex.quote(HOSTILE), "")


def test_parts_without_values_are_left_out():
    assert hints.next_command("range", solver="a b.prototxt", data=None, test_net=0) == (
        "lrbench tune 'a b.prototxt'"
    )
    assert hints.next_command("range", solver="s", data="d", head="h") == (
        "lrbench tune s --data d --head h"
    )
    assert hints.next_command("rank", by="ld", origin=LOCAL) == (
        "lrbench report --local --by ld report.html"
    )
    assert hints.next_command("train", dataset="digits", network="LeNet") == (
        "lrbench rank --dataset digits --network LeNet"
    )
    assert hints.next_command("train", model="ab12", dataset="digits", network="LeNet") == (
        "lrbench weights ab12 --out best.caffemodel"
    )
    assert hints.next_command("db origins", origin=None) is None


def test_only_a_table_on_a_terminal_gets_the_next_command(monkeypatch, capsys):
    hints.show("db import")
    assert capsys.readouterr().out == ""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    hints.show("rank", "csv")
    assert screen.text == ""
    hints.show("db export", file="trials.jsonl")
    assert screen.text == "next, on another machine: lrbench db import trials.jsonl"
    assert "\x1b[2m" in screen.written, "it is pale"


@pytest.mark.parametrize(
    "dsn, shown",
    [
        ("host=db dbname=x", "next: lrbench rank --dsn 'host=db dbname=x'"),
        ("postgresql://me:secret@db/x", ""),
        (None, "next: lrbench rank"),
    ],
)
def test_the_next_command_uses_the_same_database_and_shows_no_password(dsn, shown, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with click.Context(click.Command("import")) as context:
        context.params["dsn"] = dsn
        hints.show("db import")
    assert screen.text == shown
