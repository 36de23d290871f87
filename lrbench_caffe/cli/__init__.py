"""The command line: words to calls.  Nothing is computed here; what a command needs is imported when it runs."""

import functools
import signal
import sys

import click

from lrbench_caffe import __version__
from lrbench_caffe.errors import DatabaseUnavailable, InputError, TrialError


class _Interrupt:
    """What SIGINT calls: Python's own handler, but it knows that it was called, since an import may swallow the exception."""

    called = False

    def __call__(self, number, frame):
        self.called = True
        raise KeyboardInterrupt


class _Commands(click.Group):
    """Turns the errors a user can cause into one sentence and an exit status: 2 for input, 1 for a failed training."""

    def invoke(self, context):
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # until now, see __main__
            signal.signal(signal.SIGINT, _Interrupt())
        try:
            return super().invoke(context)
        except InputError as error:
            status = _complain(error, 2)
        except (TrialError, DatabaseUnavailable) as error:
            status = _complain(error, 1)
        except KeyboardInterrupt:
            status = _complain("interrupted", 130)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            sys.stderr.close()
            status = 1
        except OSError as error:
            status = _complain(error, 1)
        sys.exit(status)


def _complain(message, status):
    click.echo("lrbench: %s" % message, err=True)
    return status


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="lrbench")
def main():
    """Find good learning rate policies, and train Caffe solver prototxts under them."""


def _database_option(command):
    return click.option(
        "--dsn",
        metavar="DSN",
        help="PostgreSQL to record in, e.g. postgresql://user@host/lrbench "
        "[default: $LRBENCH_DSN, else a private server]",
    )(command)


def _data_option(command):
    return click.option(
        "--data",
        metavar="DIR",
        help="Folder that relative paths in the prototxts are looked up in first",
    )(command)


def _format_option(command):
    return click.option(
        "--format",
        type=click.Choice(["table", "markdown", "csv", "json", "latex"]),
        default="table",
        show_default=True,
        help="How tables are printed",
    )(command)


def _filters(command):
    """The options that choose trials, passed on as a dict of what Store.trials takes."""

    def chosen(context, option, value):
        from lrbench_caffe.policies import parse_or_none
        from lrbench_caffe.trial import STATES

        if option.name == "state" and value not in STATES + (None,):
            raise InputError(
                "%r is no state of a trial: give one of %s" % (value, ", ".join(STATES))
            )
        if value is not None:
            canonical = (
                parse_or_none(value) if option.name == "policy" else None
            )  # None too for a schedule that only Caffe has
            context.ensure_object(dict)[option.name] = str(canonical or value)

    for name, metavar, text in reversed(
        [
            ("study", "NAME", "Only trials of this study"),
            ("dataset", "NAME", "Only trials on this dataset"),
            ("network", "NAME", "Only trials of this network, by its name or its hash"),
            ("function", "F", "Only policies of this function, e.g. SIN2"),
            ("policy", "P", "Only this policy"),
            ("state", "STATE", "Only trials in this state, e.g. finished"),
        ]
    ):
        command = click.option(
            "--" + name, metavar=metavar, help=text, callback=chosen, expose_value=False
        )(command)
    return click.pass_obj(command)


