"""Tables fit the terminal: key columns stay, numbers are whole, what has no room is named."""

import datetime
import io
import os
import re
import sys
from typing import Dict, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
from rich.cells import cell_len

from lrbench_caffe import ranking
from lrbench_caffe.display import console, layout, tables
from lrbench_caffe.display.printable import printable
from lrbench_caffe.display.table import KEY, Column, Fixed, Table, cell, displayed, number, percent
from lrbench_caffe.display.view import View, view
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import Spread

POLICIES = (
    "FIX(k0=0.1)",
    "SIN2(k0=0.005, k1=0.08, l=100)",
    "NSTEP(k0=0.05, gamma=0.3, l=[300, 400, 500, 600, 700, 800])",
    "WARMUP(k0=0.01) for 50 then COS(k0=0.1, k1=0.005, l=150)",
)


class Terminal(io.StringIO):
    """A terminal that keeps what is printed."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Print tables on a terminal: terminal(width, *tables) returns the lines."""

    def output(width, *printed, **options):
        out = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm")
            console.print_tables(*printed, **options)
        return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()

    return output


@given(st.lists(st.text(min_size=1)), st.sampled_from([" ", "  "]), st.integers(5, 60))
def test_texts_are_broken_at_words_and_lose_nothing(texts, gap, width):
    words = " ".join(map(printable, texts)).split()
    for indent in (0, 4):
        lines = console.at_words(gap.join(words), width, indent).split("\n")
        assert gap.join([lines[0], *(line[indent:] for line in lines[1:])]) == gap.join(words)
        for line in lines:
            longest = max(map(cell_len, console._WORD.findall(line)), default=0)
            assert cell_len(line) <= width or indent + longest > width, "a word that is too wide"


def test_a_command_to_copy_stays_in_one_line(monkeypatch):
    command = "`lrbench study run first solvers/digits_solver.prototxt --retry-failed`"
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    console.print_line("2 of 13 trials failed: %s trains them again" % command)
    assert command in [line[: len(command)] for line in out.getvalue().splitlines()]


def ranking_table(policies=POLICIES, by="top1"):
    """A ranking of policies with three seeds each."""
    trials = [
        trial(policy, [0.1, 0.9 + 0.01 * n + 0.001 * seed], seed)
        for n, policy in enumerate(policies)
        for seed in (1, 2, 3)
    ]
    (block,) = ranking.group_comparable(trials)
    criterion = ranking.parse_criterion(by)
    return tables.ranked(block, ranking.rank(trials, criterion), criterion.weights)


texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=60)
shares = st.none() | st.floats(0, 1)
spreads = st.builds(Spread, st.floats(-1e6, 1e6), st.none() | st.floats(0, 1e5), st.just(3))
column_kinds = st.sampled_from(
    [
        (Column("policy", None, policy=True), st.sampled_from(POLICIES) | texts),
        (Column("note", "note"), texts),
        (Column("Top-1 %", "top1", percent, True), shares | spreads),
        (Column("LD", "ld", number, True), spreads | st.none()),
        (Column("95 % interval", None, str, True), st.sampled_from(["one seed", "97.6-99.8"])),
        (Column("k0", "k0", repr, True), st.floats(1e-12, 1e3)),
    ]
)


@st.composite
def any_tables(draw):
    """Tables with any columns, contents and importances."""
    kinds = draw(st.lists(column_kinds, min_size=1, max_size=8))
    columns = [
        kind._replace(
            title="%s %d" % (kind.title, n), importance=draw(st.sampled_from([5, 50, KEY]))
        )
        for n, (kind, _) in enumerate(kinds)
    ]
    rows = draw(st.lists(st.tuples(*(values for _, values in kinds)), max_size=4))
    return Table("title", tuple(columns), tuple(rows))


def joined(lines):
    """The characters of a text without spaces, at which it may be wrapped."""
    return "".join(lines).replace(" ", "")


@given(any_tables(), st.integers(1, 200))
def test_no_key_column_is_lost_and_no_number_is_cut_at_any_width(table, width):
    columns, rows = displayed(table)
    found = layout.fitted(table, width)
    empty = [
        column for n, column in enumerate(columns) if rows and all(r[n] in ("", "-") for r in rows)
    ]
    shown = [columns.index(column) for column in found.columns]
    assert shown == sorted(shown), "the columns are in their order"
    assert len(found.columns) + len(found.left_out) + len(empty) == len(columns)
    assert not any(column.importance == KEY for column in found.left_out)
    if found.left_out and found.columns:
        most = max(column.importance for column in found.left_out)
        assert most <= min(column.importance for column in found.columns), "the least go first"
    for row, cells in zip(found.rows, rows):
        for n, lines in zip(shown, row):
            assert joined(lines) == joined([printable(cells[n])])
            assert len(lines) == 1 or not columns[n].right, "numbers have one line"
    heading, body = layout.table_lines(found)
    if found.fits:
        assert all(cell_len(line) <= width for line in heading + body)
    else:
        assert all(column.importance == KEY for column in found.columns)
    for row in found.rows:
        for column, lines in zip(found.columns, row):
            if column.right:
                assert any(lines[0] in line for line in body)


