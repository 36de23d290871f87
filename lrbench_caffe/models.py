"""The models that trainings keep: their files, and what is recorded beside them.

A trial's models are in the folder ``models/TRIAL`` of LRBench's home. Weights are named after their
iteration, and ``model.json`` names those that count. Weights are complete on the disk before
``model.json`` names them, and are removed only after it names others. So at every moment, also
after ``kill -9``, it names complete weights, and what it says belongs to them.

A second entry of ``model.json`` is the model that was the best at the trial's last snapshot. A
trial that resumes there measures the rows after the snapshot again, and continues with that model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Callable, Dict

from lrbench_caffe import files
from lrbench_caffe.errors import InputError
from lrbench_caffe.paths import home, make_private

if TYPE_CHECKING:
    from collections.abc import Iterable

BEST, LAST = "best", "last"  # why a model was kept
ENDING = ".caffemodel"
_DESCRIPTION = "model.json"
_READS = 3  # of a description, if a training replaces the weights that it names meanwhile

WriteWeights = Callable[[Any], object]  # writes weights into an open file
Description = Dict[str, Any]  # what is recorded beside weights, as JSON can hold it


@dataclass(frozen=True)
class Model:
    """A model that a training has kept.

    Attributes:
        path: The path of the weights, a .caffemodel.
        trial: The id of the trial.
        policy: The text of its policy.
        seed: Caffe's random_seed.
        iteration: The number of iterations after which the weights were as they are.
        chosen: "best" if it is the model of the trial's best row; "last" if it is the last one,
            because no Top-1 is measured.
        metrics: The metrics of its row by name; None for those that were not measured.
        content: Everything that is recorded beside the weights.
        deploy: The text of the deploy net, None if there is none.
        deploy_notes: Sentences on its input, what to do with an image before, and its output.
        deploy_problem: Why there is no deploy net, else None.
    """

    path: str
    trial: str
    policy: str
    seed: int
    iteration: int
    chosen: str
    metrics: dict[str, float | None] = field(hash=False)
    content: dict[str, Any] = field(hash=False, repr=False)
    deploy: str | None = field(repr=False)
    deploy_notes: tuple[str, ...] = field(repr=False)
    deploy_problem: str | None

    @property
    def deploy_net(self) -> str:
        """The prototxt of the net that classifies with the weights.

        Raises:
            InputError: There is none. The message has the reason.
        """
        if self.deploy is None:
            raise InputError(
                "trial %s has no deploy net (%s): write one by hand, and load %s"
                % (self.trial, self.deploy_problem or "it was not made", self.path)
            )
        return self.deploy


def folder(trial: str) -> str:
    """Return the folder of a trial's models, which may not exist."""
    return os.path.join(_root(), trial)


def find(trial: str) -> Model | None:
    """Return the model that a trial has kept on this machine, None if there is none.

    Args:
        trial: The id of the trial.
    """
    path = folder(trial)
    for _ in range(_READS):
        recorded, _ = _read(path)
        current = recorded.get("model")
        if current is None:
            return None
        weights = os.path.join(path, current["file"])
        if os.path.exists(weights):
            return _model(weights, current, recorded["deploy"])
    return None


def _model(path: str, current: Description, deploy: Description) -> Model:
    return Model(
        path=path,
        trial=current["trial"],
        policy=current["policy"],
        seed=current["seed"],
        iteration=current["iteration"],
        chosen=current["chosen"],
        metrics=current["metrics"],
        content=current,
        deploy=deploy["prototxt"],
        deploy_notes=tuple(deploy["notes"]),
        deploy_problem=deploy["problem"],
    )


def copy_weights(model: Model, path: str) -> int:
    """Copy the weights of a model to a file; return their bytes.

    Raises:
        InputError: The file cannot be written, or the model was removed meanwhile.
    """
    try:
        source = open(model.path, "rb")  # noqa: SIM115 - its errors have another message
    except OSError as error:
        raise InputError(
            "cannot read the model %s (%s): run the same command again"
            % (model.path, error.strerror)
        ) from None
    with source, files.reported_errors(path, "model"), files.open_output(path) as target:
        shutil.copyfileobj(source, target)
        return source.tell()