@main.command()
@click.argument("solver", metavar="SOLVER.prototxt")
@click.option(
    "--policy",
    metavar="P",
    help='Learning rate policy, e.g. "SIN2(k0=0.01, k1=0.06, l=2000)" [default: the '
    "lr_policy in the prototxt]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Caffe's random_seed [default: the prototxt's, else a new one]",
)
@_data_option
@click.option(
    "--gpu",
    type=click.IntRange(0, 1023),
    metavar="N",
    help="Train on this GPU [default: as the prototxt says]",
)
@click.option(
    "--max-iter", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Train for N iterations"
)
@click.option("--resume", metavar="FILE.solverstate", help="Go on from a snapshot")
@click.option("--weights", metavar="FILE.caffemodel", help="Start from these weights")
@click.option(
    "--until-top1",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="End at the first evaluation with this Top-1, e.g. 0.99",
)
@click.option(
    "--snapshot-prefix", metavar="PREFIX", help="Where snapshots go; takes one after training"
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="NAME",
    help="A stage of the train net, as in caffe train",
)
@click.option(
    "--level",
    type=click.IntRange(-(2**31), 2**31 - 1),
    default=0,
    metavar="N",
    help="The level of the train net, as in caffe train",
)
@click.option("--log", metavar="FILE", help="Keep Caffe's own log here")
@click.option("--json", "as_json", is_flag=True, help="Print events as lines of JSON, for programs")
@_format_option
@_database_option
def train(solver, as_json, format, **options):
    """Train a Caffe solver prototxt, measure it, and record every evaluation in PostgreSQL."""
    from lrbench_caffe.display import console, progress
    from lrbench_caffe.study import process

    if as_json:
        trial = process.train(solver, on_event=console.print_event, **options)
    else:
        with progress.TrainingDisplay(format) as shown:
            trial = process.train(solver, on_event=shown.on_event, **options)
    if trial.error:
        raise TrialError("%s; its rows up to there are in the database" % trial.error)


@main.command()
@click.option(
    "--out",
    default="lrbench-demo.png",
    metavar="FILE.png",
    show_default=True,
    help="Where the picture goes",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Trainings at the same time [default: the usable cores]",
)
@_format_option
@_database_option
def demo(out, jobs, dsn, format):
    """Compare all 13 learning rate functions on scikit-learn's handwritten digits."""
    from lrbench_caffe import demo as demonstration

    demonstration.run(out, jobs, dsn, format)


@main.group()
def study():
    """Many trainings under a name: isolated, side by side, and resumable."""


def _pool_options(command):
    """The options that say where trainings run, passed on as pool: a function that makes the pool."""

    def chosen(context, option, value):
        context.meta.setdefault("pool", {})[option.name] = value

    def make():
        given = click.get_current_context().meta["pool"]
        from lrbench_caffe.study.cores import Cores, parse_gpus

        devices = parse_gpus(given["gpu"]) if given["gpu"] else ()
        if not given["cluster"]:
            return Cores(given["jobs"], devices)
        from lrbench_caffe.study.cluster import Cluster

        return Cluster(given["cluster"], given["jobs"], devices)

    @functools.wraps(command)
    def with_pool(**options):
        return command(pool=make, **options)

    for name, kind, metavar, text in reversed(
        [
            (
                "--jobs",
                click.IntRange(1, 10000),
                "N",
                "Trainings at the same time [default: one for each GPU given, else for each core]",
            ),
            ("--gpu", str, "LIST", "Spread the trainings over these GPUs, e.g. 0,1 or all"),
            (
                "--cluster",
                str,
                "ADDRESS",
                "Train on the workers of the Dask cluster with this scheduler, e.g. tcp://host:8786; "
                "local: on one started here",
            ),
        ]
    ):
        with_pool = click.option(
            name, type=kind, metavar=metavar, help=text, callback=chosen, expose_value=False
        )(with_pool)
    return with_pool


@study.command("run")
@click.argument("name")
@click.argument("solver", required=False, metavar="[SOLVER.prototxt]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="A policy to train under; as often as you like",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10000),
    metavar="N",
    help="Train each policy with the seeds 1 to N [default: 1]",
)
@click.option(
    "--max-iter", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Train for N iterations"
)
@_data_option
@_pool_options
@click.option(
    "--prune",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Stop a training whose best Top-1 is more than X, a share "
    "of 1, below the median of the others at its iteration, e.g. 0.2",
)
@click.option("--retry-failed", is_flag=True, help="Train those that failed once more")
@_format_option
@_database_option
def study_run(
    name, solver, policies, seeds, max_iter, data, pool, prune, retry_failed, dsn, format
):
    """Start the study NAME, or go on with it.

    Without SOLVER the study goes on as it is; with it, trainings that the study has not got are added.
    """
    from lrbench_caffe import study as trainings
    from lrbench_caffe.display import progress
    from lrbench_caffe.trial import Job

    for option, value in (
        ("--policy", policies),
        ("--seeds", seeds),
        ("--max-iter", max_iter),
        ("--data", data),
    ):
        if value and not solver:
            raise InputError(
                "%s needs a solver to train: lrbench study run %s SOLVER.prototxt %s ..."
                % (option, name, option)
            )
    wanted = (
        [
            Job(solver, policy=policy, seed=seed, max_iter=max_iter, data=data)
            for seed in range(1, (seeds or 1) + 1)
            for policy in policies or [None]
        ]
        if solver
        else []
    )
    where = pool()
    with progress.StudyDisplay() as shown:
        trainings.run_study(name, where, shown, wanted, dsn, prune, retry_failed)
    waiting, failed = _show_study(name, dsn, format)
    if waiting:
        raise TrialError(
            "%d of the trainings could not begin: `lrbench study run %s` tries again"
            % (waiting, name)
        )
    if failed:
        raise TrialError(
            "%d of the trainings have failed: `lrbench study run %s --retry-failed` trains them once more"
            % (failed, name)
        )


