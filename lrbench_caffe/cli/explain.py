"""Commands that explain: policies, metrics and about."""

from __future__ import annotations

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.options import database_option, format_option


def _complete_function(context: click.Context, option: click.Parameter, start: str) -> list[str]:
    from lrbench_caffe.policies import catalogue

    names = (entry.function for entry in catalogue.entries())
    return [name for name in names if name.startswith(start.upper())]


def _complete_metric(context: click.Context, option: click.Parameter, start: str) -> list[str]:
    from lrbench_caffe.ranking import METRICS

    return [name for name in METRICS if name.startswith(start.lower())]


@command()
@click.argument("function", required=False, shell_complete=_complete_function)
@format_option
def policies(function: str | None, format: str) -> None:
    """Explain the learning rate functions, with a sketch of each.

    With the name of a FUNCTION: its formula, its parameters and a larger sketch.
    """
    from lrbench_caffe.display import console, explanations
    from lrbench_caffe.policies import Policy, catalogue

    if function is None:
        console.print_tables(explanations.functions(catalogue.entries()), format=format)
        if format == "table":
            console.print_line("the formula and the parameters of one: `lrbench policies SIN2`")
        return
    entry = catalogue.entry(function)
    if format != "table":
        console.print_tables(explanations.functions([entry]), format=format)
        return
    console.print_line("%s: %s" % (entry.function, entry.meaning))
    if entry.formula:
        console.print_line("%s, with %s" % (catalogue.FORMULA_2, entry.formula))
    console.print_tables(explanations.parameters(entry))
    if entry.follows_evaluations:
        console.print_line("for example %s; the evaluations decide its rate" % entry.example)
        return
    from lrbench_caffe.report import plots

    plots.rates([Policy.parse(entry.example)], catalogue.LENGTH, terminal=True)
    hints.show("policies", policy=entry.example)


@command()
@click.argument("metric", required=False, shell_complete=_complete_metric)
@format_option
def metrics(metric: str | None, format: str) -> None:
    """Explain the metrics that policies are ranked by.

    With the name of a METRIC: its formula and what it is used for.
    """
    from lrbench_caffe.display import console, explanations
    from lrbench_caffe.ranking import glossary

    entries = glossary.entries() if metric is None else (glossary.entry(metric),)
    if metric is None or format != "table":
        console.print_tables(explanations.metrics(entries), format=format)
        return
    entry = entries[0]
    console.print_line("%s (--by %s): %s" % (entry.title, entry.name, entry.meaning))
    console.print_line("%s; %s is better" % (entry.formula, entry.better))
    console.print_line(entry.use)
    hints.show("metrics", metric=entry.name)


@command()
@format_option
@database_option
def about(format: str, dsn: str | None) -> None:
    """Print the versions and places that a bug report needs."""
    from lrbench_caffe import about as facts
    from lrbench_caffe.display import console, tables

    console.print_tables(tables.facts(facts.collect(dsn)), format=format)
