"""The module and the name of Trainer in release 0.1, for programs that still import them."""

from lrbench_caffe.evaluator.trainer import Trainer

Trainings = Trainer
__all__ = ["Trainer", "Trainings"]
