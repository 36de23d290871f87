"""The nets and data on which searches are measured: what `benchmarks/against_others.py` trains.

    docker/run python3 benchmarks/tasks.py --mnist FOLDER --cifar10 FOLDER --to DATA

writes the data of all tasks to the folder DATA: the digits, MNIST, 2,000 training and 2,000 test
images of MNIST, and 4,000 training and 2,000 test images of CIFAR-10, reduced to 16x16 pixels.

A training takes one to three seconds, but for LeNet. The nets differ in what decides about their
learning rates: the activation, the optimizer, momentum, normalization, and how fast they learn.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from lrbench_caffe import datasets
from lrbench_caffe.training import prototxt

if TYPE_CHECKING:
    import numpy as np

# The solver of each task, and the max_iter that is not its own.
TASKS = {
    "lenet": ("solvers/lenet_solver.prototxt", 2000, 200),
    "digits": ("solvers/digits_solver.prototxt", None, None),
    "sigmoid": ("benchmarks/tasks/sigmoid_solver.prototxt", None, None),
    "adam": ("benchmarks/tasks/adam_solver.prototxt", None, None),
    "batchnorm": ("benchmarks/tasks/batchnorm_solver.prototxt", None, None),
    "cifar": ("benchmarks/tasks/cifar_solver.prototxt", None, None),
}
SMALL_MNIST = 2000, 2000  # training and test images
SMALL_CIFAR10 = 4000, 2000


class Solver(NamedTuple):
    """The solver of a task.

    Attributes:
        path: Its prototxt, whose paths are absolute.
        max_iter: Iterations of a training.
        test_interval: Iterations between two evaluations.
    """

    path: str
    max_iter: int
    test_interval: int


def write_solver(task: str, data: str, folder: str) -> Solver:
    """Write a task's solver, without snapshots, to a folder.

    Args:
        task: A key of TASKS.
        data: The folder of the data.
        folder: Where to write it.
    """
    source, max_iter, test_interval = TASKS[task]
    source = os.path.join(ROOT, source)
    param = prototxt.resolve(prototxt.read_solver(source), source, data)
    param.max_iter = max_iter or param.max_iter
    param.test_interval = test_interval or param.test_interval
    param.snapshot = 0
    param.snapshot_after_train = False
    path = os.path.join(os.path.abspath(folder), "solver.prototxt")
    prototxt.write_solver(param, path)
    return Solver(path, param.max_iter, param.test_interval)


def main() -> None:
    """Write the data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", required=True, help="folder with MNIST's four idx files")
    parser.add_argument("--cifar10", required=True, help="folder of CIFAR-10's binary version")
    parser.add_argument("--to", required=True, help="folder to write to")
    options = parser.parse_args()
    mnist, cifar10 = datasets.read_mnist(options.mnist), datasets.read_cifar10(options.cifar10)
    write("digits", options.to, datasets.read_digits())
    write("mnist", options.to, mnist)
    write("small_mnist", options.to, first(mnist, SMALL_MNIST))
    small = [datasets.Part(halved(part.images), part.labels) for part in cifar10]
    write("small_cifar10", options.to, first(small, SMALL_CIFAR10))


def write(name: str, folder: str, parts: tuple[datasets.Part, ...]) -> None:
    """Write the two LMDBs of a dataset."""
    print(datasets.write_dataset(name, folder, *parts).train)


def first(parts: tuple[datasets.Part, ...], counts: tuple[int, int]) -> tuple[datasets.Part, ...]:
    """Keep the first samples of the training and the test part."""
    return tuple(
        datasets.Part(part.images[:count], part.labels[:count])
        for part, count in zip(parts, counts)
    )


def halved(images: np.ndarray) -> np.ndarray:
    """Reduce images to half their width and height: the means of 2x2 pixels."""
    samples, channels, height, width = images.shape
    blocks = images.reshape(samples, channels, height // 2, 2, width // 2, 2)
    return blocks.mean(axis=(3, 5)).round().astype(images.dtype)


if __name__ == "__main__":
    main()
