"""What comes from outside: an export's lines, read one by one and checked before any of them is used.

Every complaint is an InputError with the file and the line.  Memory does not grow with the file.
"""

import hashlib
import json
import math
import re
import uuid

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Policy
from lrbench_caffe.trial import (
    RUNNING,
    STATES,
    Dataset,
    Evaluation,
    Framework,
    Network,
    Setup,
    Trial,
    from_dict,
)

VERSION = 1
LONGEST = 4 << 20  # bytes of a line, which JSON may turn into thirty times as many in memory
SHARED = ("origin", "framework", "network", "dataset", "policy")
TRIAL = (
    "id",
    "origin",
    "framework",
    "network",
    "dataset",
    "policy",
    "classes",
    "solver",
    "seed",
    "host",
    "attempt",
    "resumed_at",
    "blas",
    "threads",
    "state",
    "started",
    "ended",
    "error",
)
ROW = (
    "iteration",
    "lr",
    "train_loss",
    "test_loss",
    "top1",
    "top5",
    "ac",
    "cd",
    "cdac",
    "ld",
    "resumed_at",
    "class_confidence",
)
INT32 = 2**31 - 1
SMALLEST = 1e-37  # that PostgreSQL's real holds with all its digits
# The texts of policies as this program writes them: what is parsed further is known to be no riddle for a parser.
_VALUE = r"(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|[a-z]\w*|\[\d+(?:, \d+)*\])"
_PIECE = r"[A-Z]\w*\(\w+=%s(?:, \w+=%s)*\)" % (_VALUE, _VALUE)
_POLICY = re.compile("%s(?: for \\d+ then %s)*" % (_PIECE, _PIECE), re.ASCII)
_CAFFES = re.compile(r"[a-z]+\(\w+=[^\"\\\n]*\)", re.ASCII)  # a schedule that only Caffe has
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_STORED = re.compile(r"[\x00\ud800-\udfff]")  # an error is what a log said, colours and all


class Wrong(ValueError):
    """What is wrong with a line, without its place."""


def wrong(path, line, what):
    """The InputError for a line of a file."""
    return InputError("%s, line %d: %s; nothing was imported" % (path, line, what))


def read(file, progress=lambda position: None):
    """Yield (kind, line number, content) for the checked lines between the first and the last of an open binary file.

    Shared content has its keys in the order of the documentation, so have trials (TRIAL) and rows (ROW).  Raises InputError.
    """
    line, position, checksum, trials, last = 0, 0, hashlib.sha256(), 0, None
    counts = dict.fromkeys(SHARED, 0)
    ended = False
    while True:
        data = file.readline(LONGEST + 1)
        if not data:
            break
        line += 1
        try:
            if ended:
                raise Wrong("there is more after the end")
            if len(data) > LONGEST:
                raise Wrong("it is longer than %d MB" % (LONGEST >> 20))
            kind, content = _parsed(data)
            if (line == 1) != (kind == "lrbench"):
                raise Wrong(
                    'this is no export of lrbench, whose first line says {"lrbench": ...}'
                    if line == 1
                    else "a second beginning"
                )
            if kind == "lrbench":
                _version(content)
            elif kind == "end":
                ended = True
                _check_end(content, trials, checksum)
            elif kind == "rows":
                if last is None:
                    raise Wrong("rows without a trial above them")
                last = _check_rows(content, last)
                yield kind, line, content
            elif kind == "trial":
                trials, last = trials + 1, -1
                yield kind, line, _check_trial(content, counts)
            elif kind in SHARED:
                counts[kind] += 1
                yield kind, line, _CHECKS[kind](content)
            else:
                raise Wrong(
                    "%s is no kind of line: it is one of lrbench, %s, trial, rows, end"
                    % (_short(kind), ", ".join(SHARED))
                )
        except Wrong as error:
            raise wrong(file.name, line, error) from None
        checksum.update(data)
        position += len(data)
        if line % 500 == 0:
            progress(position)
    if not ended:
        raise wrong(
            file.name,
            line + 1,
            "the file ends before its last line, which has the checksum: it was cut off",
        )


