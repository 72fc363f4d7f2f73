import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ConfigError
from lib.models import build
from lib.pruning import channel_sets, plan, plan_kept, shrink
from lib.pruning.cost import count_macs, count_parameters


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """EResFD; planning changes nothing in it."""
    return build("eresfd")


def test_plan_takes_the_floor_of_every_set(model: keras.Model) -> None:
    masks = plan(model, 0.3)
    for item in channel_sets(model):
        assert len(masks.channels[item.name]) == int(0.3 * item.size + 1e-9)
    assert not any(plan(model, 0.0).channels.values())


def test_rates_by_pattern(model: keras.Model) -> None:
    masks = plan(model, {"context*": 0.5, "stage1_block0_conv1": 0.25})
    counts = {name: len(indices) for name, indices in masks.channels.items() if indices}
    assert counts.pop("stage1_block0_conv1") == 4
    assert all(name.startswith("context") for name in counts)
    assert counts["context0_branch1"] == 4


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"contxt*": 0.5}, "'contxt.*known: conv1"),
        (1.5, "below 1, got 1.5"),
        (1.0, "needs min_channels=0"),
        (float("nan"), "below 1, got nan"),
        ({"conv1": 1.0}, "below 1"),
        (-0.1, "at least 0"),
        ({"conv*": 0.5, "conv1": 0.1}, "conv1 has two pruning rates"),
    ],
)
def test_unfit_rates(model: keras.Model, rates: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(model, rates)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.29, 2), (0.3, 3), (0.7, 7), (0.99, 9)])
def test_floor_of_the_rate(rate: float, count: int) -> None:
    assert len(plan(_plain(10), rate).channels["a"]) == count


def test_floor_is_not_spoilt_by_floating_point() -> None:
    assert len(plan(_plain(100), 0.29).channels["a"]) == 29


def _plain(channels: int) -> keras.Model:
    image = keras.Input((4, 4, 3))
    return keras.Model(image, layers.Conv2D(1, 1, name="head")(layers.Conv2D(channels, 1, name="a")(image)))


@pytest.mark.parametrize(
    ("rate", "divisor", "least", "kept"),
    [
        (0.5, 1, 1, 10),
        (0.5, 8, 1, 16),
        (0.1, 8, 1, 20),
        (0.9, 8, 1, 8),
        (0.9, 1, 5, 5),
        (0.9, 1, 50, 20),
        (0.99, 1, 0, 1),
    ],
)
def test_rounding_and_the_least_that_stays(rate: float, divisor: int, least: int, kept: int) -> None:
    masks = plan(_plain(20), rate, channel_divisor=divisor, min_channels=least)
    assert 20 - len(masks.channels["a"]) == kept


def test_unfit_counts() -> None:
    with pytest.raises(ConfigError, match="channel_divisor must be at least 1"):
        plan(_plain(4), 0.5, channel_divisor=0)
    with pytest.raises(ConfigError, match="min_channels at least 0"):
        plan(_plain(4), 0.5, min_channels=-1)
    with pytest.raises(ConfigError, match="no criterion is called 'size'; known: fpgm, l1, l2, lamp, gamma, random"):
        plan(_plain(4), 0.5, criterion="size")


def test_a_set_may_be_emptied_where_the_model_survives(model: keras.Model) -> None:
    masks = plan(model, {"stage?_block1_conv1": 1.0, "context*_branch2b": 1}, min_channels=0)
    emptied = {item.name for item in channel_sets(model) if len(masks.channels[item.name]) == item.size}
    assert emptied == {f"stage{s}_block1_conv1" for s in range(1, 6)} | {f"context{i}_branch2b" for i in range(6)}
    with pytest.raises(ConfigError, match=r"head5_(boxes|scores) .*emptied would be context5_branch1"):
        plan(model, {"context5_branch1": 1.0}, min_channels=0)
    with pytest.raises(ConfigError, match="below 1"):
        plan(model, {"stage1_block1_conv1": 1.0}, mode="per_layer", min_channels=0)


