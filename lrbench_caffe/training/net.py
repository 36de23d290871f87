"""The layers of a NetParameter: those of a phase, and those that bring the data."""

from __future__ import annotations

from typing import Any

from caffe.proto import caffe_pb2

# The types of layers that bring the data into a net.
DATA_LAYERS = (
    "Data",
    "ImageData",
    "HDF5Data",
    "WindowData",
    "MemoryData",
    "DummyData",
    "Input",
    "AnnotatedData",
)


def layers_in_phase(
    net: caffe_pb2.NetParameter, phase: int, state: caffe_pb2.NetState | None = None
) -> list[Any]:
    """Return the layers that a net has in a phase, by Caffe's include and exclude rules.

    Args:
        net: The net with all of its layers.
        phase: The phase, caffe_pb2.TRAIN or caffe_pb2.TEST.
        state: The level and stages that the solver adds to those of the net.

    Returns:
        The LayerParameters, in the order of the net.
    """
    merged = state_in_phase(net, phase, state)
    return [layer for layer in net.layer if is_included(layer, merged)]


def state_in_phase(
    net: caffe_pb2.NetParameter, phase: int, state: caffe_pb2.NetState | None = None
) -> caffe_pb2.NetState:
    """Return the state in which Caffe builds a net: the phase, then the net's, then the solver's.

    Args:
        net: The net, whose own state may replace the phase, as in Caffe.
        phase: The phase, caffe_pb2.TRAIN or caffe_pb2.TEST.
        state: The level and stages that the solver adds to those of the net.
    """
    merged = caffe_pb2.NetState(phase=phase)
    merged.MergeFrom(net.state)
    if state is not None:
        merged.MergeFrom(state)
    return merged


def is_included(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState) -> bool:
    """Return whether a net in a state has a layer."""
    if layer.include:
        return any(_meets(state, rule) for rule in layer.include)
    return not any(_meets(state, rule) for rule in layer.exclude)


def _meets(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Whether a net in a state meets all conditions of a rule."""
    return not (
        (rule.HasField("phase") and rule.phase != state.phase)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or not set(rule.stage) <= set(state.stage)
        or set(rule.not_stage) & set(state.stage)
    )
