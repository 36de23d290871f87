"""``python -m lrbench_caffe`` is the command ``lrbench``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line.

    Until a command begins, Ctrl-C ends the process without a message: the imports would show a
    traceback.
    """
    # SIGINT may be ignored instead, for example in the background of a script; it stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lrbench_caffe.cli import main as commands

    commands(prog_name="lrbench")


if __name__ == "__main__":
    main()
