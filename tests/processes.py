"""The processes of trainings, as Linux lists them below a program."""

import contextlib
import glob


def children(pid):
    """The process ids of the children of a process, which any of its threads may have started."""
    listed = []
    for path in glob.glob("/proc/%d/task/*/children" % pid):
        with contextlib.suppress(OSError), open(path) as file:  # the thread may have ended
            listed += map(int, file.read().split())
    return listed


def trainings(pid):
    """The process ids of the trainings of a program, which its fork server has forked."""
    return [training for server in children(pid) for training in children(server)]


def parent(pid):
    """The process id of a process's parent."""
    return int(_status(pid)[1])


def exists(pid):
    """Whether a process exists that has not ended; its parent may not have noticed its end."""
    with contextlib.suppress(OSError):
        return _status(pid)[0] != "Z"
    return False


def _status(pid):
    """The fields of /proc/PID/stat from the state on."""
    with open("/proc/%d/stat" % pid) as file:
        return file.read().rsplit(")", 1)[1].split()
