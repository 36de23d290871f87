"""The conversion of a dataset to the LMDBs and the mean file that Caffe's Data layer reads."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe import stratified
from lrbench_caffe.datasets import cifar10, digits, mnist, official
from lrbench_caffe.datasets.publishing import locked, publish
from lrbench_caffe.datasets.samples import Part
from lrbench_caffe.errors import InputError, disk_problem
from lrbench_caffe.training import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.datasets.download import Progress

NAMES = ("digits", "mnist", "cifar10")


class Files(NamedTuple):
    """The files of a dataset.

    Attributes:
        train: The path of the LMDB of training samples.
        test: The path of the LMDB of test samples.
        mean: The path of the mean image of the training samples.
        written: Whether the call that returned this wrote them (False: they existed before).
        validation: The path of the LMDB of validation samples, None if there are none.
    """

    train: str
    test: str
    mean: str
    written: bool
    validation: str | None = None

    @property
    def paths(self) -> list[str]:
        """The paths of all files, in the order in which they are written."""
        return [path for path in (self.train, self.validation, self.test, self.mean) if path]


def convert(
    name: str,
    folder: str,
    source: str | None = None,
    pad: int = 0,
    progress: Progress | None = None,
    validation: int = 0,
) -> Files:
    """Convert a dataset for Caffe, unless all of its files exist.

    The samples have the order of the official files; digits have that of ``read_digits``.
    Existing files are kept even if they were made from another source: remove one to convert again.

    Args:
        name: The dataset: digits, mnist or cifar10.
        folder: Where to write the files; it is made if needed.
        source: A folder with the official files, or CIFAR-10's archive (None: download them;
            digits come with scikit-learn).
        pad: Zeros to add on each side of an image, for nets that crop. Caffe's Data layer crops
            anywhere in training, and in the middle, which is the image, in the test. The mean is
            padded too: the border stays zero after its subtraction, and one mean file serves both
            phases. A padded set is called NAME_padN.
        progress: Called with "downloading FILE", the bytes downloaded and their total (None: the
            server did not send it); then with the name of an LMDB, the samples written and their
            total.
        validation: How many of the training samples are for validation: they have an LMDB of their
            own, and neither the training samples nor the mean contain them.
            :func:`lrbench_caffe.stratified.choose` chooses them.

    Returns:
        The paths of the files.

    Raises:
        InputError: An argument is invalid; a file cannot be read, downloaded or written; or the
            files exist with another number of validation samples.
    """
    if name not in NAMES:
        raise InputError("unknown dataset %r: choose one of %s" % (name, ", ".join(NAMES)))
    if pad < 0:
        raise InputError(
            "invalid pad=%d, expected the number of zeros to add on each side of an image, 0 or "
            "more" % pad
        )
    if name == "digits" and source is not None:
        raise InputError(
            "digits come with scikit-learn and are not read from %s: leave --from out" % source
        )
    if validation < 0:
        raise InputError(
            "invalid validation=%d, expected the number of validation samples, 0 or more"
            % validation
        )
    files = paths(name, folder, pad, validation > 0)
    if _exist(files, validation):
        return files
    with locked(folder, _stem(name, pad)):
        if _exist(files, validation):  # another process has written them in the meantime
            return files
        if name == "digits":
            train, test = digits.read()
        else:
            command = _command(name, folder, pad, validation)
            train, test = _read_official(name, source, command, progress)
        parts = _divided(name, train, validation) if validation else (train, None)
        return _write_set(_stem(name, pad), folder, parts[0], test, pad, progress, parts[1])


def write_dataset(
    name: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int = 0,
    progress: Callable[[str, int, int], object] | None = None,
    validation: Part | None = None,
) -> Files:
    """Write a dataset under the names that :func:`convert` gives; existing files are replaced.

    Args:
        name: Any name.
        folder: Where to write the files; it is made if needed.
        train: The training samples.
        test: The test samples.
        pad: Zeros to add on each side of an image.
        progress: Called with the name of an LMDB, the samples written and their total.
        validation: The validation samples, None if there are none.

    Returns:
        The paths of the files.

    Raises:
        InputError: The files cannot be written.
    """
    with locked(folder, _stem(name, pad)):
        return _write_set(_stem(name, pad), folder, train, test, pad, progress, validation)


def paths(name: str, folder: str, pad: int = 0, validation: bool = False) -> Files:
    """Return the paths of a dataset's files, whether they exist or not."""
    stem = os.path.join(folder, _stem(name, pad))
    files = Files(stem + "_train_lmdb", stem + "_test_lmdb", stem + "_mean.binaryproto", False)
    return files._replace(validation=stem + "_validation_lmdb") if validation else files


def _stem(name: str, pad: int) -> str:
    return "%s_pad%d" % (name, pad) if pad else name


def _exist(files: Files, validation: int) -> bool:
    """Whether a set is complete. Raise InputError if it has other validation samples."""
    if not all(os.path.exists(path) for path in files[:3]):
        return False
    path = files.train[: -len("_train_lmdb")] + "_validation_lmdb"
    samples = records.describe_lmdb(path)[0] if os.path.exists(path) else 0
    if samples != validation:
        raise InputError(
            "%s was made with %d validation samples, not %d: name another folder with --to, or "
            "remove it to make it again" % (files.train, samples, validation)
        )
    return True


def _read_official(
    name: str, source: str | None, command: str, progress: Progress | None
) -> tuple[Part, Part]:
    """The training and the test samples of MNIST or CIFAR-10; the files are downloaded if needed.

    The arguments are those of :func:`convert` and :func:`official.fetch`.
    """
    dataset = mnist if name == "mnist" else cifar10
    if source is None:
        source = official.fetch(name, dataset.MIRRORS, dataset.DOWNLOADS, command, progress)
    return dataset.read(source)


def _command(name: str, folder: str, pad: int, validation: int) -> str:
    """The command that does the same as :func:`convert` with files of the user."""
    return "lrbench data %s%s%s --from DIR --to %s" % (
        name,
        " --pad %d" % pad if pad else "",
        " --validation %d" % validation if validation else "",
        shlex.quote(folder),
    )


def _divided(name: str, part: Part, validation: int) -> tuple[Part, Part]:
    """The training and the validation samples."""
    chosen = stratified.choose(part.labels, validation, name)
    train, held_out = (Part(part.images[mask], part.labels[mask]) for mask in (~chosen, chosen))
    return train, held_out


def _write_set(
    stem: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int,
    progress: Callable[[str, int, int], object] | None,
    validation: Part | None,
) -> Files:
    """Write the files of a dataset."""
    import lmdb

    files = paths(stem, folder, validation=validation is not None)._replace(written=True)
    lmdbs = [(files.train, train), (files.validation, validation), (files.test, test)]
    parts = {os.path.basename(path): part for path, part in lmdbs if path and part}

    def write(new: str) -> None:
        for name, part in parts.items():
            path = os.path.join(new, name)
            records.write_lmdb(path, part.images, part.labels, pad, progress)
        mean = os.path.join(new, os.path.basename(files.mean))
        records.write_mean(mean, train.images, pad)

    older = paths(stem, folder, validation=True).paths
    try:
        publish(files.paths, older, os.path.join(folder, ".%s.partial" % stem), write)
    except (lmdb.Error, OSError) as error:
        needed = sum(records.lmdb_bytes(part.images, pad) for part in parts.values())
        raise InputError(
            "cannot write %s to %s (%s): make room, or name another folder"
            % (stem, folder, disk_problem(error, folder, needed))
        ) from None
    return files
