"""Keeps the model of a training's best row, in the process that trains."""

from __future__ import annotations

import math
import os
import time
from typing import IO, TYPE_CHECKING, Any

from caffe.proto import caffe_pb2

from lrbench_caffe.models import BEST, LAST, ModelFiles, ModelFolder, existing_folder
from lrbench_caffe.training import caffemodel, room
from lrbench_caffe.training.deploy import deploy_net
from lrbench_caffe.training.net import layers_in_phase
from lrbench_caffe.training.snapshots import FIRST_COST, MAX_SHARE
from lrbench_caffe.trial import DIVERGED, SET_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import caffe

    from lrbench_caffe.training.measurement import Measurement
    from lrbench_caffe.trial import Job, Trial

MIN_ROOM = 2  # free space for a model to be written, as a multiple of its weights
_METRICS = ("lr", "train_loss", *SET_METRICS)


class ModelKeeper:
    """Writes the model of a training whenever a row is the best so far.

    Without a Top-1 no row is the best, and the last model is kept: at rows as often as a small
    share of the time allows, and at the end.

    A model that cannot be written is reported once. The training continues, and the model before
    stays.
    """

    def __init__(
        self,
        job: Job,
        trial: Trial,
        param: caffe_pb2.SolverParameter,
        measurement: Measurement | None,
        solver: caffe._caffe.Solver,
        emit: Callable[[str, Any], object],
    ) -> None:
        """Prepare to keep models where the job wants them; without a place none are kept.

        Args:
            job: What is trained, with its model_folder and keep_best.
            trial: The trial.
            param: The resolved SolverParameter with its metrics layers.
            measurement: What an evaluation measures, None without a test net.
            solver: The Caffe solver.
            emit: Receives a "note" if a model cannot be read or written.
        """
        self._job, self._trial, self._emit = job, trial, emit
        self._param, self._measurement, self._solver = param, measurement, solver
        self._places: list[ModelFolder | ModelFiles] = []
        if job.model_folder:
            folder = ModelFolder(job.model_folder)
            self._places.append(folder)
            if folder.damage:
                emit("note", folder.damage + ": the training continues as if it had kept no model")
        if job.keep_best:
            self._places.append(ModelFiles(job.keep_best))
        self._best = -math.inf  # the highest Top-1 so far
        self._last_row: dict[str, Any] | None = None
        self._written_at: int | None = None  # the iteration of the model that was written last
        self._written, self._cost = time.monotonic(), FIRST_COST
        self._deploy: dict[str, Any] | None = None
        self._is_reported = False

    def restore(self, rows: Sequence[dict[str, Any]]) -> None:
        """Return to the best of the rows that a resumed trial begins with."""
        measured = [row for row in rows if row["top1"] is not None]
        if not measured:
            return
        best = max(measured, key=lambda row: (row["top1"], -row["iteration"]))
        self._best = best["top1"]
        for place in self._places:
            self._try(place, lambda place: place.restore(best["iteration"], best["top1"]))

    def on_row(self, row: dict[str, Any]) -> None:
        """Keep the model of a row if it is the best so far, the earliest on ties."""
        self._last_row = row
        if row["top1"] is None:
            elapsed = time.monotonic() - self._written
            if not self._has_best and row["iteration"] and elapsed >= self._cost / MAX_SHARE:
                self._put(LAST, row)
        elif row["top1"] > self._best:
            self._best = row["top1"]
            self._put(BEST, row)

    def on_snapshot(self) -> None:
        """Keep the present model for a trial that resumes from the snapshot just taken."""
        for place in self._places:
            self._try(place, lambda place: place.settle())

    def finish(self, state: str) -> None:
        """Keep the last model of a training without a Top-1 that has ended in a state."""
        iteration = self._solver.iter
        is_trained = iteration > 0 and state != DIVERGED
        if self._places and is_trained and not self._has_best and iteration != self._written_at:
            row = self._last_row or {}
            self._put(LAST, row if row.get("iteration") == iteration else {})

    @property
    def _has_best(self) -> bool:
        return self._best > -math.inf

    def _put(self, chosen: str, row: dict[str, Any]) -> None:
        """Write the present weights to each place."""
        started, iteration = time.monotonic(), self._solver.iter
        description = self._description(chosen, row)
        for place in self._places:
            self._try(place, lambda place: self._put_into(place, description))
        self._written_at = iteration
        self._written, self._cost = time.monotonic(), time.monotonic() - started

    def _put_into(self, place: ModelFolder | ModelFiles, description: dict[str, Any]) -> None:
        """Write the present weights to a place, unless that would nearly fill the disk.

        The journal of the rows may be on the same disk, and matters more.
        """
        room.require(existing_folder(place.name), MIN_ROOM * room.weight_bytes(self._solver))
        place.put(description, self._write_weights, self._deploy_net())

    def _try(
        self, place: ModelFolder | ModelFiles, change: Callable[[ModelFolder | ModelFiles], None]
    ) -> None:
        """Change what is kept in a place; report the first problem."""
        try:
            change(place)
        except (OSError, ValueError) as error:
            if not self._is_reported:
                self._is_reported = True
                self._emit("note", self._problem(place, error))

    def _problem(self, place: ModelFolder | ModelFiles, error: OSError | ValueError) -> str:
        """The sentence about a model that cannot be written."""
        kept = "no model is kept until one can be written"
        if place.iteration is not None:
            kept = "the model of iteration %d stays" % place.iteration
        return (
            "the model of iteration %d cannot be kept in %s (%s): the training continues, and %s"
            % (
                self._solver.iter,
                place.name,
                getattr(error, "strerror", None) or error,
                kept,
            )
        )

    def _description(self, chosen: str, row: dict[str, Any]) -> dict[str, Any]:
        trial, setup = self._trial, self._trial.setup
        return {
            "trial": trial.id,
            "policy": trial.policy,
            "seed": setup.seed,
            "network": setup.network.name,
            "dataset": setup.dataset.name,
            "solver": os.path.abspath(self._job.solver),
            "iteration": self._solver.iter,
            "chosen": chosen,
            "head": self._measurement and self._measurement.head.name,
            "metrics": {name: row.get(name) for name in _METRICS},
            "measured_on": row.get("measured_on"),
            "other_sets": row.get("other_sets"),
            "copy": self._job.keep_best,
        }

    def _deploy_net(self) -> dict[str, Any]:
        """The deploy net, or why there is none, as it is recorded beside the weights."""
        if self._deploy is None:
            try:
                net = deploy_net(self._param, self._measurement, self._solver, self._job.head)
                self._deploy = {"prototxt": net.prototxt, "notes": net.notes, "problem": None}
            except Exception as error:  # a training does not end for the lack of a deploy net
                self._deploy = {"prototxt": None, "notes": (), "problem": str(error)}
        return self._deploy

    def _write_weights(self, file: IO[bytes]) -> None:
        net = self._param.train_net_param
        layers = layers_in_phase(net, caffe_pb2.TRAIN, self._param.train_state)
        caffemodel.write(file, self._solver.net, net.name, layers)
