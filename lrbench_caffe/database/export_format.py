"""The format of exported trials: JSON Lines, a text file with one JSON object in each line.

Every object has one key, the kind of the line:

    {"lrbench": {"version": 1, "made": "2026-01-31T12:00:00Z"}}     the first line
    {"origin": {"database": UUID, "name": ...}}                     where trials were trained
    {"framework": {"name": ..., "version": ...}}
    {"network": {"name": ..., "hash": SHA-256 of prototxt, "prototxt": ...}}
    {"dataset": {"name": ..., "shape": [1, 28, 28], "train_samples": ..., "test_samples": ...}}
    {"policy": {"text": ..., "function": ..., "parameters": {...}, "n_params": ...}}
    {"trial": {"id": UUID, "origin": 1, "framework": 1, "network": 1, "dataset": 1, ...}}
    {"rows": [[iteration, lr, train_loss, test_loss, top1, top5, ac, cd, ...], ...]}
    {"end": {"trials": N, "sha256": of all previous lines, in hex}} the last line

A trial refers to its origin, framework, network, dataset and policy by number: 1 is the first line
of that kind in the file. These lines come before the first trial that refers to them.

A "rows" line belongs to the trial above it. Its rows are in the order of their iterations. The
values of a row are in the order of :data:`~lrbench_caffe.database.columns.EVALUATION_COLUMNS`. The
last ones, the other heads of a net, the set of the row and the metrics on other sets, are left out
from the end while they have nothing but the usual: null, "test", null. A trial with many rows has
several such lines.

Unknown values are null. Times are seconds since the epoch.
"""

from __future__ import annotations

VERSION = 1
MAX_LINE_BYTES = 4 << 20  # JSON may take thirty times as much memory

# The kinds of lines that trials share, each with its fields. Whoever inserts rows into these
# tables does so in this order.
SHARED_FIELDS = {
    "origin": ("database", "name"),
    "framework": ("name", "version"),
    "network": ("name", "hash", "prototxt"),
    "dataset": ("name", "shape", "train_samples", "test_samples"),
    "policy": ("text", "function", "parameters", "n_params"),
}
SHARED_KINDS = tuple(SHARED_FIELDS)

TRIAL_FIELDS = (
    "id",
    *SHARED_KINDS,
    "classes",
    "solver",
    "seed",
    "host",
    "attempt",
    "resumed_at",
    "blas",
    "threads",
    "state",
    "started",
    "ended",
    "error",
)
