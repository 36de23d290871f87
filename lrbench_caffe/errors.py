"""The errors that a user sees: what can be mended by other input, and what ended a training."""

import re


class InputError(ValueError):
    """Something given cannot be used; its text is one sentence: what, where, and what to do instead."""


class TrialError(RuntimeError):
    """A training ended on its own; its text is one sentence, with what Caffe said last."""


class DatabaseUnavailable(RuntimeError):
    """The database could not be reached, or not finish, just now; what was asked of it can be asked again."""


def fatal_message(log):
    """What Caffe said in its last fatal log line, with the lines that go on from it, or None."""
    lines = log.splitlines()
    fatal = [i for i, line in enumerate(lines) if re.match(r"F\d{4} [^\]]*\] ", line)]
    if not fatal:
        return None
    message = [lines[fatal[-1]].split("] ", 1)[1]]
    for line in lines[fatal[-1] + 1 :]:
        if line.startswith("***"):
            break
        message.append(line)
    return " ".join(" ".join(message).split())[:500]


def last_log_line(log):
    """The last line of Caffe's log, without what glog writes before a message, or None."""
    lines = [line for line in log.splitlines() if line.strip()]
    return (
        " ".join(re.sub(r"^[IWEF]\d{4} [^\]]*\] ", "", lines[-1]).split())[:500] if lines else None
    )
