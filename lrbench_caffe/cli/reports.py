"""Commands that show results: rank, plot, report and serve."""

from __future__ import annotations

import contextlib
import gc
import itertools
from typing import TYPE_CHECKING, Any

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.numbers import WholeNumber
from lrbench_caffe.cli.options import (
    ITERATIONS,
    Filters,
    database_option,
    format_option,
    ranking_option,
    trial_filters,
    view_options,
)
from lrbench_caffe.cli.output import command_line, print_remarks, print_tables, print_written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrbench_caffe.database import Store
    from lrbench_caffe.display.view import View
    from lrbench_caffe.ranking import Block, Criterion, Ranked

_DEFAULT_CRITERION = "top1"
MAX_LISTED = 200  # policies in a table for people, unless --limit is given


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the search for garbage in cycles: among many trials it takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@command()
@trial_filters
@ranking_option
@view_options
@format_option
@database_option
@_without_collection()
def rank(filters: Filters, by: str, view: View, dsn: str | None, format: str) -> None:
    """Rank the policies of each task over their seeds.

    Trainings of another length, or with other solver settings, have a table of their own. Policies
    with = at their rank, such as 1=, are tied: their difference is within the noise of the seeds. A
    policy with one seed is placed by its value, because its noise is unknown.

    With --by pareto, rank 1 is the Pareto front. A policy with = has worse means than another one
    of its rank, but the difference is within the noise of the seeds.
    """
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import tables, verdict

    criterion = ranking.parse_criterion(by)
    if format == "table" and view.limit is None:
        view = view._replace(limit=MAX_LISTED)
    # Of thousands of policies, only the rows that are printed are made.
    limit = None if view.sort else view.limit
    with database.Store(dsn) as store:
        database.selection.check(store, filters)
        blocks, entries = _rank(store, filters, criterion, limit)
    rankings = [
        tables.ranked(block, ranked[:limit], criterion.weights)
        for block, ranked in zip(blocks, entries)
    ]
    policies = sum(len({trial.policy for trial in block.trials}) for block in blocks)
    not_made = policies - sum(len(table.rows) for table in rankings)
    print_tables(rankings, format, view, not_made)
    if format == "table":
        print_remarks(verdict.remarks(entries, criterion), format)
    trials = itertools.chain.from_iterable(block.trials for block in blocks)
    print_remarks(ranking.sets_remarks(trials), format)
    print_remarks(ranking.names_remarks((block.dataset, block.network) for block in blocks), format)
    if blocks:
        hints.show("rank", format, **_chosen(filters, by))


def _rank(
    store: Store, filters: Filters, criterion: Criterion, limit: int | None
) -> tuple[list[Block], list[list[Ranked]]]:
    """Rank the policies of each block; only the first ones have all that is printed of them."""
    from lrbench_caffe import ranking

    if limit is None:
        trials = store.results(**filters)
    else:
        trials = store.outcomes(criterion.weights, **filters)
    blocks = ranking.group_comparable(trials)
    first = None if limit is None else max(limit, 2)  # the verdict compares two
    entries = [ranking.rank_block(block, criterion, first) for block in blocks]
    if limit is not None:
        printed = [entry for ranked in entries for entry in ranked[:limit]]
        ids = (trial.id for entry in printed for trial in entry.trials + entry.others)
        complete = store.results_of(ids)
        entries = [
            [entry.with_trials(complete) for entry in ranked[:limit]] + ranked[limit:]
            for ranked in entries
        ]
    return blocks, entries


@command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option(
    "--max-iter",
    type=ITERATIONS,
    metavar="N",
    help="Number of iterations to draw [default: what shows the policies' shape, such as three "
    "cycles, all steps or POLY's l; else 10000]",
)
@click.option(
    "--out", metavar="FILE", help="Picture to write, .png, .svg or .pdf [default: open a window]"
)
@click.option("--terminal", is_flag=True, help="Draw in the terminal")
def plot(policies: tuple[str, ...], max_iter: int | None, out: str | None, terminal: bool) -> None:
    """Draw learning rate policies against the iteration.

    A policy is given as its text, in quotes: "SIN2(k0=0.01, k1=0.06, l=2000)".
    """
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.report import plots

    plots.rates([Policy.parse(policy) for policy in policies], max_iter, out, terminal)
    hints.show("plot", policy=policies[0])


@command()
@trial_filters
@click.argument("out", metavar="OUT.html")
@ranking_option
@database_option
@_without_collection()
def report(filters: Filters, out: str, by: str, dsn: str | None) -> None:
    """Write an HTML report with rankings and training curves.

    The report is a single page that needs no other files. It also shows accuracy against cost, the
    confidence per class, the range test, and the lines for the solver prototxt.
    """
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import progress
    from lrbench_caffe.report import content, page

    criterion = ranking.parse_criterion(by)
    page.check_path(out)
    with database.Store(dsn) as store, progress.ProgressDisplay() as display:
        database.selection.check(store, filters)
        loaded = content.load(store, filters, criterion, display, command_line())
        size = page.write(out, loaded)
    print_written(out, "%.1f MB" % (size / 1e6))
    hints.show("report", **_chosen(filters, by))


def _chosen(filters: Filters, by: str) -> dict[str, Any]:
    """The filters and the criterion of a command, for the next one."""
    return dict(filters, by=None if by == _DEFAULT_CRITERION else by)


@command()
@trial_filters
@ranking_option
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; an address that is not loopback admits other machines",
)
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    metavar="N",
    default=8642,
    show_default=True,
    help="Port to listen on; 0 for any free port",
)
@database_option
def serve(filters: Filters, by: str, host: str, port: int, dsn: str | None) -> None:
    """Serve the report as a live web page while trainings run.

    The server only reads the database. The filters may select trials that have yet to begin.
    """
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import console
    from lrbench_caffe.report import live

    with database.Store(dsn, read_only=True) as store:
        # An unknown study is an error, which serve() reports.
        for sentence in database.selection.remarks(store, dict(filters, study=None)):
            console.print_line(sentence, aside=True)
    live.serve(filters, ranking.parse_criterion(by), host, port, dsn)