@study.command("list")
@_format_option
@_database_option
def study_list(dsn, format):
    """The studies, how far they are, and which run."""
    from lrbench_caffe import database
    from lrbench_caffe.display import console, tables

    with database.Store(dsn) as store:
        console.print_tables(tables.studies(database.studies.summaries(store)), format=format)


@study.command("show")
@click.argument("name")
@_format_option
@_database_option
def study_show(name, dsn, format):
    """The trials of a study, the best first."""
    from lrbench_caffe.display import console

    waiting, failed = _show_study(name, dsn, format)
    if waiting:
        console.print_line(
            "%d trials have not begun: `lrbench study run %s` goes on" % (waiting, name),
            aside=format != "table",
        )
    if failed:
        console.print_line(
            "%d trials have failed: `lrbench study run %s --retry-failed` trains them once more"
            % (failed, name),
            aside=format != "table",
        )


def _show_study(name, dsn, format):
    """Print the trials of a study; returns how many have not begun, and how many have failed."""
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.trial import FAILED

    with database.Store(dsn) as store:
        waiting = sum(entry.state is None for entry in database.studies.jobs(store, name))
        trials = store.trials(study=name, best_only=True)
    console.print_tables(
        tables.results(ranking.sort_by_top1(trials), "study %s" % name, seeds=True), format=format
    )
    return waiting, sum(trial.state == FAILED for trial in trials)


@study.command("stop")
@click.argument("name")
@click.option("--now", is_flag=True, help="At once, without a last snapshot")
@_database_option
def study_stop(name, now, dsn):
    """End the study NAME where it runs, on whichever machine; `lrbench study run NAME` goes on with it."""
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    with database.Store(dsn) as store:
        database.studies.stop(
            store,
            name,
            requests=2 if now else 1,
            waiting=lambda: console.print_line(
                "waiting for the trainings of %s to end; Ctrl-C stops waiting" % name
            ),
        )
    console.print_line("the study %s has stopped: `lrbench study run %s` goes on" % (name, name))


