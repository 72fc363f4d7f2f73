from typing import Any

import keras
import numpy as np
import pytest

from lib.training.optimizer import LearningRates, OptimizerSettings, coupled_decay, make_optimizer


def test_pieces_by_update() -> None:
    rates = LearningRates((1.0, 0.1, 0.01), (3, 9))
    assert [rates.at(update) for update in range(12)] == [1.0] * 3 + [0.1] * 6 + [0.01] * 3


def test_warm_up_rises_to_the_rate_and_then_leaves_it_alone() -> None:
    rates = LearningRates((1.0, 0.1), (3,), warmup=5)
    assert [rates.at(update) for update in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.08, 0.1, 0.1, 0.1])


def test_cosine_runs_from_the_first_rate_to_the_last() -> None:
    rates = LearningRates((1.0, 0.2), warmup=2, cosine=12)
    values = [rates.at(update) for update in range(14)]
    assert values[:2] == [0.5, 1.0]
    assert values[2] == 1.0
    assert values[7] == pytest.approx(0.6)  # half way between
    assert values[12] == values[13] == pytest.approx(0.2)
    assert values[2:13] == sorted(values[2:13], reverse=True)


def _updated(optimizer: keras.optimizers.Optimizer, start: float, gradients: list[float], rate: float) -> float:
    weight = keras.Variable(np.array([start], np.float32))
    optimizer.build([weight])
    optimizer.learning_rate = rate
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.array([gradient], np.float32))], [weight])
    return float(np.asarray(weight)[0])


def test_sgd_has_momentum() -> None:
    # v1 = -0.1 * 1; w = 0.9; v2 = 0.9 * v1 - 0.1 * 1 = -0.19; w = 0.71
    assert _updated(make_optimizer(OptimizerSettings(name="sgd")), 1.0, [1.0, 1.0], 0.1) == pytest.approx(0.71)
    assert _updated(make_optimizer(OptimizerSettings(name="sgd", momentum=0.0)), 1.0, [1.0, 1.0], 0.1) == pytest.approx(
        0.8
    )


def test_adam_takes_steps_of_the_rate_and_decoupled_decay_pulls_beside_it() -> None:
    plain = _updated(make_optimizer(OptimizerSettings(name="adam", weight_decay=0.5)), 1.0, [3.0], 0.1)
    assert plain == pytest.approx(0.9, abs=1e-5)
    decayed = _updated(make_optimizer(OptimizerSettings(name="adamw", weight_decay=0.5)), 1.0, [3.0], 0.1)
    assert decayed == pytest.approx(0.9 - 0.1 * 0.5 * 1.0, abs=1e-5)
    assert coupled_decay(OptimizerSettings(name="adam", weight_decay=0.5)) == 0.5
    assert coupled_decay(OptimizerSettings(name="adamw", weight_decay=0.5)) == 0


def test_muon_moves_a_kernel_by_an_orthogonal_matrix_and_the_rest_as_adamw_does() -> None:
    rng = np.random.default_rng(0)
    start, gradient = (rng.normal(size=(3, 3, 4, 6)).astype(np.float32) for _ in range(2))
    kernel, head, bias = (keras.Variable(start, name=name) for name in ("kernel", "head", "bias"))
    settings = OptimizerSettings(name="muon", weight_decay=0.5)
    optimizer = make_optimizer(settings, ["kernel"])
    optimizer = type(optimizer).from_config(optimizer.get_config())  # as a checkpoint holds it
    optimizer.build([kernel, head, bias])
    optimizer.learning_rate = 0.1
    optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 3, [kernel, head, bias])
    moved = ((start * (1 - 0.1 * 0.5) - np.asarray(kernel)) / 0.1).reshape(36, 6)
    assert np.linalg.svd(moved, compute_uv=False) / (0.2 * 6) == pytest.approx(np.ones(6), abs=0.35)  # sqrt(36) = 6
    assert (moved * gradient.reshape(36, 6)).sum() > 0
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.2, abs=0.07)
    alike = make_optimizer(OptimizerSettings(name="adamw", weight_decay=0.5))
    other = keras.Variable(start)
    alike.build([other])
    alike.learning_rate = 0.1
    alike.apply([keras.ops.convert_to_tensor(gradient)], [other])
    for variable in (head, bias):
        assert np.asarray(variable) == pytest.approx(np.asarray(other), abs=1e-5)
    assert coupled_decay(settings) == 0


def test_clipping() -> None:
    common: dict[str, Any] = {"name": "sgd", "momentum": 0.0}
    assert _updated(make_optimizer(OptimizerSettings(clip_value=5.0, **common)), 0.0, [-70.0], 0.1) == pytest.approx(
        0.5
    )
    assert _updated(make_optimizer(OptimizerSettings(clip_norm=2.0, **common)), 0.0, [70.0], 0.1) == pytest.approx(-0.2)
    assert _updated(make_optimizer(OptimizerSettings(**common)), 0.0, [70.0], 0.1) == pytest.approx(-7.0)


def test_accumulated_gradients_are_one_update_of_their_mean() -> None:
    settings = OptimizerSettings(name="sgd", momentum=0.0, accumulate=2)
    assert _updated(make_optimizer(settings), 0.0, [1.0], 0.1) == 0
    assert _updated(make_optimizer(settings), 0.0, [1.0, 3.0], 0.1) == pytest.approx(-0.2)


@pytest.mark.parametrize(("accumulate", "gradients"), [(1, [1.0, 2.0]), (2, [1.0, 1.0, 2.0, 2.0, 0.0])])
def test_average_is_by_update_whatever_is_accumulated(accumulate: int, gradients: list[float]) -> None:
    """Two updates, to -1 and to -3; one that is accumulated for fades over the steps of its group."""
    optimizer = make_optimizer(OptimizerSettings(name="sgd", momentum=0.0, ema=0.5, accumulate=accumulate))
    assert _updated(optimizer, 0.0, gradients, 1.0) == -3
    (average,) = optimizer._model_variables_moving_average
    assert float(np.asarray(average)[0]) == pytest.approx(0.5 * -1 + 0.5 * -3)


def test_float16_scales_its_loss() -> None:
    assert isinstance(make_optimizer(OptimizerSettings(scale_loss=True)), keras.optimizers.LossScaleOptimizer)
