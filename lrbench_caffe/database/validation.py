"""Checks of the lines of an export, which may come from anybody.

Each check raises :class:`InvalidLine` with the first problem that it finds. What passes can be
inserted into the database and parsed by this program: types, ranges and sizes are those of the
tables, and the text of a policy is one that this program writes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from typing import Any, Callable, Iterable, Mapping

from lrbench_caffe.database.columns import (
    EVALUATION_COLUMNS,
    WIDTH_WITHOUT_TAIL,
    imported_row,
)
from lrbench_caffe.database.export_format import (
    MAX_LINE_BYTES,
    SHARED_FIELDS,
    SHARED_KINDS,
    TRIAL_FIELDS,
    VERSION,
)
from lrbench_caffe.errors import InputError
from lrbench_caffe.metrics import loss_difference
from lrbench_caffe.policies import Policy, caffe_schedules
from lrbench_caffe.trial import HEAD_METRICS, RUNNING, SET_METRICS, STATES

MAX_VALUE = 1e39  # of losses and rates: Caffe computes in single precision, which ends at 3.4e38
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_MAX_NAME = 500  # characters of the SQL domain "title"
_MAX_CONFIDENCE = 1.00001  # softmax outputs in single precision may be rounded above 1
_MIN_REAL = 1e-37  # the smallest number that PostgreSQL's real holds with all its digits
_CLOCK_ERROR = 86400  # seconds by which the clocks of two machines may differ
_LD_ERROR = 1e-4  # relative to the losses, of earlier versions that rounded
_MAX_DIGITS = 20  # of a whole number

# The texts of policies as this program writes them. Only these are parsed further, so that no
# text can make the parser slow.
_VALUE = r"(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|[a-z]\w*|\[\d+(?:, \d+)*\])"
_PIECE = r"[A-Z]\w*\(\w+=%s(?:, \w+=%s)*\)" % (_VALUE, _VALUE)
_POLICY = re.compile("%s(?: for \\d+ then %s)*" % (_PIECE, _PIECE), re.ASCII)

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_STORABLE = re.compile(r"[\x00\ud800-\udfff]")  # errors come from logs, which may have colors


class InvalidLine(ValueError):
    """The problem of a line, without the line's number."""


def _invalid(name: str, value: object, expected: str, iteration: int | None = None) -> InvalidLine:
    """The error for the value of a field, in the row of an iteration or elsewhere."""
    message = "invalid %s=%s, expected %s" % (name, shortened(value), expected)
    return InvalidLine(message if iteration is None else "iteration %d: %s" % (iteration, message))


