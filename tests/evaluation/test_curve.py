from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lib.errors import DataError
from lib.evaluation.curve import COLOURS, Curve, area_under_envelope, draw_curves


@pytest.mark.parametrize(
    ("recall", "precision", "area"),
    [
        ([1.0], [1.0], 1.0),
        ([0.5], [1.0], 0.5),
        ([0.0, 0.5, 1.0], [0.0, 0.5, 0.75], 0.75),  # a later better precision lifts the earlier ones
        ([0.25, 0.5, 0.5], [1.0, 0.5, 0.25], 0.375),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_area(recall: list[float], precision: list[float], area: float) -> None:
    assert area_under_envelope(np.array(recall), np.array(precision)) == pytest.approx(area, abs=1e-15)


def _where(picture: Path, colour: str) -> np.ndarray:
    """[n, 2] row and column of the pixels of a colour."""
    bgr = np.round(255 * np.array(to_rgb(colour))[::-1])
    return np.argwhere(np.all(cv2.imread(str(picture)) == bgr, axis=2))


def test_the_picture_shows_every_curve(tmp_path: Path) -> None:
    recall = np.linspace(0, 0.9, 50)
    curves = {"easy": Curve(0.9, 5, recall, 1 - recall**8), "none": Curve(None, 0, np.zeros(3), np.zeros(3))}
    draw_curves(curves, "title", tmp_path / "curve.png")
    assert len(_where(tmp_path / "curve.png", COLOURS[0])) > 500
    assert len(_where(tmp_path / "curve.png", COLOURS[1])) > 10, "its name in the legend"


def test_a_curve_starts_where_detections_do(tmp_path: Path) -> None:
    draw_curves({"a": Curve(0.7, 2, np.array([0.0, 0.5, 0.9]), np.array([0.0, 0.9, 0.8]))}, "", tmp_path / "curve.png")
    drawn = _where(tmp_path / "curve.png", COLOURS[0])
    upper = drawn[drawn[:, 0] < 600]  # above the legend
    assert len(upper)
    assert upper[:, 1].min() > 400, "no line from the corner of recall 0 and precision 0"


def test_an_unknown_picture_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a name ending in \.png"):
        draw_curves({}, "", tmp_path / "curve.xyz")
    assert not list(tmp_path.iterdir())
