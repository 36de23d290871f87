"""The files that trials keep on this machine: snapshots of unfinished ones, and models."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from lrbench_caffe import models
from lrbench_caffe.paths import study_folder

if TYPE_CHECKING:
    from collections.abc import Iterable


def folder_of(study: str) -> str | None:
    """Return the folder of a study, None if there is none.

    The name comes from a database, which may be anybody's. One that is not the name of a folder,
    such as "..", has none.
    """
    if os.path.basename(study) != study or study in ("", os.curdir, os.pardir):
        return None
    folder = study_folder(study)
    return folder if os.path.isdir(folder) else None


def snapshots_of(trial: str, study: str | None) -> str | None:
    """Return the folder with the snapshots from which a trial resumes, None if there is none."""
    folder = folder_of(study) if study else None
    return _existing(os.path.join(folder, trial)) if folder else None


def model_of(trial: str) -> str | None:
    """Return the folder of the model that a trial has kept, None if there is none."""
    return _existing(models.folder(trial))


def files_of(trial: str, study: str | None) -> list[str]:
    """Return the folders of a trial: its snapshots and its model."""
    return list(filter(None, (snapshots_of(trial, study), model_of(trial))))


def remove(folders: Iterable[str]) -> list[str]:
    """Remove folders with what is in them. Return those that could not be removed."""
    left = []
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.isdir(folder):
            left.append(folder)
    return left


def _existing(folder: str) -> str | None:
    with contextlib.suppress(OSError):
        return folder if os.listdir(folder) else None
    return None
