from collections.abc import Callable

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.pruning import HeldMasks, Masks, apply_masks, channel_sets, plan, zero_softly
from tests.detectors import small_detector


def _masked_values(model: keras.Model, masks: Masks, with_norms: bool = True) -> np.ndarray:
    """All values of the masked channels."""
    parts = []
    for item in channel_sets(model, masks.mode):
        off = list(masks.channels[item.name])
        for name in item.convolutions:
            parts.append(np.asarray(model.get_layer(name).kernel)[..., off].ravel())
        for name in item.norms if with_norms else ():
            layer = model.get_layer(name)
            parts += [np.asarray(layer.gamma)[off], np.asarray(layer.beta)[off]]
    return np.concatenate(parts)


def _convolutions(model: keras.Model) -> list[str]:
    return [name for item in channel_sets(model) for name in item.convolutions]


@pytest.mark.parametrize("mode", ["removable", "per_layer"])
def test_applied_masks_are_zero_and_the_rest_is_untouched(lively_model: keras.Model, mode: str) -> None:
    before = [np.asarray(weight).copy() for weight in lively_model.weights]
    masks = plan(lively_model, 0.5, mode=mode)  # type: ignore[arg-type]
    apply_masks(lively_model, masks)
    assert not _masked_values(lively_model, masks).any()
    changed = sum(int((np.asarray(w) != b).sum()) for w, b in zip(lively_model.weights, before, strict=True))
    assert changed == _masked_values(lively_model, masks).size


def test_removable_channels_do_not_matter_to_the_output(lively_model: keras.Model, rng: np.random.Generator) -> None:
    """With a tied channel zeroed all the way, whatever its readers' weights for it are, the function is the same."""
    masks = plan(lively_model, 0.5)
    apply_masks(lively_model, masks)
    image = rng.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    before = np.asarray(lively_model(image)["boxes"])
    readers = [f"stage{s}_block1_conv1" for s in range(1, 6)] + [f"lateral{i}" for i in range(1, 4)]
    sources = {f"stage{s}_block1_conv1": f"stage{s}_block0_conv2" for s in range(1, 6)}
    sources |= {f"lateral{i}": f"stage{i}_block0_conv2" for i in range(1, 4)}
    for reader in readers:
        kernel = np.asarray(lively_model.get_layer(reader).kernel).copy()
        kernel[:, :, list(masks.channels[sources[reader]]), :] = 1e3
        lively_model.get_layer(reader).kernel.assign(kernel)
    np.testing.assert_array_equal(np.asarray(lively_model(image)["boxes"]), before)


def test_what_is_softly_zeroed_is_zero_in_effect_and_keeps_its_filters(lively_model: keras.Model) -> None:
    image = np.full((1, 64, 64, 3), 99, np.float32)
    masks = plan(lively_model, 0.5)
    filters = [np.asarray(lively_model.get_layer(name).kernel).copy() for name in _convolutions(lively_model)]
    zero_softly(lively_model, masks)
    for name, before in zip(_convolutions(lively_model), filters, strict=True):
        np.testing.assert_array_equal(np.asarray(lively_model.get_layer(name).kernel), before)
    softly = lively_model(image)
    apply_masks(lively_model, masks)
    for name, output in lively_model(image).items():
        np.testing.assert_allclose(np.asarray(softly[name]), np.asarray(output), atol=1e-4)


