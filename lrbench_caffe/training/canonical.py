"""How the database identifies a network and a solver: by their content, without paths and data."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from caffe.proto import caffe_pb2

from lrbench_caffe.training import encoding, float32
from lrbench_caffe.training.metrics_layer import MODULE as METRICS_MODULE
from lrbench_caffe.training.net import DATA_LAYERS

# The fields of a SolverParameter that are recorded elsewhere or depend on where files lie.
NETS = (
    "net",
    "net_param",
    "train_net",
    "train_net_param",
    "test_net",
    "test_net_param",
    "train_state",
    "test_state",
)
SCHEDULE = ("base_lr", "lr_policy", "gamma", "power", "stepsize", "stepvalue")
# Of these, weights is recorded with what the training begins with, and the last two change nothing.
UNRECORDED = (
    *NETS,
    *SCHEDULE,
    "weights",
    "snapshot_prefix",
    "random_seed",
    "snapshot_diff",
    "test_compute_loss",
)


def canonical_network(net: caffe_pb2.NetParameter) -> str:
    """Return the prototxt that identifies a network.

    It has the layers without comments, without those that bring the data, and without those that
    LRBench adds. The same network trained from other folders or with another batch size has the
    same text.
    """
    bare = caffe_pb2.NetParameter()
    bare.layer.extend(
        layer
        for layer in net.layer
        if layer.type not in DATA_LAYERS
        and layer.python_param.module != METRICS_MODULE
        and not layer.name.startswith("lrbench_")
    )
    return encoding.printed(bare)


def network_hash(text: str) -> str:
    """Return the SHA-256 of a canonical network, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def solver_settings(solver: caffe_pb2.SolverParameter) -> dict[str, object]:
    """Return the settings of a solver by Caffe's names, without nets, paths, schedule and seed.

    A setting with Caffe's default value is left out, as if the prototxt did not have it; but not
    the solver_mode, because it says where the training ran.
    """
    return {
        field.name: field_value(field, value)
        for field, value in solver.ListFields()
        if field.name not in UNRECORDED and (is_set(field, value) or field.name == "solver_mode")
    }


def is_set(field: Any, value: Any) -> bool:
    """Return whether the value of a field that is present differs from Caffe's default."""
    return field.label == field.LABEL_REPEATED or value != field.default_value


def field_value(field: Any, value: Any) -> object:
    """Return the value of a field for JSON: enums by name, floats as the shortest equal decimal."""
    if not isinstance(value, (bool, int, float, str)):  # all other recorded fields are repeated
        return [_number(number) for number in value]
    if field.enum_type:
        return field.enum_type.values_by_number[value].name
    return encoding.readable(value) if isinstance(value, str) else _number(value)


def _number(value: object) -> object:
    if not isinstance(value, float):
        return value
    return float32.shortest(value) if np.isfinite(value) else str(value)
