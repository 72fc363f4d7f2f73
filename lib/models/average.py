"""The mean of models that came of one: what either end of a fine-tuning sees, in one network of the same cost."""

from collections.abc import Sequence
from itertools import zip_longest

import keras
import numpy as np

from lib.errors import ConfigError, ModelError


def average(models: Sequence[keras.Model], shares: Sequence[float] | None = None) -> keras.Model:
    """A new model whose every weight is the weighted mean of the models' (Wortsman et al., arXiv 2109.01903, eq. 1).

    It is worth something where one of the models was trained from another, or both from a third: the mean of networks
    that were trained apart computes nothing. Measured statistics are averaged too: where training moved them, measure
    them anew (`lib.pruning.recalibrate`). Weights that are no floats come from the last model.

    Args:
        models: at least two, of one structure.
        shares: of each in the mean, not negative, of any sum above 0; None: all the same.

    Raises:
        ConfigError: there are not two models, or as many shares.
        ModelError: the models differ in structure.

    """
    shares = [1.0] * len(models) if shares is None else list(shares)
    if len(models) < 2 or len(shares) != len(models):
        raise ConfigError(f"a mean is of two models or more with a share each, got {len(models)} and {len(shares)}")
    if not all(0 <= share < np.inf for share in shares) or not 0 < sum(shares) < np.inf:
        raise ConfigError(f"shares must be finite, not negative and not all 0, got {shares}")
    last = models[-1]
    for number, model in enumerate(models[:-1], 1):
        for one, other in zip_longest(model.weights, last.weights):
            if one is None or other is None or one.shape != other.shape:
                raise ModelError(
                    f"model {number} of {len(models)} is another network than the last: {_said(one)} and {_said(other)}"
                )
    parts = np.asarray(shares) / sum(shares)
    mean = keras.models.clone_model(last)
    mean.set_weights([_mean(row, parts) for row in zip(*(model.get_weights() for model in models), strict=True)])
    return mean


def _said(weight: keras.Variable | None) -> str:
    return "nothing" if weight is None else f"{weight.path} {list(weight.shape)}"


def _mean(values: Sequence[np.ndarray], parts: np.ndarray) -> np.ndarray:
    last = values[-1]
    if "float" not in str(last.dtype):
        return last
    return np.tensordot(parts, np.stack(values).astype(np.float64), 1).astype(last.dtype)
