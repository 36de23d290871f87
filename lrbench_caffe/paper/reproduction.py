"""Reproductions: a table or figure of the paper is trained as a study, and its page is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lrbench_caffe import database, datasets, paths, ranking, study
from lrbench_caffe.database import exchange
from lrbench_caffe.display import console
from lrbench_caffe.display.progress import ProgressDisplay, StudyDisplay
from lrbench_caffe.errors import InputError, TrialError, counted
from lrbench_caffe.paper import scaling, targets
from lrbench_caffe.paper.page import create_folder, difference_remarks, write, write_figure_1
from lrbench_caffe.study import failures, process
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import Job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable

    from lrbench_caffe.display.bar import ProgressCallback
    from lrbench_caffe.paper.targets import Target
    from lrbench_caffe.study.interfaces import Pool
    from lrbench_caffe.trial import Trial

SEEDS = 5  # the paper's number of trainings for each policy

__all__ = ["SEEDS", "export", "prepare", "reproduce", "train", "write", "write_figure_1"]


def reproduce(
    name: str,
    folder: str,
    make_pool: Callable[[], Pool],
    rows: str | None = None,
    data: str | None = None,
    seeds: int | None = None,
    scale: float | None = None,
    test_interval: int | None = None,
    pool_options: Mapping[str, object] | None = None,
    dsn: str | None = None,
    format: str = "table",
    model: bool = True,
) -> str | None:
    """Reproduce a table or figure of the paper: write its page and picture, and print its table.

    The trainings are a study with the name of the target. If that study exists, it is resumed.

    Args:
        name: The table or figure, such as "table-7" or "Table VII".
        folder: The folder for the page, the picture and the rows.
        make_pool: Makes the pool of the trainings. It is called only if something is trained.
        rows: The path of an export: its trials are used, and nothing is trained.
        data: The folder of the dataset's LMDBs; None for one below LRBENCH_HOME, which is filled
            with the downloaded dataset.
        seeds: Each policy is trained with the seeds 1 to ``seeds``; None for SEEDS.
        scale: The length of the trainings as a share of the paper's; None for 1.
        test_interval: The iterations between two evaluations; None for the paper's at the scale.
        pool_options: The command's options for the pool, by name, with None for those that were
            not given. They are invalid if nothing is trained.
        dsn: The database of the study; None for the default.
        format: The format of the printed table, one of
            :data:`lrbench_caffe.display.formats.FORMATS`.
        model: Whether the study keeps the best model of each policy.

    Returns:
        The name of the study, None if nothing is trained.

    Raises:
        InputError: There is no such target, an option is given that has no effect, or something
            cannot be read, created or trained.
        TrialError: A training could not begin or failed. The page is written before that.
        KeyboardInterrupt: The study was stopped. Everything that was measured is recorded.
    """
    name = targets.canonical_name(name)
    training_options = dict(
        pool_options or {}, data=data, seeds=seeds, scale=scale, test_interval=test_interval
    )
    if rows or name == targets.FIGURE_1:
        _check_no_options("--from" if rows else name, training_options)
    if name == targets.FIGURE_1:
        if rows:
            raise InputError("figure-1 is not made from trials: leave out --from")
        with ProgressDisplay() as progress:
            page = write_figure_1(folder, progress)
        console.print_line("page: %s" % page)
        return None
    target = targets.TARGETS[name]
    if rows:
        _write_and_print(target, rows, folder, format)
        return None
    scale, pool = targets.exact_scale(target, scale or 1.0), make_pool()
    with ProgressDisplay() as progress:
        data = prepare(target, scale, folder, data, progress)
    with StudyDisplay() as display:
        problems = train(
            target, scale, seeds or SEEDS, pool, display, data, dsn, test_interval, model
        )
    name = targets.study_name(target, scale)
    waiting = TrialError(
        "%s could not begin (%s): correct the cause and run the same command again"
        % (counted(len(problems), "training"), next(iter(problems), ""))
    )
    if problems and not _has_begun(name, dsn):
        raise waiting
    with ProgressDisplay() as progress:
        rows = export(target, scale, folder, dsn, progress)
    trials = _write_and_print(target, rows, folder, format)
    if problems:
        raise waiting
    failures.raise_if_any(
        trials, "run `lrbench study run %s --retry-failed` to train them again" % name
    )
    return name


def _has_begun(study_name: str, dsn: str | None) -> bool:
    """Whether a training of a study has begun, so that there is something to compare."""
    with database.Store(dsn) as store:
        return bool(store.trials(study=study_name, best_only=True))


def _check_no_options(source: str, training_options: Mapping[str, object]) -> None:
    """Raise InputError if an option for trainings is given although the source trains nothing."""
    for option, value in training_options.items():
        if value is not None:
            raise InputError(
                "%s trains nothing, but --%s is an option for trainings: leave out one of them"
                % (source, option.replace("_", "-"))
            )


def _write_and_print(target: Target, rows: str, folder: str, format: str) -> list[Trial]:
    """Write the page of a target, print its table and what failed. Return the trials."""
    table, page, trials = write(target, rows, folder)
    console.print_tables(table, format=format)
    remarks = difference_remarks(target, scaling.scale_of_trials(target, trials))
    remarks += [*ranking.sets_remarks(trials), *failures.lines(trials), "page: %s" % page]
    for line in remarks:
        console.print_line(line, aside=format != "table")
    return trials


def prepare(
    target: Target,
    scale: float,
    folder: str,
    data: str | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Check the scale and the folder, and create the dataset if necessary.

    Args:
        target: The table or figure.
        scale: The scale of the trainings.
        folder: The folder for the page, the picture and the rows. It is created if necessary.
        data: The folder of the dataset's LMDBs; None for one below LRBENCH_HOME, which is filled
            with the downloaded dataset.
        progress: Called with (what, done, total) while the dataset is created.

    Returns:
        The folder of the dataset's LMDBs.

    Raises:
        InputError: The scale is too small, or a folder or the dataset cannot be created.
    """
    scaling.scaled_policies(target, scale)
    create_folder(folder)
    if data is None:
        data = os.path.join(paths.home(), "data")
        datasets.convert(target.setting.dataset, data, pad=target.setting.pad, progress=progress)
    return data


