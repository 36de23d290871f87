"""One self-contained HTML page: the content as JSON, beside the scripts that draw it and plotly.js.

Nothing is fetched from anywhere: a Content-Security-Policy in the page forbids it.  Whatever comes from the database is JSON data
that the scripts put into the page as text, never as HTML.
"""

import base64
import functools
import hashlib
import html
import importlib.util
import json
import os
import re
import tempfile

from lrbench_caffe.errors import InputError

FOLDER = os.path.dirname(os.path.abspath(__file__))
# Caffe's names for the parameters in the text of a policy that only Caffe has, which are the solver's own fields.
_CAFFES = re.compile(r"([a-z]+)\((.*)\)$")


def write(path, content):
    """Write the page on a content (see :func:`lrbench_caffe.report.content.read`); returns its size in bytes."""
    data = render(content).encode()
    folder = os.path.dirname(os.path.abspath(path))
    try:  # a reader never sees half a page
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lrbench-", delete=False) as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(file.name, 0o666 & ~umask)
        os.replace(file.name, path)
    except OSError as error:
        raise InputError(
            "the report cannot be written to %s (%s): name another file" % (path, error.strerror)
        ) from None
    return len(data)


def render(content, live=False):
    """The page's HTML.  live: it asks the server that it came from for newer content."""
    scripts = [plotly_js(), _part("table.js"), _part("charts.js"), _part("page.js")]
    sources = " ".join(
        "'sha256-%s'" % base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in scripts
    )
    policy = (
        "default-src 'none'; script-src %s; style-src 'unsafe-inline'; img-src data: blob:; connect-src %s; base-uri 'none'; "
        "form-action 'none'" % (sources, "'self'" if live else "'none'")
    )
    return _part("page.html").format(
        policy=html.escape(policy),
        title=html.escape(content["title"]),
        style=_part("page.css"),
        content=as_json(content)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029"),
        live=" data-live" if live else "",
        scripts="\n".join("<script>%s</script>" % script for script in scripts),
    )


def as_json(content):
    """The content as the page reads it."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def lines_to_paste(policy):
    """The lines of a solver prototxt that train under a policy, by its canonical text."""
    caffes = _CAFFES.match(policy)
    if not caffes:
        return 'lr_policy: "%s"' % policy
    lines = ['lr_policy: "%s"' % caffes.group(1)]
    for name, values in re.findall(r"(\w+)=(\[[^\]]*\]|[^,]+)", caffes.group(2)):
        lines += ["%s: %s" % (name, value.strip()) for value in values.strip("[]").split(",")]
    return "\n".join(lines)


@functools.lru_cache(maxsize=1)
def plotly_js():
    """plotly.js, as the Python package plotly brings it.  The package itself, which takes a second to import, is not needed."""
    found = importlib.util.find_spec("plotly")
    if found is None:
        raise InputError("the report needs plotly, which this Python has not: pip install plotly")
    path = os.path.join(os.path.dirname(found.origin), "package_data", "plotly.min.js")
    with open(path, encoding="utf-8") as file:
        return file.read().replace("</script", "<\\/script")


@functools.lru_cache(maxsize=None)
def _part(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()
