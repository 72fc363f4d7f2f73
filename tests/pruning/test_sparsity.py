from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ConfigError, ModelError
from lib.models import build
from lib.pruning.sparsity import Endpoint, GroupSparsity, endpoints
from tests.networks import nested_networks


def _small(conv: dict[str, Any] | None = None) -> keras.Model:
    """Two endpoints: "a" of 6 channels with a ReLU of its own, "b" of 10 with one behind a batch normalisation."""
    image = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, activation="relu", name="a", **(conv or {}))(image)
    b = layers.BatchNormalization(name="b_bn")(layers.Conv2D(10, 3, name="b")(a))
    out = layers.Conv2D(2, 1, name="head")(layers.ReLU(name="b_relu")(b))
    return keras.Model(image, out, name="small")


def _by_hand(activations: list[np.ndarray], alpha: float, ratios: list[float]) -> float:
    """The loss as it is defined, one image and layer after the other."""
    total = 0.0
    for maps, ratio in zip(activations, ratios, strict=True):
        terms = []
        for image in maps:
            maxima = sorted(image.max(axis=(0, 1)).tolist())
            lowest = maxima[: int(ratio * len(maxima))]
            terms.append(sum(lowest) / len(lowest) if lowest else 0.0)
        total += sum(terms) / len(terms)
    return alpha * total


def _activations(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    return [
        np.asarray(keras.Model(model.inputs, model.get_layer(item.layer).output)(images)) for item in endpoints(model)
    ]


@pytest.mark.parametrize("ratios", [[0.5, 0.3], [0.0, 0.9], [1.0, 0.05], [0.0, 0.0]])
@pytest.mark.parametrize("alpha", [1.0, 0.01, 0.0])
def test_value_is_the_definitions(rng: np.random.Generator, ratios: list[float], alpha: float) -> None:
    model, images = _small(), rng.normal(size=(5, 8, 8, 3)).astype(np.float32)
    expected = _by_hand(_activations(model, images), alpha, ratios)
    GroupSparsity(model, alpha, ratios)
    model(images)
    total = float(sum(float(term) for term in model.losses))
    assert total == pytest.approx(expected, rel=1e-5)
    assert (total > 0) == (alpha > 0 and any(int(r * c) for r, c in zip(ratios, (6, 10), strict=True)))


def test_the_compiled_step_adds_it_to_the_loss_and_follows_alpha_and_ratios(rng: np.random.Generator) -> None:
    model = _small()
    images, targets = rng.normal(size=(4, 8, 8, 3)).astype(np.float32), rng.normal(size=(4, 4, 4, 2))
    group_sparsity = GroupSparsity(model, 0.0, 0.5)
    model.compile("sgd", "mse", jit_compile=False)
    plain = model.test_on_batch(images, targets)
    activations = _activations(model, images)
    for alpha, ratios in ((2.0, [0.5, 0.5]), (0.5, [0.2, 0.7])):
        group_sparsity.alpha = alpha
        group_sparsity.set_ratios(ratios)
        term = _by_hand(activations, alpha, ratios)
        assert term > 0
        assert model.test_on_batch(images, targets) - plain == pytest.approx(term, rel=1e-4)
    assert group_sparsity.alpha == 0.5


def test_gradients_reach_the_lowest_channels_only(rng: np.random.Generator) -> None:
    """One step on the loss alone moves the filters whose maxima are the lowest, downwards, and no other."""
    image = keras.Input((6, 6, 3))
    maps = layers.Conv2D(8, 3, activation="relu", name="a", bias_initializer="ones")(image)
    model = keras.Model(image, maps)
    images = rng.normal(size=(1, 6, 6, 3)).astype(np.float32)
    before = np.asarray(model.get_layer("a").kernel).copy()
    maxima = np.asarray(model(images)).max(axis=(0, 1, 2))
    lowest = np.argsort(maxima)[:3]
    GroupSparsity(model, 1.0, 3 / 8)
    model.compile(keras.optimizers.SGD(1e-4), loss=None, jit_compile=False)
    model.train_on_batch(images, None)
    moved = (np.asarray(model.get_layer("a").kernel) != before).any(axis=(0, 1, 2))
    assert sorted(np.flatnonzero(moved)) == sorted(lowest)
    after = np.asarray(model(images)).max(axis=(0, 1, 2))
    assert (after[lowest] < maxima[lowest]).all()


def test_training_switches_channels_off(rng: np.random.Generator) -> None:
    model, images = _small(), rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
    GroupSparsity(model, 1.0, {"a": 0.5, "b": 0.0})
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(images, np.zeros((16, 4, 4, 2)), epochs=60, verbose=0)
    silent = (_activations(model, images)[0] == 0).all(axis=(0, 1, 2))
    assert silent.sum() >= 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_sums_are_taken_in_float32(rng: np.random.Generator, policy: str) -> None:
    """In half precision a sum of 300 maxima would be off in the third digit."""
    maps = keras.Input((4, 4, 3))
    model = keras.Model(maps, layers.Conv2D(600, 1, activation="relu", name="a", dtype=policy)(maps))
    images = rng.normal(size=(3, 4, 4, 3)).astype(np.float32)
    (activations,) = _activations(model, images)
    assert activations.dtype != np.float32
    GroupSparsity(model, 0.123456, 0.5)
    model(images)
    (term,) = model.losses
    assert float(term) == pytest.approx(_by_hand([activations.astype(np.float64)], 0.123456, [0.5]), rel=1e-5)


def test_works_on_several_devices(rng: np.random.Generator) -> None:
    """Each replica's mean over its half of the batch, averaged, is the mean over the batch."""
    tf = pytest.importorskip("tensorflow")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    images, targets = rng.normal(size=(4, 8, 8, 3)).astype(np.float32), np.zeros((4, 4, 4, 2), np.float32)
    with strategy.scope():
        model = _small()
        activations = _activations(model, images)
        GroupSparsity(model, 0.5, 0.5)
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    outputs = np.asarray(model.predict(images, verbose=0))
    loss = model.evaluate(images, targets, batch_size=4, verbose=0)
    assert loss - (outputs**2).mean() == pytest.approx(_by_hand(activations, 0.5, [0.5, 0.5]), rel=1e-4)
    model.fit(images, targets, batch_size=4, verbose=0)


def test_nothing_of_it_is_saved_or_copied(tmp_path: Path) -> None:
    model = _small()
    config, weights = model.get_config(), len(model.weights)
    group_sparsity = GroupSparsity(model, 1.0, 0.5)
    assert model.get_config() == config
    assert len(model.weights) == weights
    model.save(tmp_path / "m.keras")
    for copy in (keras.saving.load_model(tmp_path / "m.keras"), keras.models.clone_model(model)):
        copy(np.zeros((1, 8, 8, 3)))
        assert not copy.losses
    model(np.zeros((1, 8, 8, 3)))
    assert len(model.losses) == 2  # still attached
    group_sparsity.detach()
    model(np.zeros((1, 8, 8, 3)))
    assert not model.losses
    GroupSparsity(model, 1.0, 0.5)


def test_endpoints_by_hand() -> None:
    assert endpoints(_small()) == [Endpoint("a", "a", 6), Endpoint("b", "b_relu", 10)]
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="seen_before_its_relu")(image)
    y = layers.ReLU()(x)
    y = layers.Conv2D(4, 1, name="tied")(y)
    y = layers.ReLU()(layers.Add()([x, y]))
    y = layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = layers.Activation("relu6", name="six")(y)
    y = layers.LeakyReLU()(layers.Conv2D(4, 1, name="leaky")(y))
    out = layers.Conv2D(2, 1, name="head")(y)
    assert endpoints(keras.Model(image, out)) == [Endpoint("depthwise", "six", 4)]


