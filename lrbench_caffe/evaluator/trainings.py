"""The name of :class:`lrbench_caffe.evaluator.trainer.Trainer` in release 0.1."""

from lrbench_caffe.evaluator.trainer import Trainer as Trainings

__all__ = ["Trainings"]
