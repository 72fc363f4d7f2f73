"""What the page of a run shows of its first and last model: faces found and lost, curves, channels, costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import keras
import numpy as np

from lib.arrays import FloatArray
from lib.data.annotations import Record
from lib.detection import FaceDetector
from lib.detection.drawing import Image
from lib.detection.formats.pb import DetectionSettings
from lib.evaluation.ap import IOU_THRESHOLD, precision_recall
from lib.geometry.boxes import iou_matrix
from lib.models import inference_model, load
from lib.pruning.cost import kernels, layer_costs
from lib.pruning.graph.weights import filters_of
from lib.runs.usable import first_usable

IMAGES = 100  # at most so many are looked at
PICTURES = 10  # and shown
SURE = 0.5  # score from which a face counts as found in a picture
_PANEL_PX = 400  # the longer side of one half of a picture
_QUALITY = 75

FOUND_RGB, LOST_RGB, MISSED_RGB, FALSE_RGB = (0, 158, 115), (230, 0, 0), (150, 150, 150), (230, 159, 0)


@dataclass
class Findings:
    """What two models of a run come to.

    Attributes:
        names: of the two.
        images: how many were looked at.
        curves: (recall, precision) by model.
        pictures: caption and JPEG, before beside after.
        lost: faces that were found before and are not after, in all images; `found`: those found before.
        channels: (layer, output channels before, those left whose filter is not zero).
        macs: (layer, multiply-accumulates before, after), in millions.

    """

    names: tuple[str, str]
    images: int = 0
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    found: int = 0
    lost: int = 0
    channels: list[tuple[str, float, float]] = field(default_factory=list)
    macs: list[tuple[str, float, float]] = field(default_factory=list)


def look(
    before: Path, after: Path, records: Sequence[Record], detection: DetectionSettings, size_px: tuple[int, int]
) -> Findings:
    """Compares two models of a run on validation images.

    Args:
        before, after: `.keras` files.
        records: annotated images; the first `IMAGES` that can be read are taken.
        detection: how faces are detected.
        size_px: height and width at which multiply-accumulates are counted.

    Raises:
        ModelError: a file is no detector.

    """
    models = [load(path) for path in dict.fromkeys((before, after))]
    first, last = models[0], models[-1]
    findings = Findings((before.stem, after.stem), channels=_channels(first, last), macs=_macs(first, last, size_px))
    images, faces = first_usable(records, IMAGES)
    findings.images = len(images)
    if not any(len(boxes) for boxes in faces):
        return findings
    detections = []
    for model in models:
        detector = FaceDetector(model, detection.iou_threshold, detection.max_detections)
        detections.append([detector(image, detection.score_threshold) for image in images])
    for name, found in zip(findings.names, detections, strict=False):
        findings.curves[name] = _thinned(*precision_recall(found, faces))
    shown = set(np.linspace(0, len(images) - 1, min(PICTURES, len(images))).astype(int).tolist())
    for index, (image, boxes) in enumerate(zip(images, faces, strict=True)):
        pair = [_sure(found[index]) for found in (detections[0], detections[-1])]
        hit_before, hit_after = (_hit(boxes, found) for found in pair)
        lost = hit_before & ~hit_after
        findings.found += int(hit_before.sum())
        findings.lost += int(lost.sum())
        if index in shown:
            none = np.zeros(len(boxes), bool)
            left = _panel(image, boxes, pair[0], hit_before, none)
            right = _panel(image, boxes, pair[1], hit_after, lost)
            faces_here = f"{len(boxes)} face{'' if len(boxes) == 1 else 's'}"
            caption = f"{faces_here}: {hit_before.sum()} found before, {hit_after.sum()} after, {lost.sum()} lost"
            findings.pictures.append((caption, _jpeg(np.hstack([left, np.full_like(left[:, :6], 255), right]))))
    return findings


def _thinned(recall: FloatArray, precision: FloatArray) -> list[tuple[float, float]]:
    """At most 200 points of a curve."""
    taken = np.unique(np.linspace(0, len(recall) - 1, 200).astype(int)) if len(recall) else np.zeros(0, int)
    return [(float(recall[i]), float(precision[i])) for i in taken]


def _sure(detections: FloatArray) -> FloatArray:
    return detections[detections[:, 4] >= SURE]


def _hit(boxes: FloatArray, detections: FloatArray) -> np.ndarray:
    """[m] bool: which faces a detection is on."""
    if not len(boxes) or not len(detections):
        return np.zeros(len(boxes), bool)
    return np.asarray(iou_matrix(boxes, detections[:, :4]).max(axis=1) >= IOU_THRESHOLD)


def _panel(image: Image, boxes: FloatArray, detections: FloatArray, hit: np.ndarray, lost: np.ndarray) -> Image:
    """The image in small with its faces, found, lost or missed, and false alarms."""
    scale = min(1.0, _PANEL_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    panel = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    alarms = detections[~_hit(detections[:, :4], boxes)] if len(detections) else detections
    colours = [LOST_RGB if gone else FOUND_RGB if found else MISSED_RGB for found, gone in zip(hit, lost, strict=True)]
    for box, colour in [*((box, FALSE_RGB) for box in alarms[:, :4]), *zip(boxes, colours, strict=True)]:
        x1, y1, x2, y2 = (int(value) for value in np.clip(np.round(box * scale), -9, 2 * _PANEL_PX))
        cv2.rectangle(panel, (x1, y1), (x2, y2), colour, 2)
    return np.asarray(panel, np.uint8)


def _jpeg(image: Image) -> bytes:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return coded.tobytes()


def _channels(before: keras.Model, after: keras.Model) -> list[tuple[str, float, float]]:
    left = _live(after)
    return [(name, count[0], left.get(name, (0, 0))[1]) for name, count in _live(before).items()]


def _live(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Output channels of each layer with a kernel, and how many of them have a filter that is not zero."""
    counts = {}
    for layer in inference_model(model).layers:
        if kernels(layer):
            filters = filters_of(layer, None)
            counts[layer.name] = (filters.shape[-1], int(filters.reshape(-1, filters.shape[-1]).any(axis=0).sum()))
    return counts


def _macs(before: keras.Model, after: keras.Model, size_px: tuple[int, int]) -> list[tuple[str, float, float]]:
    left = {cost.name: cost.macs for cost in layer_costs(inference_model(after), *size_px)}
    whole = inference_model(before)
    place = {layer.name: index for index, layer in enumerate(whole.layers)}
    costs = sorted(layer_costs(whole, *size_px), key=lambda cost: place.get(cost.name, len(place)))
    return [(cost.name, cost.macs / 1e6, left.get(cost.name, 0) / 1e6) for cost in costs if cost.macs]
