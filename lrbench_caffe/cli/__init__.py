"""The command line ``lrbench``.

A command turns its arguments into calls of the package and prints the results; nothing is computed
here. Commands import what they need when they run, which keeps ``lrbench --help`` fast. Their
docstrings are the texts that it prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, ContextManager, NoReturn

import click
import cloup

from lrbench_caffe import __version__, interrupts, waits
from lrbench_caffe.cli import (
    completion,
    data,
    database,
    explain,
    listing,
    models,
    paper,
    reports,
    search,
    studies,
    training,
)
from lrbench_caffe.cli.help import Group
from lrbench_caffe.display.printable import printable
from lrbench_caffe.errors import (
    DatabaseUnavailable,
    InputError,
    JournalsRefused,
    TrialError,
    Undelivered,
    counted,
)

# Exit statuses. WAITING and REFUSED: everything was measured, but the database does not have all of
# it. It will accept what waits, but not what it has refused.
FAILED, INVALID_INPUT, WAITING, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130


class _InterruptHandler:
    """Handles a signal as Python handles SIGINT, and records that it did.

    So a command that is terminated cleans up as after Ctrl-C: it leaves no unfinished files. An
    import may swallow the KeyboardInterrupt; later code finds the record in ``called``.
    """

    called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.called = True
        raise KeyboardInterrupt


def _handle_signals() -> None:
    """Handle the signals that killed the process until now, see lrbench_caffe.__main__."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _InterruptHandler())


class _Commands(Group):
    """Prints the errors that a user can cause as one line, and exits with their status."""

    def invoke(self, context: click.Context) -> object:
        if threading.current_thread() is threading.main_thread():  # others cannot handle signals
            _handle_signals()
        waiting = _journals()  # of earlier commands, if the process runs several
        try:
            with interrupts.recorded(), waits.shown_by(_show_waiting):
                result = super().invoke(context)
        except click.UsageError as error:
            raise _at_words(error) from None
        except KeyboardInterrupt as error:
            _exit(": ".join(filter(None, ["interrupted", str(error)])), INTERRUPTED)
        except (InputError, TrialError, DatabaseUnavailable) as error:
            journals = _journals() - waiting
            message = "; ".join(filter(None, [str(error), _remark(journals)]))
            _exit(message, _status_of_error(error, journals))
        journals = _journals() - waiting
        if journals:
            _exit(_remark(journals), _status_of_journals(journals))
        return result

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        """Run a command; also report that its output cannot be written."""
        status: str | int | None = FAILED
        message: object = None
        try:
            super().main(*arguments, **options)
        except SystemExit as end:
            status = end.code
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            pass
        except OSError as error:
            message = _output_error(error) if error.filename is None else error
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries again when it ends
            status = FAILED
            message = None if isinstance(error, BrokenPipeError) else _output_error(error)
        if message is not None:
            _exit(message, FAILED)
        sys.exit(status)


def _show_waiting(activity: str) -> ContextManager[None]:
    """Show what the program waits for, see :mod:`lrbench_caffe.waits`."""
    from lrbench_caffe.display import progress

    return progress.waiting(activity)


def _output_error(error: OSError) -> str:
    return "cannot write the output (%s)" % (error.strerror or error)


def _status_of_error(error: Exception, journals: set[str]) -> int:
    """The exit status of a command with this error, and with journals that it has left."""
    if isinstance(error, TrialError):
        return FAILED
    if journals:  # the database went away during the command
        return _status_of_journals(journals)
    if isinstance(error, Undelivered):
        return REFUSED if isinstance(error, JournalsRefused) else WAITING
    return INVALID_INPUT if isinstance(error, InputError) else FAILED


def _journals() -> set[str]:
    """The journals of this process with measurements that the database does not have."""
    database = sys.modules.get("lrbench_caffe.database")
    return set(database.undelivered()) if database else set()


def _status_of_journals(journals: set[str]) -> int:
    return REFUSED if _are_refused(journals) else WAITING


def _are_refused(journals: set[str]) -> bool:
    from lrbench_caffe.database.delivery import REFUSED as ENDING

    return all(path.endswith(ENDING) for path in journals)


def _remark(journals: set[str]) -> str | None:
    """A sentence about journals with measurements that the database does not have."""
    if not journals:
        return None
    folder = os.path.dirname(min(journals))
    if _are_refused(journals):
        return (
            "the database refuses rows of %s, which are kept in %s: `lrbench db journals` prints "
            "the reason; without its cause, `lrbench db deliver` delivers them"
            % (counted(len(journals), "training"), folder)
        )
    return (
        "the rows of %s wait in %s and are not in the database yet: `lrbench db deliver` "
        "delivers them, or prints the reason; `lrbench db journals` lists them"
        % (counted(len(journals), "training"), folder)
    )


def _at_words(error: click.UsageError) -> click.UsageError:
    """An error in a command line; for a terminal, its message is broken at words."""
    prints_help = type(error).show is not click.UsageError.show  # of a group without a command
    if prints_help or not sys.stderr.isatty():
        return error
    from lrbench_caffe.display import console

    width = console.plain_console(stderr=True).width
    lines = ("Error: " + error.format_message()).split("\n")
    text = "\n".join(console.at_words(line, width) for line in lines)
    return click.UsageError(text[len("Error: ") :], error.ctx)


def _exit(message: object, status: int) -> NoReturn:
    line = " ".join(str(message).splitlines())
    with contextlib.suppress(OSError):  # the status remains if nobody can read the message
        if sys.stderr.isatty():
            from lrbench_caffe.display import console

            console.print_line("lrbench: " + line, aside=True)
        else:
            click.echo("lrbench: %s" % printable(line), err=True)
    sys.exit(status)


_BEGINNING = """\
LRBench finds good learning rate policies for Caffe solvers.
Begin with one of these:

  lrbench demo                     train the 13 functions on small images
  lrbench train SOLVER.prototxt    train your solver and record its metrics
  lrbench range SOLVER.prototxt    find the good constant learning rates
  lrbench tune SOLVER.prototxt     find a good policy for your solver

lrbench --help lists all commands, and lrbench COMMAND --help explains one."""


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="lrbench")
@click.pass_context
def main(context: click.Context) -> None:
    """Find good learning rate policies, and train Caffe solver prototxts under them."""
    if context.invoked_subcommand is None:
        click.echo(_BEGINNING)


_SECTIONS = (
    ("Train", (data.data, training.train, studies.study, training.demo)),
    ("Find a policy", (search.range_command, search.tune, search.recommend, reports.plot)),
    (
        "Compare",
        (reports.rank, reports.report, reports.serve, models.weights, paper.reproduce),
    ),
    ("Look up", (listing.ls, listing.show, listing.trials, explain.policies, explain.metrics)),
    ("Share and look after", (database.db, explain.about, completion.completion)),
)
for title, commands in _SECTIONS:
    section = cloup.Section(title, commands, is_sorted=False)
    main.add_section(section)
    if listing.show in commands:
        main.add_command(listing.show, "trial", section=section)