def test_endpoints_of_whole_networks() -> None:
    names = [item.name for item in endpoints(build("eresfd"))]
    assert names[:3] == ["conv2", "conv3", "conv4_conv1"]
    assert len(names) == 2 + 1 + 13 + 9 + 30  # stem, conv4, blocks, FPN, context modules
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    assert [item.name for item in endpoints(vgg)] == [
        f"block{block}_conv{conv}" for block, convs in enumerate((2, 2, 3, 3, 3), 1) for conv in range(1, convs + 1)
    ]


def test_models_without_fit_endpoints_are_refused() -> None:
    image = keras.Input((8, 8, 3))
    relu = layers.ReLU(name="shared")
    both = layers.Add()([relu(layers.Conv2D(4, 1, name="a")(image)), relu(layers.Conv2D(4, 1, name="b")(image))])
    with pytest.raises(ModelError, match=r"shared is the ReLU of both (a and b|b and a)"):
        endpoints(keras.Model(image, both))
    with pytest.raises(ModelError, match="no functional model"):
        endpoints(keras.Sequential(name="empty"))
    with pytest.raises(ModelError, match="nothing to make sparse"):
        GroupSparsity(keras.Model(image, layers.Conv2D(4, 1)(image)), 1.0, 0.5)
    with pytest.raises(ModelError, match="a: there is an activity regulariser already"):
        GroupSparsity(_small({"activity_regularizer": "l2"}), 1.0, 0.5)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ([0.5], "lists 1 ratios, but the model has 2 endpoints: a, b"),
        ([0.5] * 19, "lists 19 ratios, but the model has 2 endpoints"),
        ([0.5, 1.1], "pruned_ratio of b must be from 0 to 1, got 1.1"),
        (-0.1, "from 0 to 1"),
        (float("nan"), "from 0 to 1"),
        ({"a": 0.5, "c*": 0.5}, r"names c\*, and no endpoint is called so; known: a, b"),
        ({"a": 0.5}, "leaves out b; '.' stands for the rest; known: a, b"),
        ({"[ab]": 0.5, "a*": 0.1}, r"a has two ratios in pruned_ratio, by '\[ab\]' and by 'a\*'"),
    ],
)
def test_unfit_ratios(ratios: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupSparsity(_small(), 1.0, ratios)


def test_an_exact_name_goes_before_a_pattern_and_the_rest_comes_last(rng: np.random.Generator) -> None:
    model, images = _small(), rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    activations = _activations(model, images)
    group_sparsity = GroupSparsity(model, 1.0, 0.0)
    for ratios, same in (({"a": 0.5, "[ab]": 0.9}, [0.5, 0.9]), ({"*": 0.2, "b": 0.4}, [0.2, 0.4])):
        group_sparsity.set_ratios(ratios)
        model(images)
        total = float(sum(float(term) for term in model.losses))
        assert total == pytest.approx(_by_hand(activations, 1.0, same), rel=1e-5)


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_unfit_alpha(alpha: float) -> None:
    with pytest.raises(ConfigError, match="pruned_alpha must be"):
        GroupSparsity(_small(), alpha, 0.5)


def test_endpoints_of_nested_models_are_found() -> None:
    model = nested_networks()["separable, nested 2"]()
    assert [item.name for item in endpoints(model)] == ["first"]
    model = nested_networks()["residual, nested 2"]()
    assert [item.name for item in endpoints(model)] == ["first", "stem"]
    sparsity = GroupSparsity(model, 1.0, 1.0)
    model(np.ones((1, 16, 16, 3), np.float32))
    assert len(model.losses) == 2
    sparsity.detach()
