"""Where LRBench keeps its own files."""
import os


def home():
    """The folder of the private database, the journal and the demonstration's data: ``$LRBENCH_HOME``, else as XDG has it."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.abspath(os.environ.get("LRBENCH_HOME") or os.path.join(data, "lrbench"))
