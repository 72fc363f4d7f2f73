import keras
import numpy as np
import pytest

from lib.geometry.anchors import anchor_grid
from lib.models import anchors_of, build, load, save
from lib.models.yunet import yunet
from lib.pruning import apply_masks, channel_sets, largest_difference, plan, shrink
from lib.pruning.cost import count_parameters
from tests.networks import copy_of, lively, random_masks
from tests.shared import shared


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return lively(yunet(stages=(4, 6, 8, 6, 4, 8)), np.random.default_rng(0), side_px=128)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("name", ["yunet_n", "yunet_s"])
def test_network_equals_the_published_one(name: str) -> None:
    model = build(name, weights=shared(f"weights/yunet/{name}.pth"))
    with np.load(shared(f"golden/{name}_even_256x320.npz")) as golden:
        outputs = model(golden["image_rgb"][None].astype(np.float32))
        boxes, scores, points = (np.asarray(outputs[kind][0]) for kind in ("boxes", "scores", "landmarks"))
        start = 0
        for stride in (8, 16, 32):
            level = slice(start, start := start + len(golden[f"cls_{stride}"]))
            assert np.abs(_sigmoid(scores[level, :1]) - golden[f"cls_{stride}"]).max() <= 1e-5
            assert np.abs(_sigmoid(scores[level, 1:]) - golden[f"obj_{stride}"]).max() <= 1e-5
            assert np.abs(boxes[level] - golden[f"bbox_{stride}"]).max() <= 1e-5
            assert np.abs(points[level] - golden[f"kps_{stride}"]).max() <= 1e-5
        assert start == len(boxes)


@pytest.mark.parametrize(("name", "parameters"), [("yunet_n", 75_856), ("yunet_s", 54_608)])
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert sum(int(np.prod(weight.shape)) for weight in build(name).trainable_weights) == parameters


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 96), (67, 131), (250, 17)])
def test_any_size_gives_an_output_a_cell(model: keras.Model, height: int, width: int) -> None:
    outputs = model(np.zeros((2, height, width, 3), np.float32))
    cells = len(anchor_grid(anchors_of(model), height, width))
    assert {kind: values.shape for kind, values in outputs.items()} == {
        "boxes": (2, cells, 4), "scores": (2, cells, 2), "landmarks": (2, cells, 10)
    }  # fmt: skip


def test_an_image_is_padded_at_the_bottom_and_right_with_zeros(model: keras.Model, rng: np.random.Generator) -> None:
    image = rng.uniform(0, 255, (1, 70, 90, 3)).astype(np.float32)
    padded = np.zeros((1, 96, 96, 3), np.float32)
    padded[:, :70, :90] = image
    small, large = model(image), model(padded)
    rows, columns = 9, 12  # of the finest level, of 12 x 12
    for kind in ("boxes", "scores", "landmarks"):
        whole = np.asarray(large[kind])[0, :144].reshape(12, 12, -1)
        own = np.asarray(small[kind])[0, : rows * columns].reshape(rows, columns, -1)
        np.testing.assert_allclose(own, whole[:rows, :columns], rtol=1e-5, atol=1e-5)


def test_what_is_masked_can_be_removed(model: keras.Model, rng: np.random.Generator) -> None:
    sets = channel_sets(model)
    assert len(sets) == 16
    masks = random_masks(sets, rng)
    masked = copy_of(model)
    apply_masks(masked, masks)
    small = shrink(model, masks)
    assert anchors_of(small) == anchors_of(model)
    assert count_parameters(small) < count_parameters(model)
    images = rng.uniform(0, 255, (2, 70, 90, 3)).astype(np.float32)
    assert largest_difference(masked, small, images) <= 1e-4


def test_a_removal_of_the_published_one_is_exact() -> None:
    model = build("yunet_n", weights=shared("weights/yunet/yunet_n.pth"))
    masks = plan(model, 0.25)
    masked = copy_of(model)
    apply_masks(masked, masks)
    with np.load(shared("golden/yunet_n_even_256x320.npz")) as golden:
        image = golden["image_rgb"][None].astype(np.float32)
    assert largest_difference(masked, shrink(model, masks), image) <= 1e-4


def test_its_file_says_what_it_is(model: keras.Model, tmp_path: object) -> None:
    path = f"{tmp_path}/m.keras"
    save(model, path)
    again = load(path)
    assert anchors_of(again) == anchors_of(model)
    assert anchors_of(again).scoring == "geometric mean"
    assert largest_difference(model, again, np.full((1, 40, 40, 3), 99, np.float32)) == 0


@pytest.mark.parametrize("stages", [(16, 64), (0, 1, 1, 1, 1, 1)])
def test_impossible_widths(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="six positive numbers"):
        yunet(stages=stages)
