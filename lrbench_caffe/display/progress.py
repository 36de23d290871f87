"""The displays of what moves while the program works: one look for all of it.

On a terminal they draw rows and keep them up to date, see :mod:`lrbench_caffe.display.meter` and
:mod:`lrbench_caffe.display.screen`. Elsewhere they print plain lines.
"""

from lrbench_caffe.display.bar import ProgressDisplay, waiting
from lrbench_caffe.display.search import SearchDisplay, SearchStatus
from lrbench_caffe.display.study import StudyDisplay
from lrbench_caffe.display.training import TrainingDisplay

__all__ = [
    "ProgressDisplay",
    "SearchDisplay",
    "SearchStatus",
    "StudyDisplay",
    "TrainingDisplay",
    "waiting",
]
