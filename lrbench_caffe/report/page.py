"""The report as one self-contained HTML page.

The page holds the content as JSON and the scripts that draw it. It loads nothing from elsewhere;
its Content-Security-Policy forbids that. Everything that comes from the database is JSON data. The
scripts put it into the page as text, never as HTML.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import os
from typing import Any

from lrbench_caffe import files
from lrbench_caffe.policies import caffe_schedules, parse_or_none

FOLDER = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = (
    "styles.js",
    "progress.js",
    "table.js",
    "axes.js",
    "drawing.js",
    "interaction.js",
    "charts.js",
    "comparison.js",
    "page.js",
)
_UNKNOWN_POLICY = "# this policy cannot be written into a solver prototxt"
_SCRIPT = "<script>%s</script>"


def write(path: str, content: dict[str, Any]) -> int:
    """Write the page of a report to a file.

    Args:
        path: The HTML file, see :func:`lrbench_caffe.files.open_output`.
        content: What :func:`lrbench_caffe.report.content.load` returns.

    Returns:
        The size of the file in bytes.

    Raises:
        InputError: The file cannot be written.
        BrokenPipeError: The path is a pipe whose reader has closed it.
    """
    data = render(content).encode()
    files.write(path, data, "report")
    return len(data)


def check_path(path: str) -> None:
    """Check, before the content is read, that :func:`write` can write the page to a path.

    Raises:
        InputError: The file cannot be written.
    """
    with files.reported_errors(path, "report"):
        files.check_writable(path)


def render(content: dict[str, Any], live: bool = False) -> str:
    """Return the HTML of the page.

    Args:
        content: What :func:`lrbench_caffe.report.content.load` returns.
        live: Whether the page asks the server that it came from for newer content.
    """
    scripts = [_read(name) for name in SCRIPTS]
    return _read("page.html").format(
        policy=html.escape(_security_policy([_digest(script) for script in scripts], live)),
        title=html.escape(content["title"]),
        style=_read("page.css"),
        content=_json_in_html(content),
        live=" data-live" if live else "",
        scripts="\n".join(_SCRIPT % script for script in scripts),
    )


def _security_policy(digests: list[str], live: bool) -> str:
    """The Content-Security-Policy that allows the scripts with these digests and nothing else."""
    return (
        "default-src 'none'; script-src %s; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src %s; base-uri 'none'; form-action 'none'"
        % (" ".join(digests), "'self'" if live else "'none'")
    )


def _digest(script: str) -> str:
    """The digest of a script in the form of a Content-Security-Policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return "'sha256-%s'" % base64.b64encode(digest).decode()


def _json_in_html(content: dict[str, Any]) -> str:
    """The content as JSON that cannot end the script element around it."""
    text = as_json(content).replace("<", "\\u003c")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def as_json(content: dict[str, Any]) -> str:
    """Return the content as the JSON text that the page's scripts read."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def prototxt_lines(policy: str) -> str:
    r"""Return the lines of a solver prototxt that train under a policy.

    Args:
        policy: The canonical text of a policy, or of a schedule that only Caffe implements, whose
            parameters become fields of the solver.

    Only the fields of a schedule can be in the lines. A text that is neither a policy nor such a
    schedule, which only an import of an earlier version can contain, becomes a comment.

    >>> prototxt_lines("FIX(k0=0.01)")
    'lr_policy: "FIX(k0=0.01)"'
    >>> prototxt_lines("sigmoid(base_lr=0.1, gamma=0.5, stepsize=20)")
    'lr_policy: "sigmoid"\nbase_lr: 0.1\ngamma: 0.5\nstepsize: 20'
    """
    parsed = parse_or_none(policy)
    if parsed is not None:
        return 'lr_policy: "%s"' % parsed
    schedule = caffe_schedules.parse(policy)
    if schedule is None:
        return _UNKNOWN_POLICY
    function, fields = schedule
    lines = ['lr_policy: "%s"' % function]
    for name, value in fields.items():
        lines += ["%s: %s" % (name, item) for item in (value if name == "stepvalue" else [value])]
    return "\n".join(lines)


@functools.lru_cache(maxsize=None)
def _read(name: str) -> str:
    """The text of one of the page's parts."""
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()
