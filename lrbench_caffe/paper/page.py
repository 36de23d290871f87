"""The pages of the reproductions: Markdown with a picture, a table and notes, made from trials."""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING

from lrbench_caffe import __version__, files, ranking
from lrbench_caffe.database import incoming
from lrbench_caffe.display import formats
from lrbench_caffe.display.printable import printable
from lrbench_caffe.errors import InputError
from lrbench_caffe.paper import comparison, descent, figures, scaling, targets
from lrbench_caffe.trial import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.display.bar import ProgressCallback
    from lrbench_caffe.display.table import Table
    from lrbench_caffe.paper.targets import Target
    from lrbench_caffe.trial import Trial


def write(target: Target, rows: str, folder: str) -> tuple[Table, str, list[Trial]]:
    """Write the page and the picture of a target.

    They depend only on the trials and the place of their file. Trials under policies of another
    table of the same network are left out.

    Args:
        target: The table or figure.
        rows: The path of an export with its trials.
        folder: The folder for the page and the picture. It is created if necessary.

    Returns:
        The table of the page, the path of the page, and the trials.

    Raises:
        InputError: The export cannot be read, its trials do not belong to the target, or the folder
            cannot be written to.
    """
    trials = incoming.trials(rows)
    scale = scaling.scale_of_trials(target, trials)
    policies = set(scaling.scaled_policies(target, scale).values())
    trials = [trial for trial in trials if trial.policy in policies]
    table = comparison.comparison_table(target, trials, scale)
    path = os.path.join(create_folder(folder), targets.study_name(target, scale))
    figures.draw(target, trials, scale, path + ".png")
    parts = _parts(target, trials, scale, table, os.path.relpath(rows, folder))
    return table, _write_markdown(path + ".md", parts), trials


def write_figure_1(folder: str, progress: ProgressCallback) -> str:
    """Write the page, the picture and the animation of Figure 1.

    Args:
        folder: The folder for them. It is created if necessary.
        progress: Called with (what, done, total) for each frame of the animation.

    Returns:
        The path of the page.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    path = os.path.join(create_folder(folder), "figure-1")
    descent.draw(path + ".png")
    descent.animate(path + ".gif", progress)
    return _write_markdown(path + ".md", _figure_1_parts())


def create_folder(folder: str) -> str:
    """Create a folder unless it exists, and return its path.

    Raises:
        InputError: The folder cannot be created or is not writable.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(
            "the folder %s cannot be created (%s): choose another folder with --out"
            % (folder, error.strerror)
        ) from None
    if not os.access(folder, os.W_OK):
        raise InputError("the folder %s is not writable: choose another folder with --out" % folder)
    return folder


def _write_markdown(path: str, parts: Iterator[str]) -> str:
    text = "\n\n".join(parts) + "\n"
    files.write(path, text.encode(), "page", "choose another folder with --out")
    return path


def _figure_1_parts() -> Iterator[str]:
    yield "# Figure 1: three policies on a surface with a local and a global minimum"
    yield "![contours](figure-1.png)"
    yield "![animation](figure-1.gif)"
    yield descent.outcome()
    yield (
        "The rate of TRIEXP rises at first, so TRIEXP leads and bounces across the valley. FIX "
        "comes to rest in the local minimum. NSTEP and TRIEXP reach the global minimum. All of "
        "this agrees with the paper."
    )
    yield (
        "The paper gives neither its surface nor its starting point. Both are chosen here to show "
        "what the paper describes, so the figure shows only that it is possible."
    )
    yield (
        "The paper's TRIEXP has gamma=0.1. In Table I, gamma is the decay of one iteration, so the "
        "cycle would end within three iterations. Here, 0.1 is the decay over l iterations: %s."
        % descent.POLICIES[2][1]
    )
    yield (
        "The surface is f(x, y) = (x - 1.2)² / 2 + 25/4 (√(1 + 4 y²) - 1) - 0.162 exp(-(x² + y²) / "
        "(2 · 0.06²)). The descent starts at (%g, %g)." % descent.START
    )
    yield "Made by `lrbench reproduce figure-1` with lrbench_caffe %s." % __version__