def test_rates_by_a_layer_of_the_set(model: keras.Model) -> None:
    tied = next(item for item in channel_sets(model) if "lateral4" in item.convolutions)
    assert tied.name != "lateral4"
    for pattern in ("lateral4", "lateral4_bn", tied.name):
        assert len(plan(model, {pattern: 0.5}).channels[tied.name]) == tied.size // 2
    both = plan(model, {"lateral4": 0.25, tied.name: 0.5})  # the set's own name counts for more than its members'
    assert len(both.channels[tied.name]) == tied.size // 2
    with pytest.raises(ConfigError, match="two pruning rates, by 'lateral4' and by 'lateral\\*_bn'"):
        plan(model, {"lateral4": 0.25, "lateral*_bn": 0.5})


def test_counts_in_place_of_rates(model: keras.Model) -> None:
    masks = plan_kept(model, {"conv1": 3, "conv4_conv1": 0})
    assert {name: len(gone) for name, gone in masks.channels.items() if gone} == {"conv1": 5, "conv4_conv1": 16}
    assert plan_kept(model, {"conv1": 6}).channels["conv1"] == plan(model, {"conv1": 0.25}).channels["conv1"]
    for kept, message in [({"conv9": 1}, "known: conv1"), ({"conv1": 9}, "cannot keep 9"), ({"conv2": 0}, "conv2")]:
        with pytest.raises(ConfigError, match=message):
            plan_kept(model, kept)


@pytest.mark.parametrize("criterion", ["fpgm", "l1"])
def test_channels_that_do_nothing_go_first(lively_model: keras.Model, criterion: str) -> None:
    model = lively_model
    before = plan(model, 0.5, criterion=criterion)
    kept = min(set(range(4)) - set(before.channels["stage5_block0_conv1"]))
    norm = model.get_layer("stage5_block0_conv1_bn")
    for weight in (norm.gamma, norm.beta):  # the filter itself is as large as ever
        weight.assign(np.where(np.arange(4) == kept, 1e-30, np.asarray(weight)))
    assert plan(model, 0.25, criterion=criterion).channels["stage5_block0_conv1"] == (kept,)
    per_layer = plan(model, 0.5, criterion=criterion, mode="per_layer")  # as published: by the filters alone
    assert kept not in per_layer.channels["stage5_block0_conv1"]


def test_random_is_by_the_seed() -> None:
    model = _plain(50)
    chosen = [plan(model, 0.5, criterion="random", seed=seed).channels["a"] for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_protected_layers_keep_their_channels_and_the_masks_know_it(model: keras.Model) -> None:
    masks = plan(model, 0.5, protected=("conv1",))
    assert "conv1" not in masks.channels
    assert masks.protected == ("conv1",)


def test_a_depthwise_convolution_has_a_say() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1, name="a")(image)
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(depthwise(x)))
    model.get_layer("a").kernel.assign(np.ones((1, 1, 3, 3)))
    sizes = np.array([[3.0, 3.0], [1.0, 1.0], [0.5, 9.0]])  # both channels made of one count together
    depthwise.kernel.assign(np.broadcast_to(sizes, (3, 3, 3, 2)))
    assert plan(model, 0.34, criterion="l1").channels == {"a": (1,)}


def test_a_name_stands_for_itself_whatever_is_in_it() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, name="b[2]")(layers.Conv2D(4, 1, name="a[1]")(image))
    model = keras.Model(image, layers.Conv2D(1, 1, name="c[3]")(x))
    assert {name: len(gone) for name, gone in plan(model, {"a[1]": 0.5}).channels.items()} == {"a[1]": 2, "b[2]": 0}
    assert plan(model, 0.5, protected=("c[3]",)).channels.keys() == {"a[1]"}


def test_inputs_of_fixed_sizes_keep_them() -> None:
    large, small = keras.Input((16, 16, 3)), keras.Input((8, 8, 1))
    maps = [layers.Conv2D(8, 3, stride, padding="same")(x) for x, stride in ((large, 2), (small, 1))]
    model = keras.Model([large, small], layers.Dense(3)(layers.Dense(5, name="a")(layers.Add()(maps))))
    sizes = np.array([27 * 8 + 8, 9 * 8 + 8, 8 * 5 + 5, 5 * 3 + 3])
    masks = plan(model, parameters=0.6)
    assert count_parameters(shrink(model, masks)) <= 0.6 * sizes.sum()
    assert count_macs(model, 16, 16) == 64 * (27 * 8 + 9 * 8 + 8 * 5 + 5 * 3)
