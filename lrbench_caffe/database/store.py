"""The store: trials and their rows in PostgreSQL, as plain values in and out.

A trial enters the database by :meth:`Store.begin`, its rows by :meth:`Store.add`, its end by
:meth:`Store.end` (:mod:`lrbench_caffe.database.writer`). A
:class:`~lrbench_caffe.database.journal.Recorder` calls these from a thread while the training runs.

Use a Store in one thread at a time. Any number of Stores may write at the same time.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Collection, Iterable

from lrbench_caffe.database import delivery, outcomes, reader
from lrbench_caffe.database.writer import Writer
from lrbench_caffe.errors import DatabaseUnavailable
from lrbench_caffe.trial import Evaluation, Trial


class Store(Writer):
    """The trials of one database; a context manager that closes the connection.

    All methods raise InputError if the database rejects a value, which is decided by the SQLSTATE:
    classes 22 and 23. They raise DatabaseUnavailable if the connection is lost and cannot be opened
    again, and ChangeRefused, which is a DatabaseUnavailable, if the database refuses this change
    for another reason, such as a right that the user lacks. The next call tries again.

    Args:
        dsn: The connection string of the database. Without it, ``LRBENCH_DSN`` names the
            database. Without either, the private server is used, and started on demand.
        read_only: Ask the database to refuse all changes.
        on_note: Called with each message about journals that wait for this database (None: the
            messages are logged).
        delivers: Whether to deliver these journals when the Store is opened; see
            :mod:`~lrbench_caffe.database.delivery`.
        lock_timeout: The seconds after which a call that waits for a lock raises
            DatabaseUnavailable (None: it waits until it has the lock).

    Attributes:
        where: The database's name for messages, without its password.
        identity: The database's own UUID, which it keeps whatever its address is.

    Raises:
        InputError: The database cannot be used.

    Example:
        >>> with Store() as store:
        ...     store.begin(trial)
        ...     store.add(trial.id, *trial.rows)
        ...     store.end(trial.id, "finished", time.time())
    """

    def __init__(
        self,
        dsn: str | None = None,
        read_only: bool = False,
        on_note: Callable[[str], None] | None = None,
        delivers: bool = True,
        lock_timeout: float | None = None,
    ) -> None:
        super().__init__(dsn, read_only, lock_timeout)
        if delivers:
            with contextlib.suppress(DatabaseUnavailable):  # the next call raises it again
                delivery.deliver_waiting(self, on_note or delivery.log_note)

    def trial(self, trial_id: str) -> Trial:
        """Return the trial with this id, with all its rows.

        Raises:
            TrialMissing: The database does not have the trial.
        """
        trials = self.transaction(lambda cursor: reader.read_trials(cursor, {"id": trial_id}))
        if not trials:
            raise self._missing("trial " + trial_id)
        return trials[0]

    def trials(
        self,
        network: str | None = None,
        dataset: str | None = None,
        policy: str | None = None,
        function: str | None = None,
        state: str | None = None,
        study: str | None = None,
        best_only: bool = False,
        origin: str | None = None,
    ) -> list[Trial]:
        """Return the trials that match all the given filters, in the order in which they started.

        Args:
            network: The network's name, its hash, or NAME@HASH with the first digits of the hash.
            dataset: The dataset's name, or NAME@SHAPE/TRAIN/TEST, which selects one of several
                datasets with this name.
            policy: The policy's canonical text.
            function: The name of the policy's function.
            state: One of :data:`lrbench_caffe.trial.STATES`.
            study: The name of the study that the trials belong to.
            best_only: Read only the rows that a ranking needs: each trial's best and last row.
                Thousands of trials with all their rows take gigabytes.
            origin: Where the trials were trained: the name or the UUID of the database that they
                were imported from, or :data:`LOCAL` for those that were trained here.
        """
        filters = {
            "network": network,
            "dataset": dataset,
            "policy": policy,
            "function": function,
            "state": state,
            "study": study,
            "origin": origin,
        }
        return self.transaction(lambda cursor: reader.read_trials(cursor, filters, best_only))

    def results(self, **filters: str | None) -> list[Trial]:
        """Return trials with what a ranking needs: their best and last row, in the same order.

        Fifty thousand trials take a second or two. A best row is without the confidences of the
        classes and the metrics of other heads. A last row, which a trial has if it is not the best,
        has only its Top-1. A trial without a Top-1 has no row.

        Args:
            **filters: The filters of :meth:`trials`.
        """
        return self.transaction(lambda cursor: reader.read_results(cursor, filters))

    def outcomes(self, metrics: Collection[str], **filters: str | None) -> list[Trial]:
        """Return trials with what decides about their ranks, in the order in which they started.

        This takes half the time of :meth:`results`. The trials have only what
        :func:`lrbench_caffe.database.outcomes.read` returns.

        Args:
            metrics: The metrics that they are ranked by.
            **filters: The filters of :meth:`trials`.
        """
        return self.transaction(lambda cursor: outcomes.read(cursor, metrics, filters))

    def results_of(self, trial_ids: Iterable[str]) -> dict[str, Trial]:
        """Return trials as :meth:`results` does, by their ids."""
        ids = list(trial_ids)
        trials = self.transaction(lambda cursor: reader.read_results(cursor, {"ids": ids}))
        return {trial.id: trial for trial in trials}

    def rows(self, trial_ids: Iterable[str]) -> dict[str, tuple[Evaluation, ...]]:
        """Return the rows of these trials by the trial's id; a trial without rows is left out."""
        ids = list(trial_ids)
        return self.transaction(lambda cursor: reader.read_rows(cursor, ids))