def trials(path):
    """The Trials of an export, with all their rows, without a database.  Raises InputError for a file that is not right."""
    shared, found, rows = {kind: [] for kind in SHARED}, [], []
    try:
        with open(path, "rb") as file:
            for kind, _, content in read(file):
                if kind == "rows":
                    rows[-1] += content
                elif kind == "trial":
                    found.append(content)
                    rows.append([])
                else:
                    shared[kind].append(content)
    except OSError as error:
        raise InputError("the export %s cannot be read: %s" % (path, error.strerror)) from None
    return [
        _trial(content, {kind: shared[kind][content[kind] - 1] for kind in SHARED}, own)
        for content, own in zip(found, rows)
    ]


def _trial(content, shared, rows):
    """The Trial that a checked line, what it refers to and its rows describe."""
    setup = Setup(
        Framework(**shared["framework"]),
        Network(**shared["network"]),
        from_dict(Dataset, shared["dataset"]),
        content["classes"],
        content["solver"],
        content["seed"],
    )
    own = {
        name: content[name]
        for name in TRIAL
        if name in Trial.__annotations__ and name not in SHARED
    }
    policy = dict(shared["policy"], policy=shared["policy"]["text"])
    policy.pop("text")
    evaluations = tuple(from_dict(Evaluation, dict(zip(ROW, row))) for row in rows)
    return Trial(setup=setup, rows=evaluations, origin=shared["origin"]["name"], **policy, **own)


def _parsed(data):
    try:
        value = json.loads(
            data.decode("utf-8"), parse_int=_parse_int, parse_constant=_parse_constant
        )
    except Wrong:
        raise
    except UnicodeDecodeError:
        raise Wrong("it is not UTF-8 text") from None
    except RecursionError:
        raise Wrong("it is nested too deeply") from None
    except ValueError as error:
        raise Wrong("it is no JSON (%s)" % error) from None
    if type(value) is not dict or len(value) != 1:
        raise Wrong('it is no object with one key, such as {"trial": ...}')
    return next(iter(value.items()))


def _parse_int(digits):
    if len(digits) > 20:
        raise Wrong("a number with %d digits" % len(digits))
    return int(digits)


def _parse_constant(name):
    raise Wrong("%s is no number" % name)


def _version(content):
    version = _fields(content, ("version", "made"))["version"]
    if type(version) is not int or version != VERSION:
        raise Wrong(
            "it is version %s of the format and this program reads %d: update lrbench_caffe"
            % (_short(version), VERSION)
        )
    _text(content, "made", 1, 500)


def _check_end(content, trials, checksum):
    _fields(content, ("trials", "sha256"))
    if content["trials"] != trials:
        raise Wrong("the file has %d trials and not %s" % (trials, _short(content["trials"])))
    if content["sha256"] != checksum.hexdigest():
        raise Wrong("the checksum does not fit: the file was changed or damaged")