@pytest.mark.parametrize("normalised", [True, False])
def test_softly_zeroed_channels_come_back(rng: np.random.Generator, normalised: bool) -> None:
    """A step brings something back, and no more than the learning rate: with a zeroed filter it would be all."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="a")(image)
    x = keras.layers.BatchNormalization(name="a_bn")(x) if normalised else x
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="head")(keras.layers.ReLU(name="end")(x)))
    masks = plan(model, 0.5)
    zero_softly(model, masks)
    images, targets = rng.normal(size=(32, 8, 8, 3)), rng.normal(size=(32, 6, 6, 2))
    channel = keras.Model(image, model.get_layer("end").output)

    def strength() -> np.ndarray:
        return np.asarray(channel(images, training=True)).std(axis=(0, 1, 2))[list(masks.channels["a"])]

    assert (strength() < 1e-6).all()
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
    model.fit(images, targets, batch_size=32, epochs=1, verbose=0)
    assert (strength() > 1e-5).all()
    assert (strength() < 0.02).all()
    model.fit(images, targets, batch_size=32, epochs=30, verbose=0)
    assert strength().max() > 5e-3


def test_masks_survive_json() -> None:
    masks = plan(small_detector(), 0.5)
    assert Masks.from_dict(masks.to_dict()) == masks


def test_masks_of_another_model_are_refused() -> None:
    model, wider = small_detector(), small_detector(16)
    with pytest.raises(ModelError, match="another model"):
        apply_masks(model, plan(wider, 0.9))
    with pytest.raises(ModelError, match="another model"):
        apply_masks(model, Masks("removable", {"conv1": (0,)}))
    with pytest.raises(ModelError, match="mode"):
        HeldMasks(model, "per_layer").hold(plan(model, 0.5))


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adam, decoupled weight decay": lambda: keras.optimizers.Adam(1e-2, weight_decay=0.1),
    "sgd with momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
    "averages": lambda: keras.optimizers.Adam(1e-2, weight_decay=0.1, use_ema=True),
    "averages put back": lambda: keras.optimizers.Adam(
        1e-2, weight_decay=0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=7
    ),
    "accumulated gradients": lambda: keras.optimizers.Adam(
        1e-2, weight_decay=0.1, gradient_accumulation_steps=4, use_ema=True
    ),
}


def _tied_model(policy: str = "float32", weight_decay: float | None = None) -> keras.Model:
    """Two convolutions of 8 channels, one with a batch normalisation behind it, added and read by a head."""
    options = {"dtype": policy, "kernel_regularizer": keras.regularizers.L2(weight_decay) if weight_decay else None}
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="a", **options)(image)
    x = keras.layers.BatchNormalization(name="a_bn", dtype=policy)(x)
    x = keras.layers.Add(dtype=policy)([x, keras.layers.Conv2D(8, 3, name="b", **options)(image)])
    x = keras.layers.ReLU(dtype=policy)(x)
    return keras.Model(image, keras.layers.Conv2D(2, 1, name="head", dtype="float32")(x))


@pytest.mark.parametrize(
    ("optimizer", "policy", "coupled"),
    [
        *((name, "float32", None) for name in OPTIMIZERS),
        ("adam, decoupled weight decay", "float32", 0.1),
        ("averages", "mixed_float16", None),
        ("averages", "mixed_bfloat16", None),
    ],
)
def test_held_channels_stay_exactly_zero_for_200_steps(
    rng: np.random.Generator, optimizer: str, policy: str, coupled: float | None
) -> None:
    model, rule = _tied_model(policy, coupled), OPTIMIZERS[optimizer]()
    rule.build(model.trainable_variables)
    held = HeldMasks(model, "removable", rule)
    compiled = keras.optimizers.LossScaleOptimizer(rule) if policy == "mixed_float16" else rule
    model.compile(compiled, "mse", jit_compile=False)
    images, targets = rng.normal(size=(40, 8, 8, 3)), rng.normal(size=(40, 6, 6, 2))
    model.fit(images, targets, batch_size=4, epochs=2, verbose=0)  # momentum for every weight
    masks = plan(model, 0.5)
    off = list(masks.channels["a"])
    kept = [i for i in range(8) if i not in off]
    kernel = np.asarray(model.get_layer("a").kernel).copy()
    held.hold(masks)
    if rule.use_ema:
        averages = zip(rule._trainable_variables, rule._model_variables_moving_average, strict=True)
        assert not any(np.asarray(mean)[..., off].any() for v, mean in averages if not v.path.startswith("head"))

    model.fit(images, targets, batch_size=4, epochs=20, verbose=0)  # 200 steps
    assert not _masked_values(model, masks).any()
    assert not np.asarray(model.get_layer("a").bias)[off].any()
    assert (np.asarray(model.get_layer("a").kernel)[..., kept] != kernel[..., kept]).all()
    rule.finalize_variable_values(model.trainable_variables)  # puts the averages in the weights' place
    assert not _masked_values(model, masks).any()
    assert np.isfinite(np.asarray(model.get_layer("a").kernel)).all()

    held.release()
    model.fit(images, targets, batch_size=4, epochs=1, verbose=0)
    assert _masked_values(model, masks).any()


def test_an_optimiser_that_averages_must_be_built() -> None:
    with pytest.raises(ModelError, match="must be built"):
        HeldMasks(_tied_model(), "removable", OPTIMIZERS["averages"]())


def test_held_masks_leave_no_trace_in_a_saved_model() -> None:
    model = small_detector()
    config, count = model.get_config(), len(model.weights)
    HeldMasks(model, "removable")
    assert model.get_config() == config
    assert len(model.weights) == count
