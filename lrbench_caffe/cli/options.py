"""Options that several commands share, as decorators."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, TypeVar

import click

from lrbench_caffe.cli.numbers import Number, WholeNumber
from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from lrbench_caffe.study.cluster import Cluster
    from lrbench_caffe.study.cores import Cores

Command = TypeVar("Command", bound=Callable[..., Any])
Filters = Dict[str, Optional[str]]  # keyword arguments of lrbench_caffe.database.Store.trials

ITERATIONS = WholeNumber(1, 2**31 - 1)  # Caffe counts them with 32 bits
SEED = WholeNumber(0, 2**32 - 1)
SEEDS = WholeNumber(1, 10000)
FORMATS = ("table", "markdown", "csv", "json", "latex")
MEASURED = ("head", "test_net", "select", "validation")  # fields of lrbench_caffe.trial.Job
FILTERS = ("study", "dataset", "network", "function", "policy", "state", "origin")


def _without_password(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | None:
    """The DSN, with a note if it has a password: other users can read a command line."""
    if value is not None and has_password(value):
        from lrbench_caffe.display import console

        console.print_line(
            "note: every user of this machine can read the password in --dsn while the command "
            "runs: put it into ~/.pgpass or PGPASSWORD, or the whole DSN into LRBENCH_DSN",
            aside=True,
        )
    return value


def has_password(dsn: str) -> bool:
    """Return whether a DSN has a password."""
    return bool(_PASSWORD.search(dsn))


_PASSWORD = re.compile(r"://[^/?#@]*:[^/?#@]+@|\bpassword\s*=")

database_option = click.option(
    "--dsn",
    metavar="DSN",
    callback=_without_password,
    help="PostgreSQL database to use, e.g. postgresql://user@host/lrbench "
    "[default: $LRBENCH_DSN, else a private server]",
)

data_option = click.option(
    "--data",
    metavar="DIR",
    help="Folder in which relative paths in the prototxts are looked up first",
)

_HEAD = click.option(
    "--head",
    metavar="NAME",
    help="Head of the test net to rank by, where it has several: the name of its scores, loss or "
    "Accuracy [default: the one with an Accuracy, or with the largest loss_weight]",
)
_TEST_NET = click.option(
    "--test-net",
    default="0",
    show_default=True,
    metavar="NAME",
    callback=lambda context, option, value: int(value) if value.isdecimal() else value,
    help="Test net whose metrics are reported, where the solver has several: the name of its set, "
    "or its number, counted from 0",
)
_SELECT = click.option(
    "--select",
    metavar="NAME",
    help="Set of samples by which the best evaluation and the best policy are chosen, where the "
    "solver has several test nets: its name or the number of its test net [default: the "
    "validation set, else the set that is reported]",
)
_VALIDATION = click.option(
    "--validation",
    metavar="LMDB",
    help="Validation set: each evaluation measures it, too, on a copy of the first test net, and "
    "--select chooses it by default",
)


def measurement_options(command: Command) -> Command:
    """Add the options that choose what is measured; the command receives them as ``measured``."""

    @functools.wraps(command)
    def with_measured(**options: Any) -> Any:
        return command(measured={name: options.pop(name) for name in MEASURED}, **options)

    return _with_options(with_measured, _HEAD, _TEST_NET, _SELECT, _VALIDATION)


STOPPING_OPTIONS = ("patience", "patience_metric", "min_delta")


def stopping_options(command: Command) -> Command:
    """Add the options for early stopping; the command receives those given as ``stopping``."""

    @functools.wraps(command)
    def with_stopping(**options: Any) -> Any:
        values = {name: options.pop(name) for name in STOPPING_OPTIONS}
        stopping = {name: value for name, value in values.items() if value is not None}
        return command(stopping=stopping, **options)

    return _with_options(
        with_stopping,
        click.option(
            "--patience",
            metavar="N",
            help="End a training early when its metric has not improved for N evaluations, or "
            "for a length such as '2000 iterations' or '3 epochs'",
        ),
        click.option(
            "--patience-metric",
            metavar="METRIC",
            help="Metric that has to improve: top1, test_loss or train_loss [default: top1]",
        ),
        click.option(
            "--min-delta",
            type=Number(0),
            metavar="X",
            help="Smallest improvement of the metric that counts, e.g. 0.0005 [default: any]",
        ),
    )


no_model_option = click.option("--no-model", is_flag=True, help="Do not keep the best model")

format_option = click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="Output format of tables",
)


def view_options(command: Command) -> Command:
    """Add the options that choose what of a table is printed; the command gets it as ``view``."""

    @functools.wraps(command)
    def with_view(columns: str | None, sort: str | None, limit: int | None, **options: Any) -> Any:
        from lrbench_caffe.display.view import View

        names = [name.strip() for name in columns.split(",")] if columns else []
        return command(view=View(tuple(filter(None, names)), sort, limit), **options)

    return _with_options(
        with_view,
        click.option(
            "--columns",
            metavar="NAMES",
            help="Columns to print, e.g. policy,top1,ld [default: those that have room]",
        ),
        click.option(
            "--sort",
            metavar="COLUMN",
            help="Column to sort by, the smallest value first; -COLUMN: the largest first",
        ),
        click.option("--limit", type=WholeNumber(1), metavar="N", help="Print at most N rows"),
    )


ranking_option = click.option(
    "--by",
    metavar="METRICS",
    default="top1",
    show_default=True,
    help="Ranking criterion, in one of three forms. In order, e.g. top1,iterations: a later metric "
    "decides between policies that are tied in the ones before it. Weighted, e.g. "
    "top1=3,iterations=1. By Pareto fronts, e.g. pareto:top1,iterations. The metrics are top1, "
    "top5, ac, cd, cdac, ld, iterations and n_params.",
)


def origin_options(command: Command) -> Command:
    """Add the options that select trials by where they were trained, passed on as ``origin``."""
    return _origin_options(command, "Only trials that")


def prior_options(command: Command) -> Command:
    """Add the options that select what a search starts from, passed on as ``origin``."""
    return _origin_options(command, "Start only from results that")


def _origin_options(command: Command, selected: str) -> Command:
    """Add the two options; their help texts begin with what they select."""

    @functools.wraps(command)
    def with_origin(origin: str | None, local: bool, **options: Any) -> Any:
        from lrbench_caffe.database.names import LOCAL

        if local and origin is not None:
            raise InputError("--local and --origin exclude each other: give one of them")
        if origin == "":
            raise InputError("--origin: invalid name '', expected a name or a UUID")
        return command(origin=LOCAL if local else origin, **options)

    return _with_options(
        with_origin,
        click.option(
            "--origin",
            metavar="NAME",
            help=selected + " were imported from this database: its name or its UUID, as "
            "`lrbench db origins` lists them",
        ),
        click.option("--local", is_flag=True, help=selected + " were trained here"),
    )


def trial_filters(command: Command) -> Command:
    """Add the options that select trials; the command receives them as ``filters``."""

    @functools.wraps(command)
    def with_filters(**options: Any) -> Any:
        values = {name: options.pop(name) for name in FILTERS}
        filters: Filters = {name: value for name, value in values.items() if value is not None}
        return command(filters=filters, **options)

    return _with_options(
        with_filters,
        click.option("--study", metavar="NAME", help="Only trials of this study"),
        click.option(
            "--dataset",
            metavar="NAME",
            help="Only trials on this dataset: its name, or NAME@SHAPE/TRAIN/TEST, e.g. "
            "digits@1x8x8/1397/400, if several datasets have the name",
        ),
        click.option(
            "--network",
            metavar="NAME",
            help="Only trials of this network: its name, its hash, or NAME@HASH with the first "
            "digits of the hash",
        ),
        click.option("--function", metavar="F", help="Only trials under this function, e.g. SIN2"),
        click.option(
            "--policy", metavar="P", callback=_canonical, help="Only trials under this policy"
        ),
        click.option(
            "--state",
            metavar="STATE",
            callback=_checked_state,
            help="Only trials in this state, e.g. finished",
        ),
        origin_options,
    )


def selection_options(command: Command) -> Command:
    """Add the filters, and the options ``host`` and ``since``."""
    return _with_options(
        trial_filters(command),
        click.option("--host", metavar="NAME", help="Only trials of this machine"),
        click.option(
            "--since",
            metavar="TIME",
            callback=_parsed_time,
            help="Only trials that started since then: an age such as 30min, 2h or 3d, or a "
            "time such as 2026-11-27 or 2026-11-27T18:30",
        ),
    )


def _parsed_time(
    context: click.Context, option: click.Parameter, value: str | None
) -> float | None:
    """A time in seconds since the epoch."""
    import datetime
    import time

    if value is None:
        return None
    age = re.fullmatch(r"(\d{1,9}) *(s|min|h|d)", value.strip())
    if age:
        unit = {"s": 1, "min": 60, "h": 3600, "d": 86400}[age.group(2)]
        return time.time() - int(age.group(1)) * unit
    try:
        return datetime.datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError):
        raise InputError(
            "--since: invalid time %r, expected an age such as 30min, 2h or 3d, or a time such as "
            "2026-11-27 or 2026-11-27T18:30" % value[:40]
        ) from None


def _with_options(command: Any, *options: Callable[[Any], Any]) -> Any:
    """The command with options, which ``--help`` lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def _canonical(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The canonical text of a policy; a schedule that only Caffe implements stays as it is."""
    from lrbench_caffe.policies import parse_or_none

    return value if value is None else str(parse_or_none(value) or value)


def _checked_state(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | None:
    from lrbench_caffe.trial import STATES

    if value is not None and value not in STATES:
        raise InputError(
            "--state: invalid state %r, expected one of %s" % (value, ", ".join(STATES))
        )
    return value


class PoolOptions(NamedTuple):
    """The options that choose where trainings run.

    Attributes:
        jobs: The number of parallel trainings, or None.
        gpu: The GPUs as given, such as "0,1" or "all", or None.
        cluster: The address of a Dask scheduler, "local", or None.
    """

    jobs: int | None
    gpu: str | None
    cluster: str | None

    def create(self) -> Cores | Cluster:
        """Create the pool.

        Raises:
            InputError: The GPUs or the address are invalid, or the options contradict each other.
        """
        from lrbench_caffe.study.cores import Cores, parse_gpus

        gpus = parse_gpus(self.gpu) if self.gpu else ()
        if not self.cluster:
            return Cores(self.jobs, gpus)
        from lrbench_caffe.study.cluster import Cluster

        return Cluster(self.cluster, self.jobs, gpus)


def pool_options(command: Command) -> Command:
    """Add the options that choose where trainings run; the command receives them as ``pool``."""

    @functools.wraps(command)
    def with_pool(jobs: int | None, gpu: str | None, cluster: str | None, **options: Any) -> Any:
        return command(pool=PoolOptions(jobs, gpu, cluster), **options)

    return _with_options(
        with_pool,
        click.option(
            "--jobs",
            type=WholeNumber(1, 10000),
            metavar="N",
            help="Number of parallel trainings [default: one per GPU if --gpu is given, else one "
            "per core]",
        ),
        click.option(
            "--gpu", metavar="LIST", help="Distribute the trainings over GPUs, e.g. 0,1 or all"
        ),
        click.option(
            "--cluster",
            metavar="ADDRESS",
            help="Train on the workers of a Dask cluster: its scheduler's address, e.g. "
            "tcp://host:8786, or local to start a cluster on this machine",
        ),
    )


def evaluation_options(kind: str) -> Callable[[Command], Command]:
    """Add the argument and options of commands that train one solver many times.

    Args:
        kind: The first word of the default name of the study.
    """

    def decorate(command: Command) -> Command:
        return _with_options(
            command,
            click.argument("solver", metavar="SOLVER.prototxt"),
            data_option,
            measurement_options,
            click.option(
                "--study",
                "name",
                metavar="NAME",
                help="Study to which the trainings belong; the same name resumes it "
                "[default: %s-NETWORK-DATASET]" % kind,
            ),
            pool_options,
            format_option,
            database_option,
        )

    return decorate
