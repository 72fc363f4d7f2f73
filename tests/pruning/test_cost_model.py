import keras
import pytest

from lib.errors import ConfigError
from lib.models import build
from lib.pruning import Cost, CostModel, plan, removal_report
from lib.pruning.cost import count_macs, count_parameters, layer_costs


def test_all_channels_cost_what_the_model_costs() -> None:
    model = build("eresfd")
    prediction = CostModel(model, 480, 640)
    assert prediction.full == prediction.of({}) == Cost(count_parameters(model), count_macs(model, 480, 640))
    assert prediction.of({item.name: item.size for item in prediction.sets}) == prediction.full


def test_half_of_every_set_is_a_model_of_half_the_width() -> None:
    prediction = CostModel(build("eresfd"), 250, 333)
    half = build("eresfd", width_mult=8 / 256)
    kept = {item.name: item.size // 2 for item in prediction.sets}
    assert prediction.of(kept) == Cost(count_parameters(half), count_macs(half, 250, 333))


def test_an_emptied_branch_costs_nothing() -> None:
    model = build("eresfd")
    prediction = CostModel(model, 480, 640)

    def without(names: tuple[str, ...], **kept: int) -> Cost:
        rows = [row for row in layer_costs(model, 480, 640) if row.name.startswith(names)]
        expected = (sum(row.parameters for row in rows), sum(row.macs for row in rows))
        cost = prediction.of(kept)
        assert (prediction.full.parameters - cost.parameters, prediction.full.macs - cost.macs) == expected
        return cost

    without(("conv4",), conv4_conv1=0)
    without(("conv4", "stage1_block1"), conv4_conv1=0, stage1_block1_conv1=0)
    without(("stage2_block0_conv",), stage2_block0_conv1=0)


def test_an_empty_context_branch_goes_with_what_it_feeds() -> None:
    """Branch 3 hangs on branch 2, and the heads read the concatenation of all three: 8, 4 and 4 channels."""
    model = build("eresfd")
    prediction = CostModel(model, 480, 640)
    gone = sum(
        row.parameters
        for row in layer_costs(model, 480, 640)
        if row.name.startswith(("context1_branch2", "context1_branch3"))
    )
    heads = (4 + 2) * 8
    assert prediction.full.parameters - prediction.of({"context1_branch2a": 0}).parameters == gone + heads


def test_what_cannot_be() -> None:
    prediction = CostModel(build("eresfd"), 480, 640)
    with pytest.raises(ConfigError, match="'conv9'; known: conv1, "):
        prediction.of({"conv9": 3})
    for count in (-1, 9):
        with pytest.raises(ConfigError, match="conv1 has 8 channels"):
            prediction.of({"conv1": count})
    with pytest.raises(ConfigError, match="head5_"):
        prediction.of({"context5_branch1": 0})


def test_frozen_weights_count_like_others() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="a", trainable=False)(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="head")(x))
    assert CostModel(model, 8, 8).of({"a": 3}) == Cost(3 * 3 + 3 + 3 * 2 + 2, 64 * (3 * 3 + 3 * 2))


def test_the_report_adds_up() -> None:
    model = build("eresfd", width_mult=8 / 256)
    cost = CostModel(model, 96, 96)
    masks = plan(model, {"*": 0.5})
    report = removal_report(cost, masks)
    predicted = cost.of({item.name: item.size - len(masks.channels[item.name]) for item in cost.sets})
    assert (report["total"]["parameters"], report["total"]["macs"]) == (predicted.parameters, predicted.macs)
    assert report["total"]["full_parameters"] == count_parameters(model)
    for key in ("parameters", "macs", "full_parameters", "full_macs"):
        assert sum(row[key] for row in report["sets"]) + report["rest"][key] == report["total"][key]
    first = report["sets"][0]
    assert (first["name"], first["channels"], first["kept"]) == ("conv1", 4, 2)
    assert (first["full_parameters"], first["parameters"]) == (5 * 5 * 3 * 4 + 8, 5 * 5 * 3 * 2 + 4)
