"""The division of a user's own LMDB into training and validation samples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe import stratified
from lrbench_caffe.datasets.publishing import locked, publish
from lrbench_caffe.errors import InputError, disk_problem
from lrbench_caffe.training import division

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


class Split(NamedTuple):
    """The paths of the LMDBs into which an LMDB was divided.

    Attributes:
        train: The LMDB of training samples.
        validation: The LMDB of validation samples.
    """

    train: str
    validation: str


def split(
    source: str,
    validation: int,
    out: str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Split:
    """Divide an LMDB of Datum messages into training and validation samples.

    Keys and messages are copied as they are, whether they hold pixels, encoded images or floats.
    The LMDB itself is not changed. :func:`lrbench_caffe.stratified.choose` chooses the samples.

    Args:
        source: The LMDB's folder.
        validation: How many samples are for validation.
        out: The beginning of the new LMDBs' paths, to which ``-train`` and ``-validation`` are
            added (None: the path of the LMDB).
        progress: Called with what is done, the samples read or written so far and their total.

    Returns:
        The paths of the new LMDBs.

    Raises:
        InputError: The LMDB cannot be read, or one of its records does not have exactly one label;
            validation is too small or too large; or the new LMDBs exist or cannot be written.
    """
    source = os.path.normpath(source)
    prefix = _split_prefix(source, out)
    files = Split(prefix + "-train", prefix + "-validation")
    _check_free(files)
    index = division.read_index(source, progress)
    chosen = stratified.choose(index.labels, validation, source)
    folder, stem = os.path.dirname(prefix) or ".", os.path.basename(prefix) + "-split"
    with locked(folder, stem, "name other LMDBs with --out"):
        _write_split(
            files, source, index, chosen, os.path.join(folder, ".%s.partial" % stem), progress
        )
    return files


def _write_split(
    files: Split,
    source: str,
    index: division.Index,
    chosen: np.ndarray,
    partial: str,
    progress: Callable[[str, int, int], object] | None,
) -> None:
    """Write the LMDBs of a split; the records that are chosen are for validation."""
    import lmdb

    masks = (~chosen, chosen)

    def write(new: str) -> None:
        _check_free(files)
        for path, mask in zip(files, masks):
            target = os.path.join(new, os.path.basename(path))
            division.copy_chosen(source, target, index, mask, progress)
        _check_free(files)

    try:
        publish(files, (), partial, write)
    except (lmdb.Error, OSError) as error:
        folder = os.path.dirname(partial)
        needed = sum(index.file_bytes(mask) for mask in masks)
        raise InputError(
            "cannot write %s and %s (%s): make room, or name other LMDBs with --out"
            % (*files, disk_problem(error, folder, needed))
        ) from None


def _split_prefix(source: str, out: str | None) -> str:
    if out is None:
        return os.path.abspath(source) if os.path.basename(source) in (".", "..") else source
    if not os.path.basename(out):
        raise InputError(
            "invalid out=%r, expected the beginning of the new LMDBs' paths, for example %s"
            % (out, os.path.join(out, os.path.basename(source)))
        )
    return out


def _check_free(files: Split) -> None:
    for path in files:
        if os.path.lexists(path):
            raise InputError("%s exists: remove it, or name other LMDBs with --out" % path)
