"""Studies: named lists of trials, trained on this machine or on a Dask cluster.

Each trial is trained in a process of its own, because Caffe ends its process when a check fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrbench_caffe.study.runner import (
        UNFINISHED,
        ClaimedStudy,
        absolute_paths,
        checked_job,
        checked_study_name,
        claimed_study,
        run_jobs,
        run_study,
    )

__all__ = [
    "UNFINISHED",
    "ClaimedStudy",
    "absolute_paths",
    "checked_job",
    "checked_study_name",
    "claimed_study",
    "run_jobs",
    "run_study",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use: a Dask worker has no use for the database."""
    if name not in __all__:
        raise AttributeError("module 'lrbench_caffe.study' has no attribute %r" % name)
    from lrbench_caffe.study import runner

    return getattr(runner, name)
