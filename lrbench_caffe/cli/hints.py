"""What to do next: the line that a command prints last, for people at a terminal.

:data:`NEXT` has the next useful command after each command. {name} stands for a value of the
command that ran. A part in brackets is left out if one of its values is missing. Of several
templates, the first whose values are all there is printed.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from lrbench_caffe.database.names import LOCAL

if TYPE_CHECKING:
    from lrbench_caffe.trial import Trial

_FILTERS = " ".join(
    "[--%s {%s}]" % (name, name)
    for name in ("study", "dataset", "network", "function", "policy", "state", "origin")
)
_FILTERS += " [{local}]"
_MEASURED = "[--data {data}] [--head {head}] [--test-net {test_net}] [--select {select}]"
_MEASURED += " [--validation {validation}]"
_WEIGHTS = "weights {model} --out best.caffemodel [--deploy {deploy}] [--policy {policy}]"

NEXT: dict[str, tuple[str, ...]] = {
    "data digits": ("train {solver} --data {to}",),
    "data mnist": ("train {solver} --data {to}",),
    "data cifar10": ("train {solver} --data {to}",),
    "data split": ("tune SOLVER.prototxt --validation {validation}",),
    "train": (_WEIGHTS, "rank --dataset {dataset} --network {network}"),
    "study run": ("rank --study {name}",),
    "study show": ("rank --study {name}",),
    "study list": ("study show {name}",),
    "demo": ("train SOLVER.prototxt --policy {policy}",),
    "range": ("tune {solver} " + _MEASURED,),
    "tune": ("study show {study}",),
    "recommend": (
        "train {solver} --policy {policy} " + _MEASURED,
        "tune {solver} " + _MEASURED,
        "tune SOLVER.prototxt",
    ),
    "plot": ("train SOLVER.prototxt --policy {policy}",),
    "rank": ("report %s [--by {by}] report.html" % _FILTERS,),
    "report": ("serve %s [--by {by}]" % _FILTERS,),
    "weights": (_WEIGHTS,),
    "reproduce": ("report --study {study} {page}",),
    "ls": ("rank " + _FILTERS,),
    "show": (_WEIGHTS, "rank --dataset {dataset} --network {network}"),
    "policies": ("plot {policy} --terminal",),
    "metrics": ("rank --by {metric}",),
    "db status": ("ls",),
    "db start": ("db shell",),
    "db deliver": ("rank",),
    "db journals": ("db deliver",),
    "db export": ("db import {file}",),
    "db import": ("rank",),
    "db origins": ("rank --origin {origin}",),
}
_PLACES = {"db export": "on another machine"}  # where the next command runs, if not here
# Commands after which there is nothing to do, or that print it themselves.
LAST = (
    "study stop",
    "study delete",
    "serve",
    "about",
    "completion",
    "db stop",
    "db shell",
    "db delete",
)
_NAME, _OPTIONAL = re.compile(r"\{(\w+)\}"), re.compile(r"\[([^\]]*)\]")
_WITHOUT_DSN = ("data", "plot", "policies")  # commands that do not use the database


def next_command(command: str, **values: object) -> str | None:
    """Return the next useful command after a command, None if there is none.

    Args:
        command: The command that ran, without `lrbench`.
        **values: The values for its templates. None, 0 and an empty text count as missing.
    """
    if values.get("origin") == LOCAL:
        values = dict(values, origin=None, local="--local")
    texts = {name: shlex.quote(str(value)) for name, value in values.items() if value}
    for template in NEXT[command]:
        required, optional = template.split("[", 1)[0], _OPTIONAL.findall(template)
        rest = _OPTIONAL.sub("", template)[len(required) :]
        parts = [_filled(required, texts), *(_filled(part, texts) or "" for part in optional)]
        parts.append(_filled(rest, texts))
        if None not in parts:
            return " ".join(["lrbench", *(part.strip() for part in parts if part and part.strip())])
    return None


def show(command: str, format: str = "table", **values: object) -> None:
    """Print the next useful command, if the output of this one is a table on a terminal.

    Args:
        command: As for :func:`next_command`.
        format: The format of the output.
        **values: As for :func:`next_command`.
    """
    from lrbench_caffe.display import console

    text = next_command(command, **values)
    if format != "table" or text is None or not console.is_terminal():
        return
    dsn = _dsn(command)
    if dsn is None:
        return
    place = _PLACES.get(command)
    console.print_hint("next%s: %s%s" % (", " + place if place else "", text, dsn))


def of_trial(trial: Trial) -> dict[str, object]:
    """Return the values of a trial for the commands that may come next: its model, its task."""
    from lrbench_caffe import models

    model = models.find(trial.id)
    return {
        "model": model and trial.id[:8],
        "deploy": model and model.deploy and "deploy.prototxt",
        "dataset": trial.setup.dataset.name,
        "network": trial.setup.network.name,
    }


def _filled(part: str, texts: dict[str, str]) -> str | None:
    """A part of a template with its values, None if one is missing."""
    if not set(_NAME.findall(part)) <= set(texts):
        return None
    return _NAME.sub(lambda name: texts[name.group(1)], part)


def _dsn(command: str) -> str | None:
    """The option for the database that the user named; None if a password would be printed."""
    from lrbench_caffe.cli.options import has_password

    context = click.get_current_context(silent=True)
    dsn = context.params.get("dsn") if context else None
    if not dsn or command in _PLACES or NEXT[command][0].startswith(_WITHOUT_DSN):
        return ""
    return None if has_password(dsn) else " --dsn " + shlex.quote(dsn)