def copy_of(model: Model) -> str | None:
    """Return the path of the copy that the training wrote where the user wanted the model.

    Returns:
        The path of the weights. None if no copy was wanted, or if the copy could not be written and
        the file is missing or holds an earlier model.
    """
    prefix = model.content.get("copy")
    if prefix is None:
        return None
    path: str = prefix + ENDING
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(
        prefix + ".json", "rb"
    ) as file:
        description = json.load(file)
        if description["sha256"] == model.content["sha256"] and os.path.exists(path):
            return path
    return None


def with_models(trials: Iterable[str]) -> list[str]:
    """Return those of these trials, named by their ids, that may have a model."""
    return [trial for trial in trials if os.path.isdir(folder(trial))]


def starting_with(prefix: str) -> list[str]:
    """Return the ids of the trials with a folder of models whose ids start like this.

    Args:
        prefix: The first digits of an id; dashes and case do not matter.
    """
    digits = prefix.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]+", digits):
        return []
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            name for name in os.listdir(_root()) if name.replace("-", "").startswith(digits)
        )
    return []


def damage(trial: str) -> str | None:
    """Return what prevents reading the record of a trial's models, as a part of a sentence.

    Returns:
        None if it can be read, or if there is no record.
    """
    return _read(folder(trial))[1]


def remove(trial: str) -> None:
    """Remove a trial's models; it need not have any."""
    # The folder loses its name first, so that nobody finds a part of it.
    removed = os.path.join(_root(), files.PREFIX + trial)
    with contextlib.suppress(OSError):
        shutil.rmtree(removed, ignore_errors=True)
        os.rename(folder(trial), removed)
    shutil.rmtree(removed, ignore_errors=True)


def _root() -> str:
    return os.path.join(home(), "models")


def _read(path: str) -> tuple[dict[str, Any], str | None]:
    """What the folder of a trial has recorded, empty without a model; and the damage, if any."""
    description = os.path.join(path, _DESCRIPTION)
    try:
        with open(description, encoding="utf-8") as file:
            content = json.load(file)
        for entry in (content["model"], content["at_snapshot"]):
            if entry is not None:
                _model("", entry, content["deploy"])
        return dict(content), None
    except (FileNotFoundError, NotADirectoryError):
        return {}, None
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        return {}, "%s cannot be read (%s)" % (description, reason)


class ModelFolder:
    """The folder of a trial's models, for the one process that writes it.

    Attributes:
        name: Its path, for messages.
        damage: What prevents reading what it has recorded, None if nothing does.
    """

    def __init__(self, path: str) -> None:
        """Open the folder, which need not exist."""
        self._path = self.name = path
        self._load()

    def _load(self) -> None:
        """Read what is recorded."""
        recorded, self.damage = _read(self._path)
        self._current: Description | None = recorded.get("model")
        self._at_snapshot: Description | None = recorded.get("at_snapshot")
        self._deploy: Description | None = recorded.get("deploy")

    @property
    def iteration(self) -> int | None:
        """The iteration of the model, None if there is none."""
        return self._current["iteration"] if self._current else None

    @property
    def path(self) -> str | None:
        """The path of the weights, None if there is no model."""
        return os.path.join(self._path, self._current["file"]) if self._current else None

    @property
    def recorded(self) -> dict[str, Description]:
        """What is recorded beside the weights: "model" and "deploy"."""
        return {"model": self._current or {}, "deploy": self._deploy or {}}

    def take(self, weights: str, recorded: dict[str, Description]) -> None:
        """Take the model of another folder.

        Args:
            weights: A copy of its weights.
            recorded: Its :attr:`recorded`.

        Raises:
            OSError: The model cannot be written. The one before still counts.
        """
        with open(weights, "rb") as file:
            self.put(
                recorded["model"],
                lambda target: shutil.copyfileobj(file, target),
                recorded["deploy"],
            )

    def put(
        self, description: Description, write_weights: WriteWeights, deploy: Description
    ) -> None:
        """Make a model the one that counts.

        Args:
            description: What is recorded beside the weights, among it "iteration".
            write_weights: Writes the weights into an open file.
            deploy: The deploy net: its "prototxt" with "notes", or the "problem" why there is none.

        Raises:
            OSError: The model cannot be written. The one before still counts.
        """
        make_private(os.path.abspath(self._path))
        name = self._unused("iter_%d" % description["iteration"])
        try:
            with files.open_output(os.path.join(self._path, name)) as file:
                digest = _written(file, write_weights)
            _sync(self._path)
            self._current, self._deploy = dict(description, file=name, sha256=digest), deploy
            self._record()
        except BaseException:
            self._load()
            raise
        finally:
            self._remove_others()

    def settle(self) -> None:
        """Keep the present model for a trial that resumes from the snapshot just taken.

        Raises:
            OSError: That cannot be recorded.
        """
        if self._at_snapshot != self._current:
            self._at_snapshot = self._current
            self._record()
            self._remove_others()

    def restore(self, iteration: int, top1: float) -> None:
        """Return to the model of a row, for a trial that has resumed where this row is the best.

        If the folder does not have that model, nothing changes.

        Args:
            iteration: The iteration of the row.
            top1: Its Top-1 accuracy.

        Raises:
            OSError: That cannot be recorded.
        """
        for entry in (self._at_snapshot, self._current):
            if entry and (entry["iteration"], entry["metrics"]["top1"]) == (iteration, top1):
                self._current = self._at_snapshot = entry
                self._record()
                self._remove_others()
                return

    def _unused(self, stem: str) -> str:
        """A name for new weights: those of an earlier attempt may have the same iteration."""
        name, number = stem + ENDING, 1
        while os.path.exists(os.path.join(self._path, name)):
            number += 1
            name = "%s_%d%s" % (stem, number, ENDING)
        return name

    def _record(self) -> None:
        content = {"model": self._current, "at_snapshot": self._at_snapshot, "deploy": self._deploy}
        with files.open_output(os.path.join(self._path, _DESCRIPTION)) as file:
            file.write(_json(content))
        _sync(self._path)

    def _remove_others(self) -> None:
        """Remove all files that no entry names, those of a process that was killed included."""
        named = {entry["file"] for entry in (self._current, self._at_snapshot) if entry}
        for name in os.listdir(self._path):
            if name not in named and name != _DESCRIPTION:
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self._path, name))