@main.command()
@click.argument("name", metavar="TABLE-OR-FIGURE")
@click.option(
    "--data",
    metavar="DIR",
    help="Folder that `lrbench data` wrote to [default: one below $LRBENCH_HOME, downloaded]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10000),
    metavar="N",
    help="Train each policy with the seeds 1 to N [default: 5]",
)
@click.option(
    "--scale",
    type=click.FloatRange(1e-6, 1),
    metavar="S",
    help="Make the trainings S times as long, "
    "with all that counts iterations, e.g. 0.05 [default: 1, the paper's]",
)
@click.option(
    "--test-interval",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Evaluate every N iterations [default: the paper's interval times S]",
)
@_pool_options
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Train nothing: take the trials of this export, e.g. results/table-7.jsonl",
)
@click.option(
    "--out",
    default=".",
    metavar="DIR",
    help="Folder for the page, the picture and the rows [default: this one]",
)
@_format_option
@_database_option
def reproduce(name, data, seeds, scale, test_interval, pool, source, out, dsn, format):
    """Train a table or figure of the paper (table-2a to table-9, figure-1, -3, -4, -5) and put it beside the published one.

    It is a study of that name: run again, it goes on.
    """
    from lrbench_caffe.display import console, progress
    from lrbench_caffe.paper import reproduction, targets
    from lrbench_caffe.trial import FAILED

    name = targets.canonical_name(name)
    untrained = "--from" if source else name if name == targets.FIGURE_1 else None
    given = dict(
        click.get_current_context().meta["pool"],
        data=data,
        seeds=seeds,
        scale=scale,
        test_interval=test_interval,
    )
    given = [option.replace("_", "-") for option, value in given.items() if value is not None]
    if untrained and given:
        raise InputError(
            "%s trains nothing, and --%s says how to train: leave one of them out"
            % (untrained, given[0])
        )
    if name == targets.FIGURE_1:
        if source:
            raise InputError("figure-1 is made from no rows: leave --from out")
        with progress.ProgressDisplay() as bar:
            page = reproduction.write_figure_1(out, bar)
        console.print_line("page: %s" % page)
        return
    target = targets.TARGETS[name]
    if source:
        rows, waiting = source, 0
    else:
        scale, seeds = targets.exact_scale(target, scale or 1.0), seeds or 5
        where = pool()
        with progress.ProgressDisplay() as bar:
            data = reproduction.prepare(target, scale, out, data, bar)
        with progress.StudyDisplay() as shown:
            waiting = reproduction.train(
                target, scale, seeds, where, shown, data, dsn, test_interval
            )
        with progress.ProgressDisplay() as bar:
            rows = reproduction.export(target, scale, out, dsn, bar)
    table, page, trials = reproduction.write(target, rows, out)
    console.print_tables(table, format=format)
    console.print_line("page: %s" % page, aside=format != "table")
    if waiting:
        raise TrialError(
            "%d of the trainings could not begin: the same command tries again" % waiting
        )
    failed = sum(trial.state == FAILED for trial in trials)
    if failed and not source:
        raise TrialError(
            "%d of the trainings have failed: `lrbench study run %s --retry-failed` trains them once more"
            % (failed, targets.study_name(target, scale))
        )


def _evaluation_options(kind):
    """The options of what trains a solver again and again: which study, data and pool."""

    def options(command):
        for option in (
            _database_option,
            _format_option,
            _pool_options,
            click.option(
                "--study",
                "name",
                metavar="NAME",
                help="The study that the trainings belong to [default: %s-NETWORK-"
                "DATASET]; run again, it goes on" % kind,
            ),
            _data_option,
        ):
            command = option(command)
        return click.argument("solver", metavar="SOLVER.prototxt")(command)

    return options


@main.command("range")
@click.option(
    "--sweep", is_flag=True, help="Smith's test instead: one training with a growing rate"
)
@click.option(
    "--max-iter",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Train each rate for N iterations [default: a quarter of the solver's; --sweep: all]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    metavar="N",
    help="Caffe's random_seed",
)
@click.option(
    "--out",
    default="lrbench-range.png",
    metavar="FILE.png",
    show_default=True,
    help="Where figure 3 for this net goes",
)
@_evaluation_options("range")
def range_command(solver, sweep, max_iter, seed, out, name, data, pool, dsn, format):
    """Find the range of good constant learning rates: decades from 1 down, then finer where accuracy is high."""
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.evaluator import range_test
    from lrbench_caffe.evaluator.trainings import Trainer
    from lrbench_caffe.report import plots

    plots.check_path(out)
    trainings = Trainer(solver, pool(), "range", name, data, dsn)
    test = (range_test.sweep if sweep else range_test.run)(trainings, max_iter, seed)
    console.print_tables(tables.range_test(test), format=format)
    for line in range_test.summary(test):
        console.print_line(line, aside=format != "table")
    plots.range_test(test, out)
    console.print_line("figure: %s" % out, aside=format != "table")


@main.command()
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="F",
    help="A function to choose from, e.g. SIN2; as often as you "
    "like [default: the paper's 13, SGDR and PLATEAU]",
)
@click.option(
    "--goal",
    type=click.Choice(["accuracy", "cost", "robustness"]),
    default="accuracy",
    show_default=True,
    help="The highest Top-1; the fewest iterations to within 0.1 points of it; LD, AC, CD and CDAC together as much",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    metavar="N",
    help="Iterations that all trainings may have together [default: 20 "
    "times the solver's max_iter]",
)
@_evaluation_options("tune")
def tune(solver, functions, goal, budget, name, data, pool, dsn, format):
    """Find a good policy for a solver: what is known first, else a range test, then finer and finer."""
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.evaluator import tuner
    from lrbench_caffe.evaluator.trainings import Trainer

    trainings = Trainer(solver, pool(), "tune", name, data, dsn)
    if budget:
        trainings.budget = budget
    tuned = tuner.tune(
        trainings, functions, goal, tell=lambda sentence: console.print_line(sentence, aside=True)
    )
    if format == "table":
        console.print_tables(tables.tuning(tuned))
    setup = trainings.setup
    console.print_tables(
        tables.ranking((setup.dataset, setup.network), tuned.ranked), format=format
    )
    for line in tuner.summary(tuned):
        console.print_line(line, aside=format != "table")


