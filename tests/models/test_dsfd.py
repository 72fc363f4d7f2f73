"""Structure by shapes alone; what is computed, on a narrow network."""

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.geometry.anchors import anchor_grid
from lib.models import anchors_of, build, inference_model, shots, training_anchors
from lib.models.dsfd import VGG_ENDPOINTS, named_ratios
from lib.pruning import GroupSparsity, endpoints
from lib.pruning.cost import layer_costs
from tests.detectors import random_dsfd

NARROW: dict[str, Any] = {"fem_dims": 8, "fpn_dims": (8, 8, 8, 8, 8, 8)}


@cache
def _narrow(**options: Any) -> keras.Model:
    return build("MobilenetV2", **NARROW, **options)


def test_vggs_endpoints_need_the_seeds_multiply_accumulates() -> None:
    costs = [cost for cost in layer_costs(inference_model(build("vgg_16")), 640, 640) if cost.name in VGG_ENDPOINTS]
    assert [cost.name for cost in costs] == list(VGG_ENDPOINTS)
    assert sum(cost.macs for cost in costs) == 127_822_233_600


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 96), (67, 131)])
def test_any_size_gives_an_output_an_anchor(height: int, width: int) -> None:
    model = _narrow()
    outputs = model(np.zeros((2, height, width, 3), np.float32))
    assert set(shots(model)) == {"", "first_"}
    for shot, spec in shots(model).items():
        anchors = len(anchor_grid(spec, height, width))
        assert outputs[f"{shot}boxes"].shape == (2, anchors, 4)
        assert outputs[f"{shot}scores"].shape == (2, anchors, 2)


def test_small_anchors_are_the_first_shots() -> None:
    model = _narrow()
    assert [spec.scales for spec in shots(model).values()] == [(1.0,), (0.5,)]
    spec, names = training_anchors(model)
    assert (spec.scales, names) == ((1.0, 0.5), ("", "first_"))
    assert (spec.ratio, spec.code) == (1.5, "corners")
    assert anchors_of(model).sizes == (16, 32, 64, 128, 256, 512)


def test_inference_model_holds_nothing_of_the_first_shot() -> None:
    model = random_dsfd()
    inference = inference_model(model)
    assert set(inference.output) == {"boxes", "scores"}
    assert not [layer.name for layer in inference.layers if layer.name.startswith("first_")]
    assert {layer.name for layer in model.layers} - {layer.name for layer in inference.layers} == {
        layer.name for layer in model.layers if layer.name.startswith("first_")
    }
    image = np.random.default_rng(0).uniform(0, 255, (1, 70, 90, 3)).astype(np.float32)
    whole, part = model(image), inference(image)
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(np.asarray(whole[name]), np.asarray(part[name]))
    assert inference_model(inference) is inference


@pytest.mark.parametrize(
    ("options", "scales", "layers"),
    [
        ({"dual_mode": False}, (1.0, 0.5), {"fem0_branch1"}),
        ({"dual_mode": False, "anchor_ratios": (1,), "rect_longer": False}, (1.0,), {"fem0_branch1"}),
        ({"fpn": False}, (1.0, 0.5), set()),
    ],
)
def test_one_shot_has_all_anchors(options: dict[str, Any], scales: tuple[float, ...], layers: set[str]) -> None:
    model = _narrow(**options)
    assert set(shots(model)) == {""}
    spec = anchors_of(model)
    assert spec.scales == scales
    assert spec.ratio == (1.5 if options.get("rect_longer", True) else 1)
    outputs = model(np.zeros((1, 50, 33, 3), np.float32))
    assert outputs["boxes"].shape[1] == outputs["scores"].shape[1] == len(anchor_grid(spec, 50, 33))
    names = {layer.name for layer in model.layers}
    assert layers == names & {"fem0_branch1"}


def test_anchors_of_a_cell_lie_in_the_heads_channels() -> None:
    model = build("MobilenetV2", **NARROW, dual_mode=False)
    bias = np.arange(8, dtype=np.float32)
    head = model.get_layer("head0_boxes")
    head.set_weights([np.zeros(head.kernel.shape), bias])
    score_head = model.get_layer("head0_scores")
    score_head.set_weights([np.zeros(score_head.kernel.shape), np.array([5, 7, 6, 1, 0, -1, -2, 3])])
    outputs = model(np.zeros((1, 64, 64, 3), np.float32))
    np.testing.assert_array_equal(np.asarray(outputs["boxes"])[0, :4], [bias[:4], bias[4:]] * 2)
    np.testing.assert_array_equal(np.asarray(outputs["scores"])[0, :4], [[7, 1], [0, 3]] * 2)


def test_maxout_can_be_off() -> None:
    assert _narrow(maxout=False).get_layer("head0_scores").filters == 2
    assert _narrow().get_layer("head0_scores").filters == 4


@pytest.mark.parametrize(
    ("norm", "layer"),
    [("BN", keras.layers.BatchNormalization), ("GN", keras.layers.GroupNormalization), ("None", None)],
)
def test_norm_is_of_the_extra_layers(norm: str, layer: type | None) -> None:
    model = _narrow(norm=norm, fpn=False)
    assert model.get_layer("extra_conv1").use_bias is (layer is None)
    found = {type(x) for x in model.layers if x.name.startswith("extra_conv") and x.name.endswith(("_bn", "_gn"))}
    assert found == ({layer} if layer else set())


def test_vgg_normalises_its_finest_maps_with_the_given_scales() -> None:
    model = build("vgg_16", **NARROW, l2_norm=(9, 7, 4))
    for name in ("source", "enhanced"):
        assert [model.get_layer(f"{name}{level}_l2").initial_scale for level in range(3)] == [9, 7, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_ratios": (1,)}, "two anchor ratios"),
        ({"anchor_sizes": (16, 32)}, "one anchor size a stride"),
        ({"anchor_ratios": (1, 0)}, "ratios must be positive"),
        ({"fem_dims": 6}, "multiple of 4"),
        ({"fpn_dims": (8, 8)}, "six positive numbers"),
        ({"depth": 3}, "depth"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build("MobilenetV2", **options)


def test_nineteen_ratios_are_those_of_vggs_endpoints_in_the_seeds_order() -> None:
    model = build("vgg_16", **NARROW)
    ratios = [round(0.01 * place, 2) for place in range(1, 20)]
    named = named_ratios(model, ratios)
    assert [named[name] for name in VGG_ENDPOINTS] == ratios
    with_loss = GroupSparsity(model, 1e-3, named)
    counts = dict(zip((item.name for item in with_loss.endpoints), map(int, with_loss._counts), strict=True))
    assert (counts["conv1_1"], counts["fc6"], counts["extra_conv4"]) == (0, int(0.14 * 1024), int(0.19 * 256))
    assert sum(counts.values()) == sum(counts[name] for name in VGG_ENDPOINTS)
    assert len(endpoints(model)) == 19 + 6 * 5
    for other in (0.3, {"*": 0.1}, ratios[:5]):
        assert named_ratios(model, other) is other
    assert named_ratios(_narrow(), ratios) is ratios