def train(
    target: Target,
    scale: float,
    seeds: int,
    pool: Pool,
    display: StudyDisplay,
    data: str,
    dsn: str | None = None,
    test_interval: int | None = None,
    model: bool = True,
) -> list[str]:
    """Train the policies of a target as a study, or resume that study.

    Args:
        target: The table or figure.
        scale: The scale of the trainings.
        seeds: Each policy is trained with the seeds 1 to ``seeds``.
        pool: The pool that trains.
        display: The display of the study.
        data: The folder of the dataset's LMDBs.
        dsn: The database of the study; None for the default.
        test_interval: The iterations between two evaluations; None for the paper's at the scale.
        model: Whether the study keeps the best model of each policy.

    Returns:
        Why trainings could not begin, once for each of them.

    Raises:
        InputError: A training cannot begin on this machine, for example because the data is not
            there; or as :func:`lrbench_caffe.study.run_study`.
        KeyboardInterrupt: As :func:`lrbench_caffe.study.run_study`.
    """
    name = targets.study_name(target, scale)
    jobs = [
        Job(
            paths.shipped(target.setting.solver),
            policy=policy,
            seed=seed,
            data=data,
            max_iter=targets.scaled_max_iter(target, scale),
            test_interval=test_interval or targets.scaled_test_interval(target, scale),
        )
        for seed in range(1, seeds + 1)
        for policy in scaling.scaled_policies(target, scale).values()
    ]
    jobs = [study.checked_job(job) for job in jobs]
    if isinstance(pool, Cores):
        process.describe(jobs[0])  # all trainings have the net and the data of the first one
    reasons: dict[str | None, str] = {}

    def collect_problem(job: Job, kind: str, content: Any) -> None:
        if kind == "problem":
            reasons[job.id] = content

    command = "lrbench reproduce %s" % target.name
    if scale != 1:
        command += " --scale %.10g" % scale
    with study.claimed_study(name, display.note, dsn, command=command) as claimed:
        remedy = "delete the study with `lrbench study delete %s`" % name
        claimed.check_versions(display.note, remedy)
        claimed.train(pool, display, jobs, model=model, watchers=[collect_problem])
    with database.Store(dsn) as store:
        entries = database.studies.jobs(store, name)
    measured = database.undelivered_trials()
    waiting = [e.job.id for e in entries if e.state is None and e.job.id not in measured]
    return [reasons.get(job_id, "it was not tried") for job_id in waiting]


def export(
    target: Target,
    scale: float,
    folder: str,
    dsn: str | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Export the trials of a target's study.

    Args:
        target: The table or figure.
        scale: The scale of the trainings.
        folder: The folder for the file.
        dsn: The database of the study; None for the default.
        progress: Called with (what, done, total) for each trial.

    Returns:
        The path of the file.

    Raises:
        InputError: The file cannot be written.
    """
    name = targets.study_name(target, scale)
    path = os.path.join(folder, name + ".jsonl")
    exchange.export_trials(path, dsn, {"study": name}, progress=progress)
    return path
