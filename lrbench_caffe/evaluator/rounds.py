"""The rounds of a search: trains what its stages ask for, within the budget, and tells the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.database import studies
from lrbench_caffe.evaluator.candidates import rates_key
from lrbench_caffe.evaluator.tuning_log import RANGE, Tried

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.evaluator.tuning_log import TuningLog, Wanted
    from lrbench_caffe.trial import Trial


class Rounds:
    """Trains rounds of a search.

    Args:
        trainer: Trains the solver, within its budget.
        on_note: Called with each new decision of the log.
        on_round: Called before each round with the log, the stage and what is trained.
    """

    def __init__(
        self,
        trainer: Trainer,
        on_note: Callable[[str], object] = lambda sentence: None,
        on_round: Callable[[TuningLog, str, Sequence[Wanted]], object] = lambda *_: None,
    ) -> None:
        self._trainer, self._on_note, self._on_round = trainer, on_note, on_round
        self._shown = 0  # notes

    def room(self, length: int) -> int:
        """Count the trainings of a length that the rest of the budget pays for."""
        return self._trainer.room(length)

    def length(self, share: float) -> int:
        """Return the length of a training that takes a share of the full length."""
        return self._trainer.length(share)

    def show(self, log: TuningLog) -> TuningLog:
        """Report the notes that were not reported yet; return the log."""
        for sentence in log.notes[self._shown :]:
            self._on_note(sentence)
        self._shown = len(log.notes)
        return log

    def announce(self, log: TuningLog, stage: str, wanted: Sequence[Wanted] = ()) -> None:
        """Report the notes that were not reported yet, and what is trained next."""
        self.show(log)
        self._on_round(log, stage, wanted)

    def train(
        self,
        log: TuningLog,
        stage: str,
        wanted: Sequence[Wanted],
        length: int,
        count: int | None = None,
    ) -> TuningLog:
        """Train what was not trained yet, as much as there is room for.

        Candidates that would be the same training to the last bit are trained once.

        Args:
            log: The log.
            stage: The stage that asks for the round.
            wanted: The trainings.
            length: The max_iter of each.
            count: The largest number of trainings (None: all).

        Returns:
            The log with the trainings.

        Raises:
            InputError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
            TrialError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        """
        new = self._new(log, wanted, length)[:count][: self.room(length)]
        if not new:
            return log
        self.announce(log, stage, new)
        requests = [(str(item.candidate.policy(length)), length, item.seed) for item in new]
        # Before the trainings: `lrbench study show` prints the reasons while they run.
        self._store_reasons(stage, requests, new)
        trials = self._trainer.train(requests, model=True, end_stuck=True)
        return self._added(log, stage, new, trials)

    def add_range_test(
        self, log: TuningLog, wanted: Sequence[Wanted], trials: Sequence[Trial]
    ) -> TuningLog:
        """Add the trainings of a range test to the log."""
        requests = [(trial.policy, trial.length, trial.setup.seed) for trial in trials]
        self._store_reasons(RANGE, requests, wanted)
        return self._added(log, RANGE, wanted, trials)

    def _new(self, log: TuningLog, wanted: Sequence[Wanted], length: int) -> list[Wanted]:
        """Leave out what was trained before, or would be the same training."""

        def key(item: Wanted | Tried) -> tuple[str, int]:
            return rates_key(item.candidate, length, self._trainer.test_interval), item.seed

        done = {key(tried) for tried in log.tried if tried.length == length}
        new: dict[tuple[str, int], Wanted] = {}
        for item in wanted:
            training = key(item)
            if training not in done:
                new.setdefault(training, item)
        return list(new.values())

    def _added(
        self, log: TuningLog, stage: str, wanted: Sequence[Wanted], trials: Sequence[Trial]
    ) -> TuningLog:
        return log.with_tried(
            Tried(
                stage,
                item.why,
                trial,
                item.candidate,
                trial.length,
                item.seed,
                self._trainer.cost(trial),
            )
            for item, trial in zip(wanted, trials)
        )

    def _store_reasons(
        self, stage: str, requests: Sequence[tuple[str, int, int]], wanted: Sequence[Wanted]
    ) -> None:
        reasons = {request: (stage, item.why) for request, item in zip(requests, wanted)}
        self._trainer.in_database(
            lambda store: studies.add_reasons(store, self._trainer.name, reasons)
        )
