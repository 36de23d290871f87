"""Writes the weights of a net as a .caffemodel.

Caffe's own function ends the process if the disk is full. This one raises an OSError. A .caffemodel
is a serialized NetParameter. Its parts are written one after the other, so that the weights are
not in memory a second time as a message.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import numpy as np
from caffe.proto import caffe_pb2

from lrbench_caffe.training import encoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import caffe

_LENGTH_DELIMITED = 2  # protobuf's wire type of texts, messages and packed numbers
_INSERTED = ("Split", "Input")  # the types of the layers that Caffe adds to a net


def write(file: IO[bytes], net: caffe.Net, name: str, layers: Sequence[Any]) -> None:
    """Write the name of a net, and the name, the type and the weights of each layer.

    Args:
        file: The open file.
        net: The net.
        name: Its name.
        layers: Its LayerParameters.

    Raises:
        OSError: The file cannot be written.
        ValueError: Caffe has built other layers.
    """
    file.write(_text(caffe_pb2.NetParameter, "name", name))
    described = [layer for layer in layers if layer.type not in _INSERTED]
    built = [layer for layer in net.layers if layer.type not in _INSERTED]
    if [layer.type for layer in described] != [layer.type for layer in built]:
        raise ValueError("Caffe has built other layers than the prototxt has")
    for param, layer in zip(described, built):
        if len(layer.blobs):
            _write_layer(file, param, [np.asarray(blob.data, "<f4") for blob in layer.blobs])


def _write_layer(file: IO[bytes], param: Any, arrays: list[Any]) -> None:
    message = caffe_pb2.LayerParameter
    start = _text(message, "name", param.name) + _text(message, "type", param.type)
    parts = []
    for array in arrays:
        header = _blob_header(array)
        parts.append(_start(message, "blobs", len(header) + array.nbytes) + header)
    size = len(start) + sum(len(part) + array.nbytes for part, array in zip(parts, arrays))
    file.write(_start(caffe_pb2.NetParameter, "layer", size) + start)
    for part, array in zip(parts, arrays):
        file.write(part)
        file.write(array.tobytes())


def _blob_header(array: Any) -> bytes:
    """A BlobProto up to its data."""
    shape = caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=array.shape)).SerializeToString()
    return bytes(shape) + _start(caffe_pb2.BlobProto, "data", array.nbytes)


def _text(message: Any, name: str, text: str) -> bytes:
    """A field with a text, whose bytes are those of the prototxt."""
    content = encoding.encode(text)
    return _start(message, name, len(content)) + content


def _start(message: Any, name: str, size: int) -> bytes:
    """The start of a field of a message, which has a content of so many bytes."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    content.append(value)
    return bytes(content)