def _parts(
    target: Target, trials: Sequence[Trial], scale: float, table: Table, rows: str
) -> Iterator[str]:
    """The paragraphs of a target's page; rows is the path of the export relative to the page."""
    n_seeds = len({trial.setup.seed for trial in trials})
    intervals = _other_intervals(target, trials, scale)
    yield "# %s" % table.title
    yield "![%s](%s.png)" % (table.title, targets.study_name(target, scale))
    yield formats.render([table._replace(title=None)], "markdown").rstrip("\n")
    yield from _differences_to_the_paper(target, scale, intervals)
    if n_seeds == 1:
        yield "Ours: one seed, at the evaluation with the highest Top-1."
    else:
        yield (
            "Ours: mean ± sample standard deviation over up to %d seeds, each at its evaluation "
            "with the highest Top-1." % n_seeds
        )
    for sentence in ranking.sets_remarks(trials):
        yield "Ours is %s. The paper does the same." % sentence
    if target.published:
        yield (
            "Published: the numbers that the paper prints. Their deviation is that of the paper's "
            "trainings."
        )
    yield from _gaps_in_the_paper(target)
    for trial in trials:
        if trial.error and trial.state != FINISHED:
            yield "Not counted: %s, seed %d, %s: %s." % (
                trial.policy,
                trial.setup.seed,
                trial.state,
                trial.error,
            )
    yield _origin(trials)
    options = "".join(
        [
            "" if scale == 1 else " --scale %.10g" % scale,
            *(" --test-interval %d" % interval for interval in intervals),
            " --gpu 0" if any(map(_ran_on_gpu, trials)) else "",
        ]
    )
    yield (
        "`lrbench reproduce %s%s --seeds %d` runs these trainings. "
        "`lrbench reproduce %s --from %s` makes this page from their rows."
        % (target.name, options, n_seeds, target.name, rows)
    )


def _other_intervals(target: Target, trials: Sequence[Trial], scale: float) -> list[int]:
    """The test intervals of the trials, without the paper's interval at this scale."""
    intervals = {trial.setup.solver.get("test_interval") for trial in trials}
    paper = targets.scaled_test_interval(target, scale)
    return sorted(n for n in intervals if isinstance(n, int) and n != paper)


def _differences_to_the_paper(
    target: Target, scale: float, intervals: Sequence[int]
) -> Iterator[str]:
    """Paragraphs on how the trainings differ from the paper's."""
    if scale != 1:
        text = (
            "**At scale %.6g**: these trainings have %d iterations instead of %d, and everything "
            "that counts iterations is scaled by the same factor. They are not the paper's "
            "trainings, and their accuracies may differ from the paper's."
            % (scale, targets.scaled_max_iter(target, scale), target.setting.max_iter)
        )
        yield " ".join([text, *difference_remarks(target, scale)])
    if intervals:
        yield (
            "**Evaluated every %s iterations**: the paper's interval at this scale is %d, so the "
            "highest Top-1 is chosen from other evaluations."
            % (_listed(intervals), targets.scaled_test_interval(target, scale))
        )


def difference_remarks(target: Target, scale: float) -> list[str]:
    """Explain the differences to published numbers that depend on the scale."""
    if scale == 1 or not target.published:
        return []
    return ["The difference of #Iter is to %.6g times the published number." % scale]


def _gaps_in_the_paper(target: Target) -> Iterator[str]:
    """Paragraphs on the paper's misprints and on what it leaves open."""
    misprints = [
        published.policy.partition("(")[0] for published in target.published if published.slips
    ]
    if misprints:
        yield (
            "The published CDAC of %s is a misprint, so the table gives no difference to it."
            % _listed(misprints)
        )
    if target.name in ("table-3a", "table-5"):
        yield (
            "The paper gives no l for this table. The value 2000 is taken from its Tables VIII "
            "and IX."
        )
    if target.name.startswith(("figure-3", "figure-4")):
        yield (
            "The paper gives neither the values on the axis nor the lengths of the trainings. Both "
            "are chosen here. A hollow dot is a training that diverged. It shows the last Top-1 "
            "before that."
        )


def _origin(trials: Sequence[Trial]) -> str:
    """The programs and machines of the trainings, and how many trainings were resumed."""
    counts = collections.Counter(map(_environment, trials))
    text = "Trainings: %s." % "; ".join(
        "%d with %s" % (count, environment) for environment, count in sorted(counts.items())
    )
    resumed = sum(trial.resumed_at is not None for trial in trials)
    if resumed:
        text += (
            " Resumed from a snapshot: %d. After that, Caffe reads the batches from the first one "
            "again." % resumed
        )
    return text


def _environment(trial: Trial) -> str:
    """The program, what it computed with, and the machine; BLAS matters on the CPU only."""
    framework = trial.setup.framework
    device = "a GPU" if _ran_on_gpu(trial) else trial.blas or "unknown BLAS"
    return printable("%s %s, %s, on %s" % (framework.name, framework.version, device, trial.host))


def _ran_on_gpu(trial: Trial) -> bool:
    return trial.setup.solver.get("solver_mode") == "GPU"


def _listed(values: Sequence[object]) -> str:
    """The values as text: "1, 2 and 3"."""
    *others, last = [str(value) for value in values]
    return ", ".join(others) + " and " + last if others else last
