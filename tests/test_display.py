"""The terminal and the report show names as text: a name is not a command."""

import contextlib
import dataclasses
import datetime
import io
import json
import os
import pty
import subprocess
import sys
import time
import unicodedata
from typing import NamedTuple

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from trials import record, trial

pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
from lrbench_caffe import ranking
from lrbench_caffe.display import console, formats, tables
from lrbench_caffe.display.printable import printable, printable_lines

HOSTILE = "net\x1b]0;owned\x07\x1b[31m\x9b1m\r\n\u2028\u202edaer\u200b\ud800[b]:x:"


def hostile_trial(text=HOSTILE):
    """A trial whose names and error come from an enemy."""
    measured = trial("FIX(k0=0.1)", [0.1, 0.5])
    setup = measured.setup
    return dataclasses.replace(
        measured,
        policy="sigmoid(%s)" % text,
        error="Check failed: %s" % text,
        host=text,
        setup=dataclasses.replace(
            setup,
            dataset=dataclasses.replace(setup.dataset, name=text),
            network=dataclasses.replace(setup.network, name=text),
        ),
    )


def hostile_tables():
    """A table with a title and cells from the trial."""
    entry = hostile_trial()
    (block,) = ranking.group_comparable([entry])
    return [
        tables.ranked(block, ranking.rank([entry], ranking.parse_criterion("top1"))),
        tables.results([entry], "study %s" % HOSTILE),
    ]


def is_visible(text):
    """Whether a text has no character that a terminal obeys or hides, but line breaks."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return not any(unicodedata.category(c) in hidden for c in text.replace("\n", ""))


@given(st.text())
def test_visible_characters_stay_and_all_others_are_replaced(text):
    shown = printable(text)
    assert len(shown) == len(text) and is_visible(shown) and "\n" not in shown
    assert all(new in (old, "\ufffd") for old, new in zip(text, shown))


@pytest.mark.parametrize("text", ["LeNet", "ネット 1", "é", "réseau", "a\u00a0b", "Top-1 ± 0.2"])
def test_names_in_any_script_are_printed_unchanged(text):
    assert printable(text) == text


def test_several_lines_stay_lines():
    assert printable_lines("one\ntwo\x1b\n") == "one\ntwo\ufffd\n"


PRINT_ALL = """
import sys
sys.path[:0] = [%r, %r]
from test_display import HOSTILE, hostile_tables, hostile_trial
from lrbench_caffe.cli import _exit
from lrbench_caffe.display import bar, console, progress
from lrbench_caffe.display.screen import SCREEN
bar.ProgressDisplay.delay = 0
for format in ("table", "markdown", "csv", "json", "latex"):
    for table in hostile_tables():
        console.print_tables(table, format=format)
console.print_line(HOSTILE)
console.print_line(HOSTILE, aside=True)
with progress.ProgressDisplay() as display:
    display(HOSTILE, 1, 2)
    SCREEN.draw()
    display.print_line(HOSTILE)
with progress.TrainingDisplay() as display:
    display.on_event("begin", hostile_trial())
    display.on_event("note", HOSTILE)
    display.on_event("end", hostile_trial())
from lrbench_caffe.trial import Job
job = Job("solver", id="1")
with progress.StudyDisplay() as display:
    display.begin([job, job])
    display.on_event(job, "begin", hostile_trial())
    SCREEN.draw()
    display.on_event(job, "end", hostile_trial())
    display.note(HOSTILE)
_exit(HOSTILE, 3)
"""


def test_a_terminal_gets_no_command_from_a_name():
    """In every format, in the progress displays and in an error."""
    pytest.importorskip("psycopg2", reason="needs psycopg2: run the tests with `make test`")
    ours, theirs = pty.openpty()
    code = PRINT_ALL % (ROOT, os.path.join(ROOT, "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(os.environ, TERM="xterm", COLUMNS="300"),
    )
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # EIO: the process has closed its end
        while True:
            output += os.read(ours, 1 << 16)
    os.close(ours)
    text = output.decode()
    assert process.wait() == 3, text
    assert text.count("]0;owned") > 15
    for command in ("\x1b]0;", "\x07", "\x1b[31m\ufffd", "\x9b", "\u2028", "\u202e", "\u200b"):
        assert command not in text
    assert text.count("[b]:x:") > 15, "square brackets and colons are not special"


def test_a_file_gets_the_raw_text_as_csv_and_json(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    for format in ("csv", "json"):
        console.print_tables(hostile_tables()[0], format=format)
    csv, text = out.getvalue().split("[\n", 1)
    assert HOSTILE in csv and json.loads("[" + text)[0]["network"] == HOSTILE


@pytest.mark.parametrize(
    "zone, shown, offset",
    [
        ("XST-5:30", "2026-11-27 01:52 XST", "+05:30"),
        ("<+03>-3", "2026-11-26 23:22 +03", "+03:00"),
        ("UTC0", "2026-11-26 20:22 UTC", "+00:00"),
    ],
)
def test_times_name_their_zone_or_its_offset(zone, shown, offset, monkeypatch):
    class Study(NamedTuple):
        name: str
        created: float
        states: dict
        running: bool

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        table = tables.studies([Study("st", 1795724521.5, {}, False)])
        assert shown in formats.render([table], "markdown")
        (study,) = json.loads(formats.render([table], "json"))
        assert formats.render([table], "csv").splitlines()[1].split(",")[2] == study["made"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert study["made"].endswith(offset)
    assert datetime.datetime.fromisoformat(study["made"]).timestamp() == 1795724521


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_a_line_break_in_a_name_does_not_break_a_table(format):
    for table in hostile_tables():
        rendered = formats.render([table], format)
        plain = formats.render([table._replace(title="x", rows=())], format)
        assert is_visible(rendered)
        assert len(rendered.split("\n")) == len(plain.split("\n")) + len(table.rows)


def test_the_report_shows_names_as_visible_text(store):
    from lrbench_caffe.report import content, page

    name = HOSTILE.replace("\ud800", "")  # PostgreSQL cannot hold half of a surrogate pair
    record(store, dataclasses.replace(hostile_trial(name), state="diverged"))
    loaded = content.load(store, {"network": name}, ranking.parse_criterion("top1"))

    def texts(value):
        if isinstance(value, dict):
            return [text for part in value.values() for text in texts(part)]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    found = [text for text in texts(loaded) if "owned" in text]
    assert len(found) > 4 and all(map(is_visible, found))
    assert "owned" in page.render(loaded)
