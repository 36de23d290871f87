"""The events of a training, described once for all code that emits, forwards or receives them.

An event has a kind and a content:

``"note"``
    A message for the user (str). It may come at any time, even before "begin".
``"begin"``
    The Trial as it starts: its setup and policy, without rows. A trial that moves to another
    worker of a Dask cluster begins again.
``"progress"``
    A dict with the number of finished iterations ``iteration``, ``max_iter``, the learning rate
    ``lr`` and the last mini-batch loss ``loss``. About four per second; on a Dask cluster at most
    one per second.
``"display"``
    Only from a verbose job: a dict with the iteration ``iteration`` at Caffe's display interval,
    its learning rate ``lr``, and its loss ``loss``, averaged as in Caffe's log.
``"row"``
    An Evaluation. A resumed trial first repeats the rows up to its snapshot, because they may not
    have been recorded.
``"end"``
    The Trial as it ended: all its rows, its state, and the error if it has one. A trial that
    finished early has the reason as its error.
``"problem"``
    Only from a pool: why a training could not begin (str). The error of a training that has begun
    is in its "end".

A function that receives events is called ``on_event(kind, content)``, or
``on_event(job, kind, content)`` if it receives those of several trainings. It returns None, or a
verdict: the pair (state, reason). A verdict interrupts the training, which then ends in that state
with that reason as its error. The first verdict counts; of verdicts on the same event, that of the
journal, then those of the other receivers in their order. It is ignored if the training diverges,
or finishes otherwise than early, before the interruption takes effect.

Contents travel between processes as JSON. :class:`EventReader` turns them back into values.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Optional, Tuple

from lrbench_caffe.trial import FINISHED, Evaluation, Job, Trial, from_dict

Verdict = Tuple[str, str]
OnEvent = Callable[[str, Any], Optional[Verdict]]
OnJobEvent = Callable[[Job, str, Any], Optional[Verdict]]


def first_verdict(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the verdict that counts: the first one, or None if there is none.

    Example:
        >>> first_verdict([None, ("failed", "full disk"), ("pruned", "hopeless")])
        ('failed', 'full disk')
    """
    return next(filter(None, verdicts), None)


def has_stopped_improving(state: str, error: str | None) -> bool:
    """Return whether this is the end of a training that has stopped improving.

    A verdict on the row with which it ended counts before that: a training that is stuck has not
    improved either.
    """
    return state == FINISHED and error is not None


class EventReader:
    """Turns the JSON contents of one training's events into values.

    Attributes:
        trial: The Trial with the rows read so far; None before "begin".
    """

    def __init__(self) -> None:
        self.trial: Trial | None = None

    def read(self, kind: str, content: Any) -> Any:
        """Return the content of an event as a value.

        Args:
            kind: The kind of the event.
            content: Its JSON content: for "begin" and "row" what
                :func:`lrbench_caffe.trial.to_dict` returns, for "end" the arguments of
                :meth:`lrbench_caffe.trial.Trial.ended_as`.

        Returns:
            A Trial for "begin" and "end", an Evaluation for "row", else the content itself.
        """
        if kind == "begin":
            content = self.trial = from_dict(Trial, content)
        elif kind == "row":
            content = from_dict(Evaluation, content)
            self.trial = self._started_trial().with_row(content)
        elif kind == "end":
            content = self.trial = self._started_trial().ended_as(**content)
        return content

    def _started_trial(self) -> Trial:
        assert self.trial is not None, 'a training emits "begin" first'
        return self.trial
