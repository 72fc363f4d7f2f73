from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.search.pictures import draw_search, pareto_front
from lib.search.trial_table import Figures, TrialTable
from lib.search.tuner import SearchTuner
from tests.search.toys import toy_measure, toy_oracle, toy_space


def _drawn(folder: Path, targets: tuple[float, ...]) -> list[Path]:
    record = TrialTable(folder / "search.csv", toy_space(), lambda _: Figures(1, 2))
    oracle = toy_oracle(targets, 6, 5, on_finished=record.update)
    SearchTuner(oracle, toy_measure, folder / "search").search()
    return draw_search(folder / "search.csv", folder, oracle.expected())


@pytest.mark.parametrize(
    ("targets", "names"),
    [((0.6,), ["progress", "rates", "predicted"]), ((0.8, 0.6), ["progress", "rates", "predicted", "pareto"])],
)
def test_pictures_of_a_search(tmp_path: Path, targets: tuple[float, ...], names: list[str]) -> None:
    files = _drawn(tmp_path, targets)
    assert [file.name for file in files] == [f"search_{name}.png" for name in names]
    for file in files:
        picture = cv2.imread(str(file))
        assert picture is not None
        assert picture.std() > 5, "an empty page"


def test_nothing_to_draw(tmp_path: Path) -> None:
    TrialTable(tmp_path / "search.csv", toy_space(), lambda _: Figures(1, 2)).update([])
    assert draw_search(tmp_path / "search.csv", tmp_path) == []


def test_the_front_holds_what_nothing_beats() -> None:
    costs, losses = np.array([0.5, 0.4, 0.9, 0.7, 0.4]), np.array([3.0, 3.5, 2.0, 3.2, 3.6])
    assert pareto_front(costs, losses) == [1, 0, 2]
