"""Reads an export line by line; every line is checked before it is used.

The problem of a file is an InputError with the file and the line. The memory that :func:`read`
needs does not grow with the file.
"""

from __future__ import annotations

import hashlib
from typing import IO, Any, Callable, Iterator

from lrbench_caffe.database.columns import EVALUATION_COLUMNS
from lrbench_caffe.database.export_format import (
    MAX_LINE_BYTES,
    SHARED_KINDS,
    TRIAL_FIELDS,
)
from lrbench_caffe.database.validation import (
    InvalidLine,
    check_end,
    check_rows,
    check_trial,
    check_version,
    checked_shared,
    parse_line,
    shortened,
)
from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial, from_dict

_LINES_PER_REPORT = 500
_NOT_AN_EXPORT = 'the file is not an export of LRBench, whose first line is {"lrbench": ...}'


def line_error(path: str, line: int, problem: object) -> InputError:
    """Return the error for a line of an export, counted from 1."""
    return InputError("%s, line %d: %s; nothing was imported" % (path, line, problem))


def read(
    file: IO[bytes], progress: Callable[[int], None] = lambda position: None
) -> Iterator[tuple[str, int, Any]]:
    """Read the lines between the first and the last line of an export.

    Args:
        file: The open export.
        progress: Called now and then with the position in the file, in bytes.

    Yields:
        The kind, the number and the checked content of each line. The fields of shared lines are
        in the order of SHARED_FIELDS.

    Raises:
        InputError: The file is not a valid export.
    """
    checker = _ExportChecker()
    position = 0
    for line in iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""):
        try:
            record = checker.check(line)
        except InvalidLine as problem:
            raise line_error(file.name, checker.lines, problem) from None
        if record is not None:
            yield record
        position += len(line)
        if checker.lines % _LINES_PER_REPORT == 0:
            progress(position)
    if not checker.lines:
        raise line_error(file.name, 1, "the file is empty, so it is not an export of LRBench")
    if not checker.ended:
        raise line_error(
            file.name,
            checker.lines + 1,
            "the last line with the checksum is missing: the file was cut off",
        )


class _ExportChecker:
    """Checks the lines of one export in their order.

    Attributes:
        lines: How many lines have been checked, including the current one.
        ended: Whether the last of them ends the export.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.ended = False
        self._trials = 0
        self._iteration: int | None = None  # of the last row; -1 before a trial's first row
        self._trial: dict[str, Any] = {}  # the last one, which the rows belong to
        self._counts = dict.fromkeys(SHARED_KINDS, 0)
        self._checksum = hashlib.sha256()

    def check(self, line: bytes) -> tuple[str, int, Any] | None:
        """Return the kind, the number and the content of the next line.

        The first and the last line give None. Raises InvalidLine.
        """
        self.lines += 1
        if self.ended:
            raise InvalidLine("the file continues after its last line")
        try:
            kind, content = _parsed(line)
        except InvalidLine:
            if self.lines > 1:
                raise
            raise InvalidLine(_NOT_AN_EXPORT) from None
        if self.lines == 1 and kind != "lrbench":
            raise InvalidLine(_NOT_AN_EXPORT)
        if self.lines > 1 and kind == "lrbench":
            raise InvalidLine("the file has a second first line")
        content = self._checked(kind, content)
        self._checksum.update(line)
        return None if content is None else (kind, self.lines, content)

    def _checked(self, kind: str, content: Any) -> Any:
        """The checked content of a line, or None for the first and the last line."""
        if kind == "lrbench":
            check_version(content)
            return None
        if kind == "end":
            self.ended = True
            check_end(content, self._trials, self._checksum.hexdigest())
            return None
        if kind == "rows":
            if self._iteration is None:
                raise InvalidLine("the rows have no trial above them")
            self._iteration = check_rows(content, self._iteration, self._trial)
        elif kind == "trial":
            self._trials, self._iteration = self._trials + 1, -1
            check_trial(content, self._counts)
            self._trial = content
        elif kind in SHARED_KINDS:
            self._counts[kind] += 1
            content = checked_shared(kind, content)
        else:
            raise InvalidLine(
                "%s is not a kind of line: expected lrbench, %s, trial, rows or end"
                % (shortened(kind), ", ".join(SHARED_KINDS))
            )
        return content


def _parsed(line: bytes) -> tuple[str, Any]:
    """The kind and the content of a line."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidLine("the line is longer than %d MB" % (MAX_LINE_BYTES >> 20))
    return parse_line(line)


def trials(path: str) -> list[Trial]:
    """Return the trials of an export, with all their rows, without a database.

    Args:
        path: The export.

    Raises:
        InputError: The file cannot be read or is not a valid export.
    """
    shared: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SHARED_KINDS}
    contents: list[dict[str, Any]] = []
    rows: list[list[list[Any]]] = []
    try:
        with open(path, "rb") as file:
            for kind, _, content in read(file):
                if kind == "rows":
                    rows[-1] += content
                elif kind == "trial":
                    contents.append(content)
                    rows.append([])
                else:
                    shared[kind].append(content)
    except OSError as error:
        raise InputError(
            "the export %s cannot be read (%s): name a file that `lrbench db export` has written"
            % (path, error.strerror)
        ) from None
    return [
        _trial(content, {kind: shared[kind][content[kind] - 1] for kind in SHARED_KINDS}, own_rows)
        for content, own_rows in zip(contents, rows)
    ]


def _trial(
    content: dict[str, Any], shared: dict[str, dict[str, Any]], rows: list[list[Any]]
) -> Trial:
    """The trial of a "trial" line, of the shared lines that it refers to, and of its rows."""
    setup = Setup(
        framework=Framework(**shared["framework"]),
        network=Network(**shared["network"]),
        dataset=from_dict(Dataset, shared["dataset"]),
        classes=content["classes"],
        solver=content["solver"],
        seed=content["seed"],
    )
    policy = shared["policy"]
    own_fields = {
        name: content[name]
        for name in TRIAL_FIELDS
        if name in Trial.__annotations__ and name not in SHARED_KINDS
    }
    return Trial(
        policy=policy["text"],
        function=policy["function"],
        parameters=policy["parameters"],
        n_params=policy["n_params"],
        setup=setup,
        rows=tuple(from_dict(Evaluation, dict(zip(EVALUATION_COLUMNS, row))) for row in rows),
        origin=shared["origin"]["name"],
        **own_fields,
    )