_BY = click.option(
    "--by",
    metavar="METRICS",
    default="top1",
    show_default=True,
    help='What to rank by: metrics in order ("top1,iterations": the next decides where the noise of the seeds does '
    'not tell policies apart), weights ("top1=3,iterations=1"), or the Pareto front ("pareto:top1,iterations"); of '
    "top1, top5, ac, cd, cdac, ld, iterations, n_params",
)


@main.command()
@_filters
@_BY
@_format_option
@_database_option
def rank(filters, by, dsn, format):
    """Rank the policies of each task over their seeds, with ties marked: 1= is as good as the others with 1=."""
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import console, tables

    criterion = ranking.parse_criterion(by)
    with database.Store(dsn) as store:
        trials = store.trials(best_only=True, **filters or {})
    if not trials:
        raise InputError(
            "there are no such trials in the database: `lrbench study list` has the studies that are there"
        )
    console.print_tables(
        *(
            tables.ranking(task, ranking.rank(members, criterion))
            for task, members in ranking.group_by_task(trials).items()
        ),
        format=format,
    )


@main.command()
@click.option("--dataset", metavar="NAME", help="The dataset to train on [default: --solver's]")
@click.option(
    "--network",
    metavar="NAME",
    help="The network to train, by its name or its hash [default: --solver's]",
)
@click.option(
    "--solver",
    metavar="SOLVER.prototxt",
    help="How it will be trained, so that tasks can be compared",
)
@_data_option
@_format_option
@_database_option
def recommend(dataset, network, solver, data, dsn, format):
    """The best known policies for a task; where it is not known, for similar ones, why these, and the rates to start from."""
    from lrbench_caffe import database
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.evaluator import recommendation
    from lrbench_caffe.study import process
    from lrbench_caffe.trial import Job

    if not solver and not (dataset and network):
        raise InputError(
            "a task is a dataset and a network: give --dataset NAME and --network NAME, or --solver SOLVER.prototxt"
        )
    with database.Store(dsn) as store:
        if solver:
            wanted = recommendation.query_from_setup(
                process.describe(Job(solver, data=data)).setup, dataset, network
            )
        else:
            wanted = recommendation.query_by_names(store, dataset, network)
        found = recommendation.recommend(store, wanted)
    shown = [tables.standings(known.task, known.policies) for known in found.known]
    if format != "table":
        console.print_tables(*shown, format=format)
    for known, table, sentences in zip(found.known, shown, recommendation.explanations(found)):
        for sentence in sentences:
            console.print_line(sentence, aside=format != "table")
        if format == "table":
            console.print_tables(table)


