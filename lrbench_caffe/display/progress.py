"""The displays of what moves while the program works: a count, one training, or a study.

On a terminal they draw a bar and keep it up to date. Elsewhere they print plain lines.
"""

from lrbench_caffe.display.bar import ProgressDisplay
from lrbench_caffe.display.study import StudyDisplay
from lrbench_caffe.display.training import TrainingDisplay

__all__ = ["ProgressDisplay", "StudyDisplay", "TrainingDisplay"]
