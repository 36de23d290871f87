"""``python -m lrbench_caffe`` is the command ``lrbench``."""

import signal


def main():
    """Run the command line; a Ctrl-C before a command has begun ends the process without a word."""
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # not ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lrbench_caffe.cli import main as commands

    commands(prog_name="lrbench")


if __name__ == "__main__":  # the processes of a local Dask cluster import it under another name
    main()
