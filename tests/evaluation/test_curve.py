from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.errors import DataError
from lib.evaluation.curve import CURVE_BGR, Curve, area_under_envelope, draw_curves, write_picture


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


def test_the_picture_shows_every_curve(tmp_path: Path) -> None:
    recall = np.linspace(0, 0.9, 50)
    curves = {"easy": Curve(0.9, 5, recall, 1 - recall**8), "none": Curve(None, 0, np.zeros(3), np.zeros(3))}
    image = draw_curves(curves, "title")
    for colour in CURVE_BGR[:2]:
        assert (image == colour).all(axis=2).any()
    write_picture(tmp_path / "curve.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "curve.png")), image)


def test_a_curve_starts_where_detections_do() -> None:
    picture = draw_curves({"a": Curve(0.5, 2, np.array([0.0, 0.5]), np.array([0.0, 1.0]))}, "")
    on_axes = (picture[:700] == CURVE_BGR[0]).all(axis=2)
    assert np.argwhere(on_axes)[:, 1].min(initial=1000) > 500  # no line from the corner of recall 0 and precision 0


def test_an_unknown_picture_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a name ending in \.png"):
        write_picture(tmp_path / "curve.xyz", draw_curves({}, ""))
    assert not list(tmp_path.iterdir())