def _check_rows(rows, last):
    """The iteration of the last row, which are checked in place."""
    if type(rows) is not list:
        raise Wrong("rows is no list")
    for row in rows:
        if type(row) is not list or len(row) != len(ROW):
            raise Wrong("a row is no list of %d values" % len(ROW))
        iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at, classes = (
            row
        )
        if not (type(iteration) is int and last < iteration <= INT32):
            raise Wrong("iteration %s is no whole number above the one before" % _short(iteration))
        last = iteration
        for value in row[1:10]:
            if value is not None and type(value) is not float and type(value) is not int:
                raise Wrong(
                    "%s in the row of iteration %d is no number" % (_short(value), iteration)
                )
        if top1 is None or not 0 <= top1 <= 1 or top5 is None or not 0 <= top5 <= 1:
            raise Wrong("the accuracies of iteration %d are no shares from 0 to 1" % iteration)
        if not (
            (ac is None or 0 <= ac <= 1.00001)
            and (cd is None or 0 <= cd <= 1.00001)
            and (cdac is None or 0 <= cdac <= 1.00001)
        ):
            raise Wrong("a confidence of iteration %d is not from 0 to 1" % iteration)
        if not (
            (lr is None or -1e308 < lr < 1e308)
            and (train_loss is None or -1e308 < train_loss < 1e308)
            and (test_loss is None or -1e308 < test_loss < 1e308)
            and (ld is None or 0 <= ld < 1e308)
        ):
            raise Wrong("a loss or rate of iteration %d is out of range" % iteration)
        if resumed_at is not None and not (
            type(resumed_at) is int and 0 <= resumed_at <= iteration
        ):
            raise Wrong(
                "resumed_at %s of iteration %d is no iteration before it"
                % (_short(resumed_at), iteration)
            )
        if classes is not None:
            if type(classes) is not list or not all(
                c is None or (type(c) in (int, float) and (c == 0 or SMALLEST <= c <= 1.00001))
                for c in classes
            ):
                raise Wrong("class_confidence of iteration %d is no list of shares" % iteration)
    return last


def _check_trial(trial, counts):
    _fields(trial, TRIAL)
    _uuid(trial, "id")
    for kind in SHARED:
        key = trial[kind]
        if not (type(key) is int and 1 <= key <= counts[kind]):
            raise Wrong("%s %s is not among the %d above" % (kind, _short(key), counts[kind]))
    for name, low, high, optional in (
        ("classes", 1, INT32, True),
        ("seed", 0, 2**63 - 1, False),
        ("attempt", 1, INT32, False),
        ("resumed_at", 0, INT32, True),
        ("threads", 1, INT32, True),
    ):
        _whole(trial, name, low, high, optional)
    _text(trial, "host", 0, 500)
    _text(trial, "blas", 0, 500, optional=True)
    _text(trial, "error", 0, 100000, optional=True, never=_NOT_STORED)
    _plain_object(trial, "solver")
    _check_solver(trial["solver"])
    if trial["state"] not in STATES:
        raise Wrong("state %s is none of %s" % (_short(trial["state"]), ", ".join(STATES)))
    for name in ("started", "ended"):
        value = trial[name]
        if not (
            (type(value) in (int, float) and 0 <= value < 1e11)
            or (value is None and name == "ended")
        ):
            raise Wrong("%s %s is no time in seconds since the epoch" % (name, _short(value)))
    if (trial["ended"] is None) != (trial["state"] == RUNNING):
        raise Wrong("a trial has an end exactly when it does not run")
    return trial


def _check_solver(solver):
    """That the settings which this program reckons with are what Caffe has them as."""
    for name in ("max_iter", "test_interval", "iter_size", "batch_size"):
        if name in solver:
            _whole(solver, name, 1, INT32, True)
    momentum = solver.get("momentum")
    if momentum is not None and type(momentum) not in (int, float):
        raise Wrong("momentum %s is no number" % _short(momentum))
    if "type" in solver:
        _text(solver, "type", 1, 500)


def _origin(content):
    _fields(content, ("database", "name"))
    _uuid(content, "database")
    _text(content, "name", 1, 500)
    return {name: content[name] for name in ("database", "name")}


def _framework(content):
    _fields(content, ("name", "version"))
    _text(content, "name", 1, 500)
    _text(content, "version", 1, 500)
    return {name: content[name] for name in ("name", "version")}


def _network(content):
    _fields(content, ("name", "hash", "prototxt"))
    _text(content, "name", 1, 500)
    _text(content, "prototxt", 0, LONGEST)
    if content["hash"] != hashlib.sha256(content["prototxt"].encode()).hexdigest():
        raise Wrong("the network's hash is not that of its prototxt")
    return {name: content[name] for name in ("name", "hash", "prototxt")}


