"""Candidates of the tuner: learning rate policies that can be tried in trainings of any length.

* ``candidate`` is the value: a policy and the length that it was made for.
* ``choices`` makes the candidates to try: the first one of a function, its neighbours, the same
  with other rates.
* ``keys`` finds candidates that are the same training.
* ``family`` is what the tuner has to know of a function. ``decays``, ``steps``, ``cycles`` and
  ``plateau`` are the families, and ``registry`` lists which function belongs to which.
* ``composition`` has the pieces of a policy, such as a warm-up; ``stretching`` and ``rounding`` the
  whole and the rounded numbers.

Pure functions: nothing here trains or reads a database.
"""

from lrbench_caffe.evaluator.candidates.candidate import Candidate, from_policy, from_text
from lrbench_caffe.evaluator.candidates.choices import (
    first,
    neighbours,
    recipe,
    with_peak,
    with_warmup,
)
from lrbench_caffe.evaluator.candidates.keys import rates_key
from lrbench_caffe.evaluator.candidates.registry import TUNED

__all__ = [
    "TUNED",
    "Candidate",
    "first",
    "from_policy",
    "from_text",
    "neighbours",
    "rates_key",
    "recipe",
    "with_peak",
    "with_warmup",
]