@given(any_tables())
def test_a_pipe_gets_all_columns_with_a_line_for_each_row(table):
    columns, rows = displayed(table)
    found = layout.unlimited(table)
    assert list(found.columns) == columns and not found.left_out
    assert [[line for (line,) in row] for row in found.rows] == [
        [printable(text) for text in row] for row in rows
    ]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("count", [2, 4])
def test_a_ranking_shows_rank_policy_and_top1_whole(terminal, width, count):
    table = ranking_table(POLICIES[:count])
    lines = terminal(width, table)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    columns, rows = displayed(table)
    titles = [column.title for column in columns]
    for row in rows:
        (line,) = [line for line in lines if row[titles.index("Top-1 %")] in line]
        assert line.split()[0] == row[0] and row[1].split("(")[0] in line
    assert all(re.search(r"(?<=[ (])%s" % re.escape(part), text) for part in POLICIES[0].split())
    named = re.search("no room for ([a-z0-9_, ]+):", " ".join(lines))
    left_out = named.group(1).split(", ") if named else []
    assert not {"rank", "top1", "policy"} & set(left_out)
    words = " ".join(lines[1:4]).split()
    for column in columns:
        is_shown = column.title.split()[0] in words
        assert is_shown == (column.key not in left_out)
    assert len(left_out) == {80: 8, 100: 6, 120: 5, 160: 3}[width]


def test_what_is_ranked_by_is_shown_at_80_columns(terminal):
    heading = "\n".join(terminal(80, ranking_table(by="top1=1,cdac=1"))[:5])
    assert "CDAC" in heading and "Top-1" in heading and "interval" not in heading
    lines = terminal(80, ranking_table(by="top1=1,ld=1,ac=1,cd=1,cdac=1"))
    text = "\n".join(lines)
    for label in ("rank: 1", "LD: ", "CDAC: ", "Top-1 %: 93.20 ± 0.10", "policy: " + POLICIES[3]):
        assert label in text, "where even these do not fit side by side, they are below another"


def test_a_policy_is_wrapped_between_its_parameters():
    assert layout.wrapped(POLICIES[2], 25, policy=True) == (
        "NSTEP(k0=0.05, gamma=0.3,",
        "l=[300, 400, 500, 600,",
        "700, 800])",
    )
    assert layout.wrapped("FIX(k0=0.1) (2 diverged)", 16, policy=True) == (
        "FIX(k0=0.1)",
        "(2 diverged)",
    )
    assert layout.wrapped("a" * 5 + "ネット", 4) == ("aaaa", "aネ", "ット")


def test_the_line_about_columns_without_room_says_how_to_see_them(terminal):
    text = " ".join(terminal(80, ranking_table(), hint="look elsewhere"))
    assert re.search("no room for .*, n_params: look elsewhere$", text)
    text = " ".join(terminal(80, ranking_table()))
    assert text.endswith(", n_params: use a wider window, or --format csv")


def test_a_column_without_values_is_not_shown(terminal):
    columns = (Column("k0", "k0", repr, True, KEY), Column("state", None, importance=KEY))
    assert terminal(80, Table(None, columns, ((0.00001, ""),)))[1] == "    k0"
    asked = View(columns=("k0", "state"))
    table = Table(None, columns, ((0.00001, ""),))
    assert terminal(80, table, wanted=asked)[1].split() == ["k0", "state"]


@pytest.mark.parametrize(
    "text, spread, expected",
    [
        (percent, Spread(0.98667, 0.00289, 3), "98.67 ± 0.29"),
        (percent, Spread(0.9933, 0.0002, 5), "99.33 ± 0.02"),
        (percent, Spread(0.46667, 0.07094, 3), "46.7 ± 7.1"),
        (percent, Spread(0.8266, 0.405, 6), "83 ± 40"),
        (percent, Spread(0.985, 0.0, 3), "98.50 ± 0.00"),
        (percent, Spread(0.985, 1e-18, 3), "98.50 ± 0.00"),
        (percent, Spread(0.985, 0.00001, 3), "98.500 ± 0.001"),
        (percent, Spread(0.985, 0.0000099999, 3), "98.500 ± 0.001"),
        (percent, Spread(0.985, 1e-10, 3), "98.50 ± 1e-08"),
        (percent, Spread(0.985, None, 1), "98.50"),
        (number, Spread(0.0476, 0.00213, 3), "0.0476 ± 0.0021"),
        (number, Spread(-0.00001, 0.02, 3), "0.000 ± 0.020"),
        (Fixed(0), Spread(433.3, 160.7, 3), "430 ± 160"),
        (Fixed(0), Spread(433.3, 99.9, 3), "430 ± 100"),
        (Fixed(0), Spread(250.3, 0.58, 3), "250.3 ± 0.6"),
        (Fixed(0), Spread(12345.6, 2345.6, 3), "12300 ± 2300"),
        (percent, Spread(None, None, 0), "-"),
    ],
)
def test_a_mean_and_its_deviation_are_short(text, spread, expected):
    assert cell(Column("x", "x", text), spread) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.sampled_from([percent, number, Fixed(0)]))
