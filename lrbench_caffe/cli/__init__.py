"""The command line ``lrbench``.

A command turns its arguments into calls of the package and prints the results; nothing is computed
here. Commands import what they need when they run, which keeps ``lrbench --help`` fast. Their
docstrings are the texts that it prints.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from lrbench_caffe import __version__
from lrbench_caffe.cli import data, database, paper, reports, search, studies, training
from lrbench_caffe.display.printable import printable
from lrbench_caffe.errors import DatabaseUnavailable, InputError, TrialError

FAILED, INVALID_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses


class _InterruptHandler:
    """Handles SIGINT as Python does, and records that it did.

    An import may swallow the KeyboardInterrupt; later code finds the record in ``called``.
    """

    called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.called = True
        raise KeyboardInterrupt


class _Commands(click.Group):
    """Prints the errors that a user can cause as one line, and exits with their status."""

    def invoke(self, context: click.Context) -> object:
        # The signal kills the process until now, see lrbench_caffe.__main__.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, _InterruptHandler())
        try:
            return super().invoke(context)
        except InputError as error:
            _exit(error, INVALID_INPUT)
        except (TrialError, DatabaseUnavailable) as error:
            _exit(error, FAILED)
        except KeyboardInterrupt:
            _exit("interrupted", INTERRUPTED)
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            sys.stderr.close()
            sys.exit(FAILED)
        except OSError as error:
            _exit(error, FAILED)


def _exit(message: object, status: int) -> NoReturn:
    line = " ".join(str(message).splitlines())
    click.echo("lrbench: %s" % printable(line), err=True)
    sys.exit(status)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="lrbench")
def main() -> None:
    """Find good learning rate policies, and train Caffe solver prototxts under them."""


for command in (
    training.train,
    training.demo,
    studies.study,
    search.range_command,
    search.tune,
    search.recommend,
    reports.rank,
    reports.plot,
    reports.report,
    reports.serve,
    paper.reproduce,
    database.db,
    data.data,
):
    main.add_command(command)
