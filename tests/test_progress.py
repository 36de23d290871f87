"""Progress: one look, counts that agree, and nothing left on the terminal."""

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import types

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal
from trials import trial
from waiting import wait_until

pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
from lrbench_caffe import interrupts, waits
from lrbench_caffe.display import bar, console, meter, speed, study
from lrbench_caffe.display.progress import (
    ProgressDisplay,
    SearchDisplay,
    SearchStatus,
    StudyDisplay,
    TrainingDisplay,
)
from lrbench_caffe.display.screen import SCREEN, _Terminal
from lrbench_caffe.ranking import Spread
from lrbench_caffe.trial import Job

WIDTHS = (40, 80, 100, 120, 160)
POLICY = "SINEXP(k0=0.005, k1=0.08, gamma=0.997, l=100)"


@pytest.fixture
def terminal(monkeypatch):
    """Make both outputs a terminal: terminal(width) returns it."""
    monkeypatch.setattr(bar.ProgressDisplay, "delay", 0)
    monkeypatch.setattr(bar, "WAITING_DELAY", 0)

    def attach(width=80):
        screen = Terminal(width)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")
        return screen

    return attach


def shown(screen):
    """What the terminal shows after the next drawing."""
    SCREEN.draw()
    return screen.text


def test_an_activity_of_unknown_length_shows_its_time_instead_of_an_empty_bar(
    terminal, monkeypatch
):
    screen, now = terminal(), [100.0]
    monkeypatch.setattr(bar, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with ProgressDisplay() as display:
        display("importing a.jsonl", 1000000, 2000000)
        assert meter.DONE in shown(screen)
        display("merging trials", 1000, None)
        now[0] += 75
        text = shown(screen)
    assert "merging trials" in text and "1,000" in text and "1:15" in text
    assert meter.DONE not in text and meter.TO_DO not in text


def progress(iteration, max_iter=600, rate=0.01, loss=1.0):
    return {"iteration": iteration, "max_iter": max_iter, "lr": rate, "loss": loss}


def begun(policy=POLICY, seed=1):
    """A trial of the policy, and one of its rows."""
    measured = trial(policy, [0.1, 0.5], seed)
    return dataclasses.replace(measured, rows=(), state="running"), measured.rows[-1]


def train(display, job, iteration=300):
    """Let a training begin and report."""
    trial, row = begun(job.policy)
    display.on_event(job, "begin", trial)
    display.on_event(job, "row", row)
    display.on_event(job, "progress", progress(iteration))
    return trial


@contextlib.contextmanager
def an_activity():
    with ProgressDisplay() as display:
        display("writing images", 300, 1000)
        yield "writing images"


@contextlib.contextmanager
def a_training():
    with TrainingDisplay() as display:
        trial, row = begun()
        display.on_event("begin", trial)
        display.on_event("row", row)
        display.on_event("progress", progress(300))
        yield "training"


@contextlib.contextmanager
def a_study():
    jobs = [Job("x", policy=POLICY, id=str(n)) for n in range(4)]
    with StudyDisplay() as display:
        display.begin(jobs)
        train(display, jobs[0])
        yield "all trainings"


@contextlib.contextmanager
def a_search():
    with SearchDisplay() as search:
        status = SearchStatus("coarse", "4 policies", "one of each", POLICY, None, 1000, 9000)
        search.show(status)
        with search.round() as display:
            jobs = [Job("x", policy=POLICY, id=str(n)) for n in range(4)]
            display.begin(jobs)
            train(display, jobs[0])
            yield "budget"


@contextlib.contextmanager
def a_wait():
    with bar.waiting("starting PostgreSQL"):
        yield "starting PostgreSQL"


KINDS = ("begin", "progress", "row", "end", "problem")
ACTIVITIES = [an_activity, a_training, a_study, a_search, a_wait]


@pytest.mark.parametrize("activity", ACTIVITIES)
@pytest.mark.parametrize("width", WIDTHS)
def test_progress_fits_the_terminal_and_leaves_nothing_of_it(activity, width, terminal):
    screen = terminal(width)
    with activity() as what:
        text = shown(screen)
        assert what[: width - 40] in text
        assert all(len(line) < width for line in text.splitlines()[-4:])
        assert screen.cursor_is_hidden
    assert what + " " not in screen.text and meter.DONE not in screen.text
    assert not screen.cursor_is_hidden


INTERRUPTIBLE = """
import time
from lrbench_caffe.display import bar
from lrbench_caffe.study.stop import interruptible
bar.WAITING_DELAY = 0
with interruptible() as stop, bar.waiting("a wait"):
    for requests in range(3):
        while stop.requests < requests:
            time.sleep(0.01)
        print(requests, "requests", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_a_signal_that_kills_leaves_the_cursor():
    """The first two signals are requests; the third kills, whatever the process does."""
    ours, theirs = os.openpty()
    output = b""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(os.environ, TERM="xterm", COLUMNS="80", LINES="24"),
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the process has closed its end
            for requests in range(3):
                while b"%d requests" % requests not in output:
                    output += os.read(ours, 1 << 16)
                process.send_signal(signal.SIGINT)
            while True:
                output += os.read(ours, 1 << 16)
    os.close(ours)
    assert process.returncode == -signal.SIGINT, output
    hidden, _, after = output.rpartition(b"\x1b[?25l")
    assert hidden and b"\x1b[?25h" in after, output


def test_the_cursor_stays_once_the_next_signal_kills(terminal, monkeypatch):
    monkeypatch.setattr(SCREEN, "_hides_cursor", True)
    screen = terminal()
    with an_activity():
        shown(screen)
        assert screen.cursor_is_hidden
        interrupts.let_kill(())
        shown(screen)
        assert not screen.cursor_is_hidden


@pytest.mark.parametrize("activity", [an_activity, a_training, a_study, a_search])
def test_the_numbers_of_all_displays_are_at_the_same_place(activity, terminal):
    screen = terminal(160)
    with activity() as what:
        (line,) = [line for line in shown(screen).splitlines() if line.startswith(what + " ")]
    bars = re.search("[%s%s]+ +\\d+ %%" % (meter.DONE, meter.TO_DO), line)
    longest = max(meter.MIN_WHAT, len("  " + POLICY + "  seed 1")) if "all" in what else 0
    in_rounds = activity in (a_study, a_search)
    assert bars.start() == len(meter.GAP) + (longest or 55 if in_rounds else meter.MIN_WHAT)


def test_what_is_printed_meanwhile_appears_above(terminal):
    screen = terminal()
    with an_activity():
        print("the first line")
        console.print_line("the second line", aside=True)
        sys.stdout.write("without an end")
        lines = shown(screen).splitlines()
        assert lines[:2] == ["the first line", "the second line"]
        assert lines[2].startswith("writing images") and len(lines) == 3
    assert screen.text == "the first line\nthe second line\nwithout an end"


def test_a_terminal_that_becomes_narrower_keeps_its_lines(terminal, monkeypatch):
    screen = terminal(120)
    print("printed before")
    with a_study():
        assert len(shown(screen).splitlines()) == 5
        for width in (50, 90, 45, 160):
            with SCREEN._lock:  # a terminal is not resized while it is written to
                size = (width, 24)
                monkeypatch.setattr(_Terminal, "size", lambda terminal, size=size: size)
                screen.resize(width)
            assert len(shown(screen).splitlines()) == 5
            assert screen.text.startswith("printed before\nall trainings")
    assert screen.text == "printed before"


def test_a_low_terminal_shows_how_many_more_run(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("LINES", "8")
    jobs = [Job("x", policy=POLICY, id=str(n)) for n in range(30)]
    with StudyDisplay() as display:
        display.begin(jobs)
        for job in jobs:
            train(display, job)
        lines = shown(screen).splitlines()
    assert len(lines) == 6 and lines[-1] == "  and 28 more that run"


def test_nothing_moves_where_the_output_is_not_a_terminal(capfd):
    for activity in ACTIVITIES:
        with activity():
            SCREEN.draw()
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and meter.DONE not in out + err
    assert err.count("\n") == 2, "the first line and the row of the training"


def test_standard_output_in_a_pipe_gets_its_lines(terminal, monkeypatch):
    import io

    screen, pipe = terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    with an_activity():
        print("for a program")
    assert pipe.getvalue() == "for a program\n" and "program" not in screen.written


def test_no_color_is_honoured(terminal, monkeypatch):
    colour = re.compile("\x1b\\[[0-9;]*3[0-7]m")
    for coloured in (True, False):
        screen = terminal(120)
        with a_study():
            shown(screen)
        assert bool(colour.search(screen.written)) == coloured
        monkeypatch.setenv("NO_COLOR", "1")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KINDS))))
def test_the_counts_of_a_study_agree_at_every_moment(events):
    """Whatever comes, in any order: a training may begin again on another worker."""
    states = ("finished", "failed", "interrupted", "diverged", "pruned")
    jobs = [Job("x", id=str(n)) for n in range(6)]
    display = StudyDisplay()
    display._print = lambda line: None
    display.begin(jobs)
    for step, (number, kind) in enumerate(events):
        content, row = begun()
        content = {"progress": progress(step), "row": row, "problem": "reason"}.get(kind, content)
        if kind == "end":
            content = content.ended_as(states[step % len(states)], 1e9)
        display.on_event(jobs[number], kind, content)
        counts = display.counts()
        assert sum(counts) == 6 and min(counts) >= 0
        assert counts.running == len(display._running)
    display.__exit__(None, None, None)


def test_the_share_of_a_study_is_that_of_its_iterations_and_never_falls(terminal):
    screen, shares = terminal(), []
    measured = begun()[0]
    jobs = [Job("x", policy=POLICY, id=str(n)) for n in range(4)]

    def show(job, kind, content):
        display.on_event(job, kind, content)
        first = shown(screen).splitlines()[-1 - len(display._running) - 2]
        shares.append(int(re.search("all trainings.* ([0-9]+) %", first).group(1)))

    with StudyDisplay() as display:
        display.begin(jobs)
        for pair in (jobs[:2], jobs[2:]):
            for job in pair:
                show(job, "begin", measured)
            for job in pair:
                show(job, "progress", progress(measured.length // 2, measured.length))
            for job in pair:
                show(job, "progress", progress(measured.length, measured.length))
            for job in pair:
                show(job, "end", measured.ended_as("finished", 1e9))
    assert shares == [0, 0, 12, 25, 37, 50, 50, 50, 50, 50, 62, 75, 87, 100, 100, 100]


def test_the_columns_of_a_study_stay_where_they_are(terminal, monkeypatch):
    """Also where a training has not been evaluated yet, or other ones begin."""
    screen, jobs = terminal(120), [Job("x", policy=POLICY, id=str(n)) for n in range(4)]
    seconds = itertools.count()
    for module in (study, speed):
        clock = types.SimpleNamespace(monotonic=lambda: next(seconds))
        monkeypatch.setattr(module, "time", clock)
    bars = set()
    with StudyDisplay() as display:
        display.begin(jobs)
        for job in jobs[:2]:
            measured, row = begun(job.policy)
            display.on_event(job, "begin", measured)
            display.on_event(job, "progress", progress(100))
            bars.add(shown(screen).splitlines()[-1].index(meter.TO_DO))
            display.on_event(job, "row", row)
            display.on_event(job, "progress", progress(110))
            bars.add(shown(screen).splitlines()[-1].index(meter.TO_DO))
    assert len(bars) == 1


def test_a_search_shows_its_stage_its_incumbent_and_its_budget(terminal):
    screen = terminal(100)
    with SearchDisplay() as search:
        search.show(SearchStatus("range", "8 constant rates", "they bound k0", budget=9000))
        assert "range: 8 constant rates (they bound k0)" in shown(screen)
        assert "nothing measured yet" in screen.text and "0/9,000" in screen.text
        search.show(SearchStatus("recipe", "3 trainings", "a rule of thumb", POLICY, budget=9000))
        assert "best in the database, not trained here yet: %s" % POLICY in shown(screen)
        with search.round() as display:
            job = Job("x", policy=POLICY, id="1")
            display.begin([job])
            train(display, job, iteration=600)
            assert "  600/9,000" in shown(screen) and "1 running of 1 trainings" in screen.text
            display.on_event(job, "end", begun()[0].ended_as("finished", 1e9))
        assert "  600/9,000" in shown(screen), "what a round has spent stays until the next one"
        top1 = Spread(0.98667, 0.00289, 3)
        search.show(SearchStatus("full", "2 seeds", "its lead is noise", POLICY, top1, 600, 9000))
        assert "best of the search: Top-1 98.67 ± 0.29 %%, %s" % POLICY in shown(screen)
        assert "  600/9,000" in screen.text and "running" not in screen.text
    assert screen.text == "1/1  %-48s seed 1  finished" % POLICY


LONG_POLICY = "WARMUP(k0=0.008) for 30 then NSTEP(k0=0.08, gamma=0.215, l=[285, 428, 513])"


def ended_study(policies, state="finished", error=None):
    """Let a training under each policy end in a study."""
    jobs = [Job("x", policy=policy, id=str(n)) for n, policy in enumerate(policies)]
    with StudyDisplay() as display:
        display.begin(jobs)
        for job in jobs:
            measured = trial(job.policy, [0.1, 0.99])
            display.on_event(job, "begin", measured)
            display.on_event(job, "end", measured.ended_as(state, 1e9, error))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_training_that_ended_is_one_aligned_line_whatever_its_policy(width, state, terminal):
    screen = terminal(width)
    ended_study(["FIX(k0=0.1)", LONG_POLICY, POLICY], state)
    lines = screen.text.splitlines()
    assert [line[:3] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all(line.endswith("%s  Top-1 99.00 %%" % state) for line in lines)
    assert len({line.index(" seed 1") for line in lines}) == 1
    assert (LONG_POLICY in lines[1]) == (width == 200)


def test_a_pipe_gets_the_whole_policies_in_one_column(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    ended_study(["FIX(k0=0.1)", LONG_POLICY], "diverged", "the train loss became nan " * 5)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and LONG_POLICY in lines[1]
    assert lines[0].index(" seed 1") == lines[1].index(" seed 1")


def on_rows(screen, width):
    """The rows of the terminal, each a line that fits it."""
    assert max(map(len, screen.text.splitlines())) <= width
    return screen.text.splitlines()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_word_of_what_a_study_prints_is_broken(width, terminal):
    screen = terminal(width)
    error = "the train loss became nan at iteration 300, after a rate that was too large for it"
    ended_study([POLICY], "diverged", error)
    with StudyDisplay() as display:
        display.note("stopping all trainings of the study: another Ctrl-C ends them at once")
    text = " ".join(" ".join(on_rows(screen, width)).split())
    assert error in text and text.endswith("another Ctrl-C ends them at once")


def test_a_row_of_a_training_continues_below_its_numbers(terminal):
    screen = terminal(60)
    with TrainingDisplay() as display:
        measured, row = begun()
        display.on_event("begin", measured)
        display.on_event("row", row)
    lines = on_rows(screen, 60)
    assert lines[-1] == "        Top-1 50.00 %, best 50.00 %"
    assert "loss" in lines[-2] and lines[-2].endswith("test")


@pytest.mark.parametrize("width", [40, 60])
def test_the_error_of_a_command_line_is_broken_at_words(width, terminal):
    from lrbench_caffe.cli import main

    screen = terminal(width)
    with pytest.raises(SystemExit) as end:
        main(["train", "solver.prototxt", "--until-top1", "99", "--no-model"])
    assert end.value.code == 2
    on_rows(screen, width)


def test_the_rates_and_losses_of_a_training_are_sketched(terminal):
    screen = terminal()
    with TrainingDisplay() as display:
        trial, row = begun()
        display.on_event("begin", trial)
        for iteration in range(5000):
            display.on_event("progress", progress(iteration, 5000, loss=1 - iteration / 5000))
        display.on_event("row", row)
        lines = shown(screen).splitlines()
    assert lines[-2].startswith("  loss       0.0002  ██▇") and lines[-2].endswith("▁▁")
    assert lines[-1] == "  Top-1 %     50.00  █  best 50.00"


def test_a_wait_is_shown_only_after_a_second(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr(bar, "WAITING_DELAY", 1000)
    with waits.shown_by(bar.waiting), waits.waiting("starting PostgreSQL"):
        assert shown(screen) == ""
    monkeypatch.setattr(bar, "WAITING_DELAY", 0)
    with waits.shown_by(bar.waiting), waits.waiting("starting PostgreSQL"):
        wait_until(lambda: "starting PostgreSQL ..." in shown(screen))
    with waits.waiting("something that nobody shows"):
        assert shown(screen) == ""


def test_bytes_are_shown_as_megabytes(terminal):
    screen = terminal()
    with ProgressDisplay() as display:
        display("importing trials.jsonl", 1240000, 9900000)
        assert "1.2/9.9 MB" in shown(screen) and "12 %" in screen.text
        display("exporting trials", 1200, None)
        assert "1,200" in shown(screen) and "%" not in screen.text