def test_a_rounded_deviation_is_near_the_deviation(mean, deviation, text):
    """It has at most two significant digits, and the mean as many decimals."""
    shown_mean, shown = cell(Column("x", "x", text), Spread(mean, deviation, 3)).split(" ± ")
    assert float(shown) == pytest.approx(text.factor * deviation, rel=0.5)
    assert float(shown) > 0
    digits = shown.replace(".", "").strip("0")
    assert len(digits) <= 2
    places = len(shown.partition(".")[2])
    assert len(shown_mean.partition(".")[2]) == places
    step = max(10.0**-places, float("1e%d" % (len(shown) - 2)) if "." not in shown else 0)
    assert abs(float(shown_mean) - text.factor * mean) <= 0.51 * step + 1e-9 * abs(mean)


def a_table():
    when = datetime.datetime(2026, 11, 27, tzinfo=datetime.timezone.utc)
    columns = (
        Column("policy", None, policy=True, importance=KEY),
        Column(None, "policy"),
        Column("Top-1 %", "top1", percent, True, KEY),
        Column(None, "seed"),
        Column("made", "made"),
    )
    rows = (
        ("b (1 failed)", "b", Spread(0.5, 0.1, 2), 2, when),
        ("a", "a", None, 1, when - datetime.timedelta(1)),
        ("c", "c", Spread(0.9, 0.1, 2), 10, when + datetime.timedelta(1)),
    )
    return Table("t", columns, rows)


@pytest.mark.parametrize(
    "sort, order",
    [("top1", "bca"), ("-top1", "cba"), ("seed", "abc"), ("-seed", "cba"), ("policy", "abc")]
    + [("made", "abc"), ("-made", "cba"), (None, "bac")],
)
def test_rows_are_sorted_and_those_without_a_value_come_last(sort, order):
    (table,) = view([a_table()], View(sort=sort), "table")
    assert "".join(row[1] for row in table.rows) == order


def test_columns_are_chosen_for_people_and_for_programs(terminal, capsys):
    wanted = View(columns=("seed", "policy"), limit=2)
    assert [line.split() for line in terminal(80, a_table(), wanted=wanted)[2:6]] == [
        ["seed", "policy"],
        ["─" * 19],
        ["2", "b", "(1", "failed)"],
        ["1", "a"],
    ]
    console.print_tables(a_table(), format="csv", wanted=wanted)
    assert capsys.readouterr().out == "seed,policy\n2,b\n1,a\n"
    for option in ({"columns": ("top1", "polcy")}, {"sort": "-polcy"}):
        with pytest.raises(InputError, match=r"^--(columns|sort): unknown column 'polcy': did you"):
            view([a_table()], View(**option), "table")


def test_the_title_of_a_column_is_broken_before_its_parentheses(terminal):
    title = "after %d (%.2f epochs)"
    columns = [Column(title % (50 * n, 2.29 * n), "top1", percent, True, 50 + n) for n in (1, 2, 3)]
    columns = (Column("k0", "k0", importance=KEY), *columns, Column("state", "state"))
    lines = terminal(60, Table("range", columns, ((0.1, 0.9, 0.9, 0.9, "diverged"),)))
    assert [line.split() for line in lines[1:4]] == [
        [],
        ["after", "50", "after", "100", "after", "150"],
        ["k0", "(2.29", "epochs)", "(4.58", "epochs)", "(6.87", "epochs)", "state"],
    ]


def test_a_long_title_is_broken_at_words(terminal):
    title = "Table VII: policies compared, LeNet on MNIST, AT SCALE 0.005: 50 iterations"
    lines = terminal(40, a_table()._replace(title=title))
    assert " ".join(lines).startswith(title) and max(map(len, lines)) <= 40


def test_a_pipe_gets_a_wide_table_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    table = ranking_table(["FIX(k0=0.1)", "NSTEP(k0=0.1, gamma=0.5, l=%s)" % list(range(100, 200))])
    console.print_tables(table)
    _, rows = displayed(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + len(rows) + 2 and os.linesep not in lines
    for row in rows:
        assert any(all(text in line for text in row) for line in lines)


class Study(NamedTuple):
    """A study in a list of studies."""

    name: str
    created: float
    states: Dict[str, int]
    running: bool = False


def test_a_narrow_list_of_studies_shows_what_failed_before_when_it_was_made(terminal):
    states = {"finished": 12, "diverged": 2, "pruned": 3, "interrupted": 4, "failed": 5}
    name = "tune-MyNet-on-my-own-images-in-color"
    table = tables.studies([Study(name, 1795724521.5, states)])
    heading = terminal(60, table)[1].split()
    assert heading[0] == "study" and heading[-2:] == ["interrupted", "failed"]
    assert "made" not in heading and "pruned" not in heading
    text = "\n".join(terminal(60, table))
    assert re.search(r"\b4 +5\b", text) and "no room for" in text and "made" in text
    assert "made" in terminal(200, table)[1]