class ModelFiles:
    """A model where a user wants it: PREFIX.caffemodel, and PREFIX.json with its description.

    Two files cannot change at the same moment. A description has the SHA-256 of its weights, which
    shows whether they belong together after ``kill -9``.

    Attributes:
        name: The path of the weights, for messages.
        iteration: The iteration of the model, None if none was written.
    """

    def __init__(self, prefix: str) -> None:
        self.name = prefix + ENDING
        self._weights, self._description = prefix + ENDING, prefix + ".json"
        self.iteration: int | None = None

    def put(
        self, description: Description, write_weights: WriteWeights, deploy: Description
    ) -> None:
        """Replace the files, see :meth:`ModelFolder.put`; the deploy net is not written."""
        # Both are complete on the disk before the first of them takes its place.
        with files.open_output(self._description) as described, files.open_output(
            self._weights
        ) as file:
            digest = _written(file, write_weights)
            named = dict(description, file=os.path.basename(self._weights), sha256=digest)
            named.pop("copy", None)
            described.write(_json(named))
            described.flush()
            os.fsync(described.fileno())
        self.iteration = description["iteration"]

    def settle(self) -> None:
        """Do nothing: a training with a prefix is not resumed."""

    def restore(self, iteration: int, top1: float) -> None:
        """Do nothing: a training with a prefix is not resumed."""


def check_prefix(prefix: str) -> str:
    """Return the absolute path of the prefix of a :class:`ModelFiles`.

    Args:
        prefix: What a user has given, such as "out/best".

    Raises:
        InputError: The files cannot be written.
    """
    if not os.path.basename(prefix) or os.path.isdir(prefix):
        raise InputError(
            "invalid --keep-best %s, expected the start of the names of files, for example %s"
            % (prefix, os.path.join(prefix, "best"))
        )
    for path in (prefix + ENDING, prefix + ".json"):
        with files.reported_errors(path, "model", "name another place with --keep-best"):
            files.check_writable(path)
    return os.path.abspath(prefix)


def existing_folder(path: str) -> str:
    """Return the folder that exists in which a path lies, or in which it will be made."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _written(file: IO[bytes], write_weights: WriteWeights) -> str:
    """Write weights into an open file; return their SHA-256 in hexadecimal."""
    hashing = _Hashing(file)
    write_weights(hashing)
    return hashing.digest.hexdigest()


class _Hashing:
    """A file to write into, which also computes the SHA-256 of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _sync(path: str) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(content: Description) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
