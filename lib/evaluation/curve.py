"""The precision-recall curve: its area and its picture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from lib.arrays import FloatArray
from lib.errors import DataError
from lib.files import replacing

# Colours that colour-blind eyes tell apart too (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7")
_DPI = 110


@dataclass(frozen=True)
class Curve:
    """Precision against recall for one set of faces.

    Attributes:
        ap: area under the precision envelope, 0..1; None without a single face, where recall is not defined.
        faces: how many faces count.
        recall: float64 [n], ascending, at descending score thresholds; zeros where `ap` is None.
        precision: float64 [n]; 0 at thresholds that no detection reaches.

    """

    ap: float | None
    faces: int
    recall: FloatArray
    precision: FloatArray


def area_under_envelope(recall: FloatArray, precision: FloatArray) -> float:
    """Area under the precision envelope over recall, all points (PASCAL VOC 2010 and later).

    Args:
        recall: [n] ascending, 0..1.
        precision: [n], 0..1; the envelope at a recall is the best precision at this or a higher one.

    """
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(steps * envelope))


def draw_curves(curves: Mapping[str, Curve], title: str, path: str | os.PathLike[str]) -> None:
    """Draws the curves into one pair of axes, both 0..1, with their names and AP; a curve without a face only by name.

    Args:
        curves: by name.
        title: over the axes.
        path: of the picture, which is whole or absent; its ending says the format.

    Raises:
        DataError: the ending of `path` is of no format, or nothing can be written there.

    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        reached = (curve.recall > 0) | (curve.precision > 0)
        label = f"{name}: " + ("no face" if curve.ap is None else f"AP {curve.ap:.4f}")
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(curve.recall[reached], curve.precision[reached], color=colour, linewidth=1.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", title=title)
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_yticks(np.linspace(0, 1, 11))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(loc="lower left")  # below the curves of any good detector
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=_DPI)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the picture cannot be written ({error}); expected a name ending in .png") from error
