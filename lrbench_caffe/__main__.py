"""``python -m lrbench_caffe`` is the command ``lrbench``."""
import signal


def main():
    """Run the command line; a Ctrl-C while its modules are imported, when nothing has begun, ends the process without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where it is ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lrbench_caffe.cli import main as commands
    signal.signal(signal.SIGINT, before)
    commands(prog_name="lrbench")


if __name__ == "__main__":  # the processes of a local Dask cluster import it under another name
    main()