def _dataset(content):
    _fields(content, ("name", "shape", "train_samples", "test_samples"))
    _text(content, "name", 1, 500)
    shape = content["shape"]
    if shape is not None and not (
        type(shape) is list
        and len(shape) < 20
        and all(type(n) is int and 0 < n <= INT32 for n in shape)
    ):
        raise Wrong("shape %s is no list of whole numbers above 0" % _short(shape))
    _whole(content, "train_samples", 0, 2**63 - 1, True)
    _whole(content, "test_samples", 0, 2**63 - 1, True)
    return {name: content[name] for name in ("name", "shape", "train_samples", "test_samples")}


def _policy(content):
    _fields(content, ("text", "function", "parameters", "n_params"))
    _text(content, "text", 1, 1000000)
    _text(content, "function", 1, 500)
    _whole(content, "n_params", 0, INT32)
    text = content["text"]
    if _CAFFES.fullmatch(text):
        if text.partition("(")[0] != content["function"]:
            raise Wrong(
                "the policy's function %s is not that of its text %s"
                % (_short(content["function"]), _short(text))
            )
        _plain_object(content, "parameters")
        return {name: content[name] for name in ("text", "function", "parameters", "n_params")}
    if not _POLICY.fullmatch(text):
        raise Wrong(
            "cannot read the policy %s: it is not written as this program writes policies"
            % _short(text)
        )
    try:
        policy = Policy.parse(text)
    except InputError as error:
        raise Wrong(str(error)) from None
    same = {
        "text": str(policy),
        "function": policy.function,
        "parameters": json.loads(json.dumps(policy.parameters)),
        "n_params": policy.n_params,
    }
    if same != content:
        raise Wrong(
            "the policy's function and parameters are not those of its text %s" % _short(text)
        )
    return same


_CHECKS = {
    "origin": _origin,
    "framework": _framework,
    "network": _network,
    "dataset": _dataset,
    "policy": _policy,
}


def _fields(content, names):
    if type(content) is not dict:
        raise Wrong("it is no object")
    for name in names:
        if name not in content:
            raise Wrong("%s is missing" % name)
    for name in content:
        if name not in names:
            raise Wrong("%s is not known here" % _short(name))
    return content


def _text(content, name, least, most, optional=False, never=_NOT_TEXT):
    value = content[name]
    if value is None and optional:
        return
    if type(value) is not str:
        raise Wrong("%s %s is no text" % (name, _short(value)))
    if not least <= len(value) <= most:
        raise Wrong("%s has %d characters and not %d to %d" % (name, len(value), least, most))
    if never.search(value) or (most == 500 and ("\n" in value or "\r" in value)):
        raise Wrong("%s has characters that are no text" % name)


def _whole(content, name, low, high, optional=False):
    value = content[name]
    if value is None and optional:
        return
    if type(value) is not int or not low <= value <= high:
        raise Wrong("%s %s is no whole number from %d to %d" % (name, _short(value), low, high))


def _uuid(content, name):
    value = content[name]
    try:
        if type(value) is not str or str(uuid.UUID(value)) != value:
            raise ValueError
    except ValueError:
        raise Wrong("%s %s is no UUID" % (name, _short(value))) from None


def _plain_object(content, name):
    """An object of numbers, texts, and lists of them."""
    value = content[name]
    if type(value) is not dict or len(value) > 1000:
        raise Wrong("%s is no object" % name)
    for key, item in value.items():
        items = item if type(item) is list else [item]
        for one in [key] + items:
            if type(one) is str and not (len(one) <= 10000 and not _NOT_TEXT.search(one)):
                raise Wrong("%s has text that is too long or no text" % name)
            if not (
                one is None
                or type(one) in (str, int, bool)
                or (type(one) is float and math.isfinite(one))
            ):
                raise Wrong(
                    "%s has %s for %s: only numbers, texts and lists of them are known"
                    % (name, _short(one), _short(key))
                )


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
