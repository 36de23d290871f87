"""The layers that are added to a test net: metrics layers, and the losses of the training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from caffe.proto import caffe_pb2

from lrbench_caffe.training.blobs import Blobs
from lrbench_caffe.training.head import (
    BINARY,
    FLAT,
    LOSSES,
    PROBABILITIES,
    SOFTMAX,
    count_classes,
    find_uses,
)
from lrbench_caffe.training.metrics_layer import LAYER, MODULE, MeasuredHead, data_layer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.training.blobs import Blob
    from lrbench_caffe.training.head import Head, Use


def is_loss(layer: Any) -> bool:
    """Return whether Caffe adds a top of a layer to the loss of the net."""
    if layer.loss_weight:
        return any(layer.loss_weight)
    return bool(layer.type.endswith("Loss"))


class InstrumentedNet:
    """The layers that a test net has in its phase, and those that are added to it.

    Attributes:
        layers: The LayerParameters in order.
        blobs: The blobs of these layers, as they are now.
    """

    def __init__(self, layers: Sequence[Any], trained: Sequence[Any]) -> None:
        """Start without added layers.

        Args:
            layers: The LayerParameters of the test net.
            trained: Those of the training net.
        """
        self.layers = list(layers)
        self.blobs = Blobs(self.layers)
        self._trained = Blobs(trained)

    def add_losses(self) -> bool:
        """Add the losses of the training net; return whether the test net has them now.

        All are added or none, so that the test loss and the train loss are the same sum. Only
        losses without parameters are added, each where the blobs are that it reads in the training.
        """
        losses = [layer for layer in self._trained.layers if is_loss(layer)]
        places = [self._place(loss) for loss in losses]
        if len(losses) == 1 and places == [None]:
            places = [self._place_of_other_names(losses[0])]
        placed = [place for place in places if place is not None]
        if not losses or len(placed) < len(losses):
            return False
        copies = [self._copied(loss, names) for loss, (names, _) in zip(losses, placed)]
        # From the end to the start, so that the places stay valid.
        order = sorted(range(len(losses)), key=lambda n: (placed[n][1], n), reverse=True)
        for n in order:
            self.layers.insert(placed[n][1], copies[n])
        return True

    def _place(self, loss: Any) -> tuple[list[str], int] | None:
        """The bottoms of a copied loss in the test net and its index, None without a place."""
        blobs, trained = self.blobs, self._trained
        index = trained.index_of(loss)
        bottoms = [blobs.counterpart(trained.read(index, name), trained) for name in loss.bottom]
        if not loss.type.endswith("Loss") or None in bottoms:
            return None
        read = [blob for blob in bottoms if blob is not None]
        end = 1 + max((blob.producer for blob in read), default=-1)
        if any(blobs.read(end, blob.name) != blob or self._is_changed(blob) for blob in read):
            return None
        # The labels of an Accuracy are classes. In the training they may be, for example, vectors.
        classes = {use.labels for use in find_uses(blobs) if use.is_accuracy}
        if classes & set(read) and not self._takes_classes(loss, read[0]):
            return None
        return list(loss.bottom), end

    def _is_changed(self, blob: Blob) -> bool:
        """Whether a layer works in place on a blob, which Caffe allows its only reader."""
        return any(
            blob.name in layer.bottom
            and blob.name in layer.top
            and self.blobs.read(index, blob.name) == blob
            for index, layer in enumerate(self.layers)
        )

    def _takes_classes(self, loss: Any, scores: Blob) -> bool:
        """Whether the labels of a loss of these scores are classes."""
        kind = LOSSES.get(loss.type)
        return kind is not None and (kind != BINARY or count_classes(self.blobs, scores, 1) == 1)

    def _place_of_other_names(self, loss: Any) -> tuple[list[str], int] | None:
        """The place of the only loss if its scores have another name in the training."""
        heads = {(use.scores, use.labels): use for use in find_uses(self.blobs)}
        if len(heads) != 1 or loss.type not in LOSSES or len(loss.bottom) != 2:
            return None
        (use,) = heads.values()
        scores = use.compared if LOSSES[loss.type] == PROBABILITIES else use.scores
        has_probabilities = use.kind == PROBABILITIES and scores == use.compared
        end = self.blobs.index_of(use.layer) + 1
        if (
            has_probabilities != (LOSSES[loss.type] == PROBABILITIES)
            or self.blobs.read(end, scores.name) != scores
            or self._is_changed(scores)
            or not self._takes_classes(loss, scores)
        ):
            return None
        return [scores.name, use.labels.name], end

    def _copied(self, loss: Any, bottoms: list[str]) -> Any:
        """A loss of the training net on bottoms of the test net."""
        copy = caffe_pb2.LayerParameter()
        copy.CopyFrom(loss)
        copy.name = self._unused("lrbench_" + loss.name)
        copy.bottom[:] = bottoms
        copy.top[:] = [self._unused("lrbench_" + top) for top in loss.top]
        copy.ClearField("include")
        copy.ClearField("exclude")
        return copy

    def add_metrics(self, head: Head, is_optional: bool) -> MeasuredHead:
        """Add a metrics layer for a head, and a Softmax if it needs one.

        They follow the layer that compares the scores with the labels, because a later layer could
        change the scores in place.

        Args:
            head: The head.
            is_optional: Whether the training continues without it if it cannot be measured.
        """
        use = head.ranking
        end = self.blobs.index_of(use.layer) + 1
        added = []
        if head.kind == SOFTMAX:
            softmax = self._softmax(use)
            added.append(softmax)
            bottoms = [softmax.name, use.labels.name, use.compared.name]
        else:
            is_live = self.blobs.read(end, use.scores.name) == use.scores
            # A sigmoid is above 0.5 where its input is above 0.
            compared = use.scores if head.kind == BINARY and is_live else use.compared
            bottoms = [compared.name, use.labels.name]
            # An Accuracy of softmax outputs ranks by them.
            if self._has_scores(use) and not use.is_accuracy and is_live:
                bottoms.append(use.scores.name)
        metrics = caffe_pb2.LayerParameter(
            name=self._unused("lrbench_metrics"), type="Python", bottom=bottoms
        )
        metrics.python_param.module, metrics.python_param.layer = MODULE, LAYER
        metrics.python_param.param_str = json.dumps(self._param(head, is_optional))
        self.layers[end:end] = [*added, metrics]
        if is_optional and head.kind == BINARY:  # its labels may be anything
            return MeasuredHead(head.name, head.classes, head.ignore_label, False, None)
        trained_labels = head.trained[0].labels.name if head.trained else None
        return MeasuredHead(
            head.name,
            head.classes,
            head.ignore_label,
            head.has_probabilities,
            data_layer_of(use.labels.name, self.layers),
            trained_labels and data_layer_of(trained_labels, self._trained.layers),
        )

    def _softmax(self, use: Use) -> Any:
        """A Softmax of the scores that a layer compares."""
        softmax = caffe_pb2.LayerParameter(
            name=self._unused("lrbench_prob"), type="Softmax", bottom=[use.compared.name]
        )
        softmax.top.append(softmax.name)
        softmax.softmax_param.axis = use.axis
        return softmax

    def _has_scores(self, use: Use) -> bool:
        """Whether a layer compares the outputs of a Softmax, whose inputs are in the net."""
        producer = self.blobs.producer(use.compared)
        return producer is not None and producer.type == "Softmax"

    @staticmethod
    def _param(head: Head, is_optional: bool) -> dict[str, object]:
        """The param_str of a head's metrics layer."""
        param: dict[str, object] = {"head": head.name}
        if is_optional:
            param["optional"] = True
        if head.ranking.axis != 1:
            param["axis"] = head.ranking.axis
        if head.ignore_label is not None:
            param["ignore_label"] = head.ignore_label
        if not head.has_probabilities:
            param["probabilities"] = False
        if head.kind == BINARY:
            param["binary"] = True
        elif head.ranking.layer.type in FLAT:
            param["flat"] = True
        return param

    def _unused(self, name: str) -> str:
        """The name, with underscores at its end if a layer or a blob has it already."""
        taken = {layer.name for layer in self.layers}
        taken.update(top for layer in self.layers for top in layer.top)
        while name in taken:
            name += "_"
        return name
