"""The blobs of a net, told apart where layers that work in place use a name again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Blob(NamedTuple):
    """A blob as a layer reads it: a layer that works in place makes a new one of the same name.

    Attributes:
        name: Its name.
        producer: The index of the layer whose top it is, -1 for an input of the net.
    """

    name: str
    producer: int


class Blobs:
    """The blobs of a net in one phase.

    Attributes:
        layers: The LayerParameters that the net has in the phase, in order. The list may grow.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers

    def index_of(self, layer: Any) -> int:
        """Return the index of one of the layers: of this object, not of one with its content."""
        return next(n for n, other in enumerate(self.layers) if other is layer)

    def read(self, index: int, name: str) -> Blob:
        """Return the blob that a layer reads by a name.

        Args:
            index: The index of the layer; the number of layers stands for the end of the net.
            name: The name.
        """
        producers = (n for n in range(index - 1, -1, -1) if name in self.layers[n].top)
        return Blob(name, next(producers, -1))

    def producer(self, blob: Blob) -> Any | None:
        """Return the layer whose top a blob is, None for an input of the net."""
        return self.layers[blob.producer] if blob.producer >= 0 else None

    def versions(self, name: str) -> list[Blob]:
        """Return the blobs that have a name, in the order of the net."""
        return [Blob(name, n) for n, layer in enumerate(self.layers) if name in layer.top]

    def counterpart(self, blob: Blob, other: Blobs) -> Blob | None:
        """Return the blob of this net that corresponds to a blob of another net.

        It has the same name. Of several, it is the one whose producer has the same name and type.

        Args:
            blob: A blob of the other net.
            other: The other net.
        """
        versions = self.versions(blob.name)
        if len(versions) > 1:
            producer = other.producer(blob)
            key = producer and (producer.name, producer.type)
            versions = [
                version
                for version in versions
                for layer in [self.layers[version.producer]]
                if (layer.name, layer.type) == key
            ]
        return versions[0] if len(versions) == 1 else None
