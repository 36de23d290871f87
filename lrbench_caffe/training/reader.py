"""Reads prototxts as protobuf messages, with the result of Caffe's own parser.

Python's parser is fast, but it accepts other texts than Caffe's. It reads the prototxts that it
reads as Caffe does: plain ones. Every other text, and every text that it rejects, is read by the
tools that come with Caffe, which also upgrade nets in Caffe's old formats.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import Any, NamedTuple

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from lrbench_caffe.errors import InputError, fatal_message
from lrbench_caffe.training import encoding

# Caffe's solver types, in the order of the enum of the old field solver_type.
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
_TOOLS = {
    "caffe.SolverParameter": "upgrade_solver_proto_text",
    "caffe.NetParameter": "upgrade_net_proto_text",
}
# The tokens that both parsers read alike. Numbers are decimal and have at most 18 digits; strings
# have only the usual escapes; inf and nan are left to Caffe.
_ESCAPES = r"""[\\"'nrtabfv]|[01][0-7]{2}|x[0-7][0-9a-fA-F]"""
_PLAIN_TOKEN = re.compile(
    r"""[ \t\r\n\f\v]+ | [{}<>\[\]:;,]
    | \#[^\n\0]*
    | "(?:[^"\\\n\0\ud800-\udfff\U0010f780-\U0010f7ff]|\\(?:%s))*"
    | '(?:[^'\\\n\0\ud800-\udfff\U0010f780-\U0010f7ff]|\\(?:%s))*'
    | -?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![0-9a-zA-Z_.+-])
    | (?!(?i:inf|nan))[a-zA-Z_][0-9a-zA-Z_]*(?![+-])
    """
    % (_ESCAPES, _ESCAPES),
    re.VERBOSE,
)
_PYTHON_PROBLEM = re.compile(r"(\d+):(\d+) : (.*)", re.DOTALL)
_CAFFE_PROBLEM = re.compile(r"Error parsing text-format [\w.]+: (?:(\d+):(\d+): )?(.*)")


# The kinds of prototxts, and what to do if another kind is expected.
_KINDS = (
    (caffe_pb2.NetParameter, "a net", "name the solver prototxt that trains it"),
    (caffe_pb2.SolverParameter, "a solver", "name the prototxt of its net"),
)


class _Problem(NamedTuple):
    """Why a parser rejects a text, and where; 0 if it does not report that."""

    line: int
    column: int
    reason: str


def read_solver(path: str) -> caffe_pb2.SolverParameter:
    """Return the SolverParameter in a prototxt, with the field type instead of solver_type.

    Args:
        path: The path of the prototxt.

    Returns:
        The message. Its texts are those of :mod:`lrbench_caffe.training.encoding`.

    Raises:
        InputError: The file cannot be read or parsed; the message has the line and the column.
    """
    solver = _read(path, caffe_pb2.SolverParameter(), "solver prototxt")
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise InputError(
                "%s has both the field type and its old form solver_type: remove solver_type" % path
            )
        solver.type = SOLVER_TYPES[solver.solver_type]
        solver.ClearField("solver_type")
    return solver


def read_net(path: str) -> caffe_pb2.NetParameter:
    """Return the NetParameter in a prototxt, upgraded if it is in one of Caffe's old formats.

    Args:
        path: The path of the prototxt.

    Returns:
        The message. Its texts are those of :mod:`lrbench_caffe.training.encoding`.

    Raises:
        InputError: The file cannot be read or parsed, or Caffe cannot upgrade it.
    """
    net = _read(path, caffe_pb2.NetParameter(), "net prototxt")
    return upgraded(net, path) if net.layers else net


def upgraded(net: caffe_pb2.NetParameter, description: str) -> caffe_pb2.NetParameter:
    """Return a net in one of Caffe's old formats in the present one.

    Args:
        net: A net of 2013 or 2014, with `layers { ... }`.
        description: What the net is, for the error message.

    Raises:
        InputError: Caffe's tool is missing, or it cannot upgrade the net.
    """
    result = caffe_pb2.NetParameter()
    try:
        problem = _parse_with_caffe(encoding.printed(net).encode(), result)
    except FileNotFoundError:
        raise InputError(
            "%s is in Caffe's old format, and upgrade_net_proto_text, which comes with Caffe, was "
            "not found: put it on PATH, or write the net in the present format" % description
        ) from None
    if problem is not None:
        raise InputError(
            "%s is in Caffe's old format and could not be upgraded (%s): write it in the present "
            "format" % (description, problem.reason)
        )
    return result


def _read(path: str, message: Any, description: str) -> Any:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(
            "cannot read the %s %s: %s" % (description, path, error.strerror)
        ) from None
    text = content.decode("utf-8", "surrogateescape")
    problem = _parse_with_python(text, message)
    if problem is not None or not _is_plain(text):
        read_by_caffe = type(message)()
        try:
            problem = _parse_with_caffe(content, read_by_caffe)
            message = read_by_caffe
        except FileNotFoundError:
            pass  # this Caffe has come without its tools
    if problem is not None:
        _check_kind(path, text, message, description)
        raise InputError(
            "%s is not a valid %s: %s%s"
            % (path, description, _place(problem, content), problem.reason)
        )
    return message


def _check_kind(path: str, text: str, message: Any, description: str) -> None:
    """Raise an InputError if a text is a prototxt of another kind than the message."""
    if _parse_with_python(text, type(message)()) is None:
        return  # such as a text without fields, which could be of any kind
    for kind, name, remedy in _KINDS:
        if _parse_with_python(text, kind()) is None:
            raise InputError(
                "%s looks like %s, expected a %s: %s" % (path, name, description, remedy)
            )


def _place(problem: _Problem, content: bytes) -> str:
    """The line and the column of a problem, and the text there."""
    if not problem.line:
        return ""
    lines = content.split(b"\n")[problem.line - 1 : problem.line]
    text = b"".join(lines).expandtabs(8)  # as Caffe counts columns
    text = text[max(0, problem.column - 30) : problem.column + 30]
    near = encoding.readable(encoding.decode(text)).strip()
    return "line %d, column %d, near %r: " % (problem.line, problem.column, near)


def _is_plain(text: str) -> bool:
    """Whether both parsers read a text alike."""
    position = 0
    while position < len(text):
        token = _PLAIN_TOKEN.match(text, position)
        if token is None:
            return False
        position = token.end()
    return True


def _parse_with_python(text: str, message: Any) -> _Problem | None:
    try:
        text_format.Parse(text, message)
    except (text_format.ParseError, ValueError) as error:
        match = _PYTHON_PROBLEM.match(str(error))
        return _problem(*match.groups()) if match else _Problem(0, 0, str(error))
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        return _Problem(0, 0, "required fields are missing: %s" % missing)
    return None


def _parse_with_caffe(content: bytes, message: Any) -> _Problem | None:
    """Fill a message from a prototxt with Caffe's tool, whose exit status counts warnings, too.

    Raises:
        FileNotFoundError: The tool is not installed.
    """
    tool = _TOOLS[message.DESCRIPTOR.full_name]
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder:
        path, output = (os.path.join(folder, name) for name in ("read.prototxt", "out.prototxt"))
        with open(path, "wb") as file:
            file.write(content)
        run = subprocess.run(
            [tool, path, output],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(os.environ, GLOG_log_dir=folder),
        )
        if os.path.exists(output) and run.returncode in (0, 1):
            with open(output, encoding="ascii") as printed:
                encoding.parse_printed(printed.read(), message)
            return None
    log = run.stderr.decode(errors="replace")
    problems = _CAFFE_PROBLEM.findall(log)
    if problems:
        return _problem(*problems[0])
    return _Problem(0, 0, fatal_message(log) or "%s ended with status %d" % (tool, run.returncode))


def _problem(line: str, column: str, reason: str) -> _Problem:
    return _Problem(int(line or 0), int(column or 0), reason.rstrip("."))
