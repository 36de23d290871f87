"""The tables that explain learning rate functions and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.display.sketch import sketch
from lrbench_caffe.display.table import KEY, Column, Table
from lrbench_caffe.policies import Policy
from lrbench_caffe.policies.catalogue import LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrbench_caffe.policies.catalogue import Entry as FunctionEntry
    from lrbench_caffe.ranking.glossary import Entry as MetricEntry

SKETCH_WIDTH = 20
UNKNOWN_CURVE = "it depends"  # on the evaluations


def functions(entries: Iterable[FunctionEntry]) -> Table:
    """Return a table of learning rate functions with a sketch of each."""
    columns = (
        Column("function", "function", importance=KEY),
        Column(None, "family"),
        Column("its rate", None, importance=80),
        Column("parameters", "parameters"),
        Column("what it does", "meaning", importance=KEY),
        Column(None, "formula"),
        Column(None, "example"),
    )
    return Table(None, columns, tuple(_function_row(entry) for entry in entries))


def _function_row(entry: FunctionEntry) -> tuple[object, ...]:
    return (
        entry.function,
        entry.family,
        curve(entry),
        ", ".join(entry.parameters),
        entry.meaning,
        entry.formula,
        entry.example,
    )


def curve(entry: FunctionEntry) -> str:
    """Return a sketch of the example of a function."""
    if entry.follows_evaluations:
        return UNKNOWN_CURVE
    policy = Policy.parse(entry.example)
    return sketch([policy(t) for t in range(LENGTH)], SKETCH_WIDTH)


def parameters(entry: FunctionEntry) -> Table:
    """Return a table of the parameters of a function."""
    columns = (
        Column("parameter", "parameter", importance=KEY),
        Column("what it is", "meaning", importance=KEY),
        Column("expected", "expected", importance=KEY),
    )
    rows = ((name, *texts) for name, texts in entry.parameters.items())
    return Table(None, columns, tuple(rows))


def metrics(entries: Iterable[MetricEntry]) -> Table:
    """Return a table of metrics."""
    columns = (
        Column("metric", None, importance=KEY),
        Column("--by", "metric", importance=KEY),
        Column("better", "better"),
        Column("what it measures", "meaning", importance=KEY),
        Column(None, "formula"),
        Column(None, "use"),
    )
    rows = (
        (entry.title, entry.name, entry.better, entry.meaning, entry.formula, entry.use)
        for entry in entries
    )
    return Table(None, columns, tuple(rows))