def parse_line(line: bytes) -> tuple[str, Any]:
    """Parse a line of an export.

    Returns:
        The line's kind and its content.

    Raises:
        InvalidLine: The line is not a JSON object with one key.
    """
    try:
        value = json.loads(
            line.decode("utf-8"), parse_int=_parse_int, parse_constant=_reject_constant
        )
    except InvalidLine:
        raise
    except UnicodeDecodeError:
        raise InvalidLine("the line is not UTF-8 text") from None
    except RecursionError:
        raise InvalidLine("the line is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidLine("the line is not JSON at column %d" % error.colno) from None
    if type(value) is not dict or len(value) != 1:
        raise InvalidLine('the line is not an object with one key, such as {"trial": ...}')
    kind, content = next(iter(value.items()))
    return kind, content


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise InvalidLine("a number has %d digits, the limit is %d" % (len(digits), _MAX_DIGITS))
    return int(digits)


def _reject_constant(name: str) -> None:
    raise InvalidLine("%s is not a number" % name)


def check_version(content: Any) -> None:
    """Check the content of the first line.

    Raises:
        InvalidLine: It has an unknown version of the format, or is malformed.
    """
    _check_fields(content, ("version", "made"))
    version = content["version"]
    if type(version) is not int or version != VERSION:
        raise InvalidLine(
            "the file has version %s of the export format, but this program reads version %d: "
            "update lrbench_caffe" % (shortened(version), VERSION)
        )
    _check_text(content, "made", 1, _MAX_NAME)


def check_end(content: Any, trials: int, checksum: str) -> None:
    """Check the content of the last line.

    Args:
        content: The content.
        trials: How many trials the file has.
        checksum: The SHA-256 of all previous lines, in hex.

    Raises:
        InvalidLine: The content does not match the file.
    """
    _check_fields(content, ("trials", "sha256"))
    if content["trials"] != trials:
        raise InvalidLine(
            "the file has %d trials, but its last line expects %s"
            % (trials, shortened(content["trials"]))
        )
    if content["sha256"] != checksum:
        raise InvalidLine("the checksum does not match: the file was changed or damaged")


def check_rows(rows: Any, previous: int, trial: Mapping[str, Any]) -> int:
    """Check the rows of a trial.

    Args:
        rows: The content of a "rows" line.
        previous: The iteration of the trial's previous row, or -1.
        trial: The checked content of the trial's line.

    Returns:
        The iteration of the last row.

    Raises:
        InvalidLine: A row is malformed, the iterations do not increase, or a row contradicts the
            trial.
    """
    if type(rows) is not list:
        raise InvalidLine("rows is not a list")
    max_iter = trial["solver"].get("max_iter")
    last = _INT32_MAX if max_iter is None else max_iter
    for row in rows:
        previous = _check_row(row, previous, last, trial["classes"])
    return previous


def _check_row(row: Any, previous: int, last: int, n_classes: int | None) -> int:
    """Check a row and return its iteration, which is after previous and at most last."""
    width = len(EVALUATION_COLUMNS)
    if type(row) is not list or not WIDTH_WITHOUT_TAIL <= len(row) <= width:
        raise InvalidLine("a row is not a list of %d to %d values" % (WIDTH_WITHOUT_TAIL, width))
    row = imported_row(row)
    iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at = row[:11]
    classes, heads, measured_on, other_sets = row[11:]
    if not (type(iteration) is int and previous < iteration <= last):
        raise _invalid(
            "iteration",
            iteration,
            "a whole number above the previous iteration, %d, and at most %d" % (previous, last),
        )
    for value in (lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld):
        if value is not None and type(value) is not float and type(value) is not int:
            names = (name for name, item in zip(EVALUATION_COLUMNS, row) if item is value)
            raise _invalid(next(names), value, "a number", iteration)
    _check_ranges(iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld)
    if resumed_at is not None and not (type(resumed_at) is int and 0 <= resumed_at <= iteration):
        raise _invalid("resumed_at", resumed_at, "an iteration before this one", iteration)
    if classes is not None:
        _check_confidences(iteration, classes, n_classes)
    if heads is not None and not _are_heads(heads):
        raise _invalid("heads", heads, "the metrics of other heads by their names", iteration)
    if not _is_name(measured_on):
        raise _invalid("measured_on", measured_on, "the name of a set", iteration)
    if other_sets is not None and not _are_sets(other_sets):
        raise _invalid("other_sets", other_sets, "the metrics on other sets by name", iteration)
    return iteration


def _check_ranges(
    iteration: int,
    lr: float | None,
    train_loss: float | None,
    test_loss: float | None,
    top1: float | None,
    top5: float | None,
    ac: float | None,
    cd: float | None,
    cdac: float | None,
    ld: float | None,
) -> None:
    """Check that the metrics of a row are in the ranges of the table's columns."""
    if (top1, top5) != (None, None) and not (_is_share(top1) and _is_share(top5)):
        raise InvalidLine(
            "iteration %d: invalid top1=%s, top5=%s, expected numbers from 0 to 1, or null for both"
            % (iteration, top1, top5)
        )
    if top1 is not None and top5 is not None and top1 > top5:
        raise InvalidLine("iteration %d: top1=%s is above top5=%s" % (iteration, top1, top5))
    if not (
        (ac is None or 0 <= ac <= _MAX_CONFIDENCE)
        and (cd is None or 0 <= cd <= _MAX_CONFIDENCE)
        and (cdac is None or 0 <= cdac <= _MAX_CONFIDENCE)
    ):
        raise InvalidLine(
            "iteration %d: invalid ac=%s, cd=%s, cdac=%s, expected numbers from 0 to 1 or null"
            % (iteration, ac, cd, cdac)
        )
    if not (
        (lr is None or 0 <= lr < MAX_VALUE)
        and (train_loss is None or -MAX_VALUE < train_loss < MAX_VALUE)
        and (test_loss is None or -MAX_VALUE < test_loss < MAX_VALUE)
        and (ld is None or 0 <= ld < MAX_VALUE)
    ):
        raise InvalidLine(
            "iteration %d: lr=%s, train_loss=%s, test_loss=%s or ld=%s is out of range"
            % (iteration, lr, train_loss, test_loss, ld)
        )
    if ld is not None and not _is_loss_difference(ld, train_loss, test_loss):
        raise InvalidLine(
            "iteration %d: ld=%s is not the difference of train_loss=%s and test_loss=%s"
            % (iteration, ld, train_loss, test_loss)
        )


def _is_loss_difference(ld: float, train_loss: float | None, test_loss: float | None) -> bool:
    if train_loss is None or test_loss is None:
        return False
    error = _LD_ERROR * max(abs(train_loss), abs(test_loss))
    return abs(ld - loss_difference(test_loss, train_loss)) <= error


def _is_share(value: float | None) -> bool:
    return value is not None and 0 <= value <= 1


def _are_heads(heads: Any) -> bool:
    """Whether these are the metrics of heads by the heads' names."""
    return type(heads) is dict and all(
        _is_name(name)
        and type(metrics) is dict
        and set(metrics) == set(HEAD_METRICS)
        and all(value is None or _is_confidence(value) for value in metrics.values())
        for name, metrics in heads.items()
    )


def _are_sets(sets: Any) -> bool:
    """Whether these are the metrics on sets of samples by the sets' names."""
    return type(sets) is dict and all(
        _is_name(name)
        and type(metrics) is dict
        and set(metrics) == set(SET_METRICS)
        and all(
            value is None
            or (
                type(value) in (int, float) and abs(value) < MAX_VALUE
                if metric in ("test_loss", "ld")
                else _is_confidence(value)
            )
            for metric, value in metrics.items()
        )
        for name, metrics in sets.items()
    )


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= _MAX_NAME and not _NOT_STORABLE.search(value)


def _is_confidence(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _MAX_CONFIDENCE


def _check_confidences(iteration: int, classes: Any, n_classes: int | None) -> None:
    """Check the confidences of the classes; n_classes is None if their number is unknown."""
    if not _are_confidences(classes):
        raise _invalid("class_confidence", classes, "a list of numbers from 0 to 1", iteration)
    if n_classes is not None and len(classes) != n_classes:
        raise InvalidLine(
            "iteration %d: class_confidence has %d values for %d classes"
            % (iteration, len(classes), n_classes)
        )


def _are_confidences(values: Any) -> bool:
    """Whether this is a list of confidences, or of None for classes without a correct sample."""
    return type(values) is list and all(
        value is None
        or (type(value) in (int, float) and (value == 0 or _MIN_REAL <= value <= _MAX_CONFIDENCE))
        for value in values
    )


def check_trial(trial: Any, counts: Mapping[str, int]) -> None:
    """Check the content of a "trial" line.

    Args:
        trial: The content.
        counts: How many lines of each shared kind the file has above it.

    Raises:
        InvalidLine: The trial is malformed, or refers to a line that is not above it.
    """
    _check_fields(trial, TRIAL_FIELDS)
    _check_uuid(trial, "id")
    for kind in SHARED_KINDS:
        number = trial[kind]
        if not (type(number) is int and 1 <= number <= counts[kind]):
            raise _invalid(
                kind, number, "the number of a %s line above, of %d" % (kind, counts[kind])
            )
    _check_whole_number(trial, "classes", 1, _INT32_MAX, optional=True)
    _check_whole_number(trial, "seed", 0, _INT64_MAX)
    _check_whole_number(trial, "attempt", 1, _INT32_MAX)
    _check_whole_number(trial, "resumed_at", 0, _INT32_MAX, optional=True)
    _check_whole_number(trial, "threads", 1, _INT32_MAX, optional=True)
    _check_text(trial, "host", 0, _MAX_NAME)
    _check_text(trial, "blas", 0, _MAX_NAME, optional=True)
    _check_text(trial, "error", 0, 100000, optional=True, forbidden=_NOT_STORABLE)
    _check_flat_object(trial, "solver")
    _check_solver(trial["solver"])
    if trial["state"] not in STATES:
        raise _invalid("state", trial["state"], "one of %s" % ", ".join(STATES))
    _check_time(trial, "started")
    _check_time(trial, "ended", optional=True)
    if (trial["ended"] is None) != (trial["state"] == RUNNING):
        raise InvalidLine("ended must be null for a running trial, and only then")
    if trial["ended"] is not None and trial["ended"] < trial["started"]:
        raise InvalidLine(
            "the trial ended=%s before it started=%s" % (trial["ended"], trial["started"])
        )


def _check_solver(solver: dict[str, Any]) -> None:
    """Check the settings with which this program calculates; they have Caffe's types."""
    for name in ("max_iter", "test_interval", "iter_size", "batch_size", "select_samples"):
        if name in solver:
            _check_whole_number(solver, name, 1, _INT32_MAX, optional=True)
    momentum = solver.get("momentum")
    if momentum is not None and type(momentum) not in (int, float):
        raise _invalid("momentum", momentum, "a number")
    scale = solver.get("scale")
    if scale is not None and type(scale) not in (int, float):
        raise _invalid("scale", scale, "a number")
    weights = solver.get("weights")
    if weights is not None and not (
        isinstance(weights, list) and all(isinstance(name, str) for name in weights)
    ):
        raise _invalid("weights", weights, "a list of names")
    for name in ("type", "select", "report"):
        if name in solver:
            _check_text(solver, name, 1, _MAX_NAME)


def checked_shared(kind: str, content: Any) -> dict[str, Any]:
    """Check the content of a line that trials share.

    Args:
        kind: One of SHARED_KINDS.
        content: The content.

    Returns:
        The content with its fields in the order of SHARED_FIELDS.

    Raises:
        InvalidLine: The content is malformed.
    """
    _check_fields(content, SHARED_FIELDS[kind])
    content = _SHARED_CHECKS[kind](content)
    return {name: content[name] for name in SHARED_FIELDS[kind]}


def _checked_origin(content: dict[str, Any]) -> dict[str, Any]:
    _check_uuid(content, "database")
    _check_text(content, "name", 1, _MAX_NAME)
    return content


def _checked_framework(content: dict[str, Any]) -> dict[str, Any]:
    _check_text(content, "name", 1, _MAX_NAME)
    _check_text(content, "version", 1, _MAX_NAME)
    return content


def _checked_network(content: dict[str, Any]) -> dict[str, Any]:
    _check_text(content, "name", 1, _MAX_NAME)
    _check_text(content, "prototxt", 0, MAX_LINE_BYTES)
    if content["hash"] != hashlib.sha256(content["prototxt"].encode()).hexdigest():
        raise InvalidLine("the network's hash is not the SHA-256 of its prototxt")
    return content


def _checked_dataset(content: dict[str, Any]) -> dict[str, Any]:
    _check_text(content, "name", 1, _MAX_NAME)
    shape = content["shape"]
    if shape is not None and not (
        type(shape) is list
        and len(shape) < 20
        and all(type(size) is int and 0 < size <= _INT32_MAX for size in shape)
    ):
        raise _invalid("shape", shape, "a list of whole numbers above 0")
    _check_whole_number(content, "train_samples", 0, _INT64_MAX, optional=True)
    _check_whole_number(content, "test_samples", 0, _INT64_MAX, optional=True)
    return content


def _checked_policy(content: dict[str, Any]) -> dict[str, Any]:
    """Check a policy; one that this program can parse is returned as the program writes it."""
    _check_text(content, "text", 1, 1000000)
    _check_text(content, "function", 1, _MAX_NAME)
    _check_whole_number(content, "n_params", 0, _INT32_MAX)
    text = content["text"]
    schedule = caffe_schedules.parse(text)
    if schedule is not None:
        function, parameters = schedule
        n_params = sum(len(v) if isinstance(v, list) else 1 for v in parameters.values())
        return _same_policy(content, text, function, parameters, n_params)
    if not _POLICY.fullmatch(text):
        raise InvalidLine(
            "cannot read the policy %s: it is not written as this program writes policies"
            % shortened(text)
        )
    try:
        policy = Policy.parse(text)
    except InputError as error:
        raise InvalidLine(str(error)) from None
    parameters = json.loads(json.dumps(policy.parameters))
    return _same_policy(content, str(policy), policy.function, parameters, policy.n_params)


def _same_policy(
    content: dict[str, Any], text: str, function: str, parameters: dict[str, Any], n_params: int
) -> dict[str, Any]:
    """Return a policy that was computed from its text, if its line has the same."""
    parsed = {"text": text, "function": function, "parameters": parameters, "n_params": n_params}
    if not _are_in_range(parameters):
        raise InvalidLine("a parameter of the policy %s is out of range" % shortened(text))
    if parsed != content:
        raise InvalidLine(
            "the policy's function and parameters do not match its text %s"
            % shortened(content["text"])
        )
    return parsed


def _are_in_range(value: Any) -> bool:
    """Whether all numbers in a policy's parameters are below MAX_VALUE."""
    if isinstance(value, dict):
        return all(map(_are_in_range, value.values()))
    if isinstance(value, list):
        return all(map(_are_in_range, value))
    return not isinstance(value, (int, float)) or abs(value) < MAX_VALUE


_SHARED_CHECKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "origin": _checked_origin,
    "framework": _checked_framework,
    "network": _checked_network,
    "dataset": _checked_dataset,
    "policy": _checked_policy,
}


def _check_fields(content: Any, names: Iterable[str]) -> None:
    """Check that the content is an object with exactly these fields."""
    if type(content) is not dict:
        raise InvalidLine("the content is not an object")
    for name in names:
        if name not in content:
            raise InvalidLine("the field %s is missing" % name)
    for name in content:
        if name not in names:
            raise InvalidLine("the field %s is unknown" % shortened(name))


def _check_text(
    content: dict[str, Any],
    name: str,
    shortest: int,
    longest: int,
    optional: bool = False,
    forbidden: re.Pattern[str] = _CONTROL_CHARACTERS,
) -> None:
    """Check the length and the characters of a text; a name has one line."""
    value = content[name]
    if value is None and optional:
        return
    if type(value) is not str:
        raise _invalid(name, value, "text")
    if not shortest <= len(value) <= longest:
        raise InvalidLine(
            "%s has %d characters, expected %d to %d" % (name, len(value), shortest, longest)
        )
    if forbidden.search(value) or (longest == _MAX_NAME and ("\n" in value or "\r" in value)):
        raise InvalidLine("%s has control characters, expected text" % name)


def _check_whole_number(
    content: dict[str, Any], name: str, lowest: int, highest: int, optional: bool = False
) -> None:
    value = content[name]
    if value is None and optional:
        return
    if type(value) is not int or not lowest <= value <= highest:
        raise _invalid(name, value, "a whole number from %d to %d" % (lowest, highest))


def _check_time(content: dict[str, Any], name: str, optional: bool = False) -> None:
    value = content[name]
    if value is None and optional:
        return
    if not (type(value) in (int, float) and 0 <= value < 1e11):
        raise _invalid(name, value, "seconds since the epoch")
    if value > time.time() + _CLOCK_ERROR:
        raise InvalidLine(
            "%s=%s is in the future: check the clocks of this machine and of the one that wrote "
            "the file" % (name, value)
        )


def _check_uuid(content: dict[str, Any], name: str) -> None:
    value = content[name]
    try:
        if type(value) is not str or str(uuid.UUID(value)) != value:
            raise ValueError
    except ValueError:
        raise _invalid(name, value, "a UUID") from None


def _check_flat_object(content: dict[str, Any], name: str) -> None:
    """Check an object of numbers, texts and lists of them."""
    value = content[name]
    if type(value) is not dict or len(value) > 1000:
        raise _invalid(name, value, "an object of at most 1000 fields")
    for key, field in value.items():
        items = field if type(field) is list else [field]
        for item in [key, *items]:
            if type(item) is str and (len(item) > 10000 or _CONTROL_CHARACTERS.search(item)):
                raise InvalidLine("%s has a text that is too long or has control characters" % name)
            if not _is_scalar(item):
                raise InvalidLine(
                    "%s: invalid value %s for %s, expected a number, a text or a list of them"
                    % (name, shortened(item), shortened(key))
                )


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or type(value) in (str, int, bool)
        or (type(value) is float and abs(value) < MAX_VALUE)
    )


def shortened(value: object) -> str:
    """Return a value's repr for a message, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