@main.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option(
    "--max-iter",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Draw N iterations [default: three cycles, all steps, all pieces, POLY's l, else 10000]",
)
@click.option("--out", metavar="FILE", help="Write a .png or .svg [default: open a window]")
@click.option("--terminal", is_flag=True, help="Draw in the terminal")
def plot(policies, max_iter, out, terminal):
    """Draw learning rate policies, e.g. "SIN2(k0=0.01, k1=0.06, l=2000)"."""
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.report import plots

    plots.rates([Policy.parse(policy) for policy in policies], max_iter, out, terminal)


@main.command()
@_filters
@click.argument("out", metavar="OUT.html")
@_BY
@_database_option
def report(filters, out, by, dsn):
    """Write one self-contained page: ranking, curves, cost, confidence, range test, policy lines."""
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import console, progress
    from lrbench_caffe.report import content, page

    criterion = ranking.parse_criterion(by)
    with database.Store(dsn) as store, progress.ProgressDisplay() as bar:
        size = page.write(out, content.load(store, filters or {}, criterion, progress=bar))
    console.print_line("%s: %.1f MB" % (out, size / 1e6))


@main.command()
@_filters
@_BY
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; others than loopback let other machines in",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8642,
    show_default=True,
    help="0: any that is free",
)
@_database_option
def serve(filters, by, host, port, dsn):
    """Serve the report's page live from the database, read-only, while trainings run."""
    from lrbench_caffe import ranking
    from lrbench_caffe.report import live

    live.serve(filters or {}, ranking.parse_criterion(by), host, port, dsn)


@main.group()
def db():
    """The policy database: the private PostgreSQL server, or the one that --dsn or $LRBENCH_DSN names."""


@db.command()
def status():
    """Say whether the private server runs, and where its data is."""
    from lrbench_caffe.database import server

    found = server.status()
    click.echo(
        "%s\nfolder  %s\nversion %s\nlog     %s\nDSN     %s"
        % (
            "running" if found.running else "not running",
            found.folder,
            found.version or "- (no data yet)",
            found.log,
            found.dsn,
        )
    )


@db.command()
def start():
    """Start the private server, if it does not run, and print its DSN."""
    from lrbench_caffe.database import server

    click.echo(server.start())


@db.command()
def stop():
    """Stop the private server."""
    from lrbench_caffe.database import server

    click.echo("stopped" if server.stop() else "was not running")


@db.command()
@_database_option
def shell(dsn):
    """Open psql on the database; `SELECT * FROM result` shows a line for each trial."""
    import os

    from lrbench_caffe import database

    command = database.shell_command(dsn)
    os.execv(command[0], command)


@db.command("export")
@_filters
@click.argument("file", metavar="FILE")
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="The name that others see as these trials' origin [default: the database's]",
)
@_database_option
def db_export(filters, file, name, dsn):
    """Write trials as JSON Lines, to be shared."""
    from lrbench_caffe.database import exchange
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as bar:
        trials = exchange.export_trials(file, dsn, filters or {}, name, progress=bar)
    console.print_line("%s: %d trials" % (file, trials))


@db.command("import")
@click.argument("file", metavar="FILE")
@_database_option
def db_import(file, dsn):
    """Take in the trials of an export: all of them, or none where anything is wrong with the file."""
    from lrbench_caffe.database import exchange
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as bar:
        done = exchange.import_trials(file, dsn, progress=bar)
    console.print_line(
        "%d trials: %d new, %d brought up to date, %d already there"
        % (done.trials, done.new, done.updated, done.trials - done.new - done.updated)
    )


@main.command()
@click.argument("name", type=click.Choice(["digits", "mnist", "cifar10"]))
@click.option("--to", required=True, metavar="DIR", help="Folder for the LMDBs and the mean file")
@click.option(
    "--from",
    "source",
    metavar="DIR",
    help="The dataset's official files [default: download them from its home]",
)
@click.option(
    "--pad",
    type=click.IntRange(0, 16),
    default=0,
    metavar="N",
    help="Pixels of zeros around each image of cifar10 (4 for ResNet)",
)
def data(name, to, source, pad):
    """Write a dataset as LMDBs and a mean file that Caffe reads."""
    from lrbench_caffe import datasets
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as bar:
        files = datasets.convert(name, to, source=source, pad=pad, progress=bar)
    console.print_line(
        "%s %s, %s and %s"
        % ("wrote" if files.written else "already there:", files.train, files.test, files.mean)
    )
