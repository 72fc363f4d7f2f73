"""Which point to try next: Gaussian process regression, and an acquisition function over sampled candidates.

Light on purpose: the process' hyperparameters are fitted on few points and, once there are many, only now and then; a
proposal conditions it on at most some hundred, and the acquisition is evaluated for all candidates at once instead of
being descended. Few points cannot tell which coordinates matter: the process has one length scale then.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from threadpoolctl import ThreadpoolController

from lib.arrays import FloatArray

KINDS = 4  # of random points, see `scattered`
FITTED_POINTS = 100  # hyperparameters are fitted on at most so many
CONDITIONED_POINTS = 400  # a proposal is conditioned on at most so many
CANDIDATES = 1000
_THREADS = ThreadpoolController()  # matrices this small are slower on several threads, on a busy machine tenfold
_POINTS_A_SCALE = 10  # from so many points a dimension on, every coordinate has a length scale of its own ...
_GROWTH = 1.25  # ... and hyperparameters are fitted again only when there are so many times more points
_EXPLORATION = 2.0  # deviations below the mean that are hoped for by every second proposal
_FLIPPED = 0.1  # of the either-or coordinates of a candidate around the best ones: to their other end
_SPREADS = (0.1, 0.05, 0.025, 0.0125)  # of the candidates around the best ones, round by round
_ITERATIONS = 20


def scattered(count: int, either_or: NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
    """Random points [count, d], kind after kind: uniform, with most coordinates small, and the same once more.

    Args:
        either_or: [d], coordinates of which the ends promise more than what lies between them: at the second turn each
            of them is 0 or 1.

    """
    kind = np.arange(count)[:, None] % KINDS
    points = rng.uniform(size=(count, len(either_or))) ** np.where(kind % 2, 3.0, 1.0)
    if not either_or.any():
        return points
    return np.where(either_or & (kind >= KINDS // 2), rng.integers(0, 2, points.shape), points)


@dataclass
class Proposer:
    """Proposes points to evaluate next, for minimising.

    The same points, values and generator give the same proposals: between calls only what they determine is kept.

    Args:
        either_or: of a point's coordinates, each within 0..1; see `scattered`.
        project: brings points [n, d] to where they may be, for example onto a budget.
        alpha: added to the kernel matrix' diagonal, in variances of the values: noise that is there at least.
        beta: None: expected improvement and mean - 2 deviations take turns, so that neither's habits (staying near the
            best, wandering) rule. A number: mean - beta * deviation is minimised, always.

    """

    either_or: NDArray[np.bool_]
    project: Callable[[FloatArray], FloatArray]
    alpha: float = 1e-4
    beta: float | None = None
    _kernels: dict[int, Kernel] = field(default_factory=dict, repr=False)

    def random(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Points [count, d], `scattered` and brought to where they may be."""
        return self.project(scattered(count, self.either_or, rng))

    def propose(
        self,
        points: FloatArray,
        values: FloatArray,
        pending: FloatArray,
        rng: np.random.Generator,
        eligible: NDArray[np.bool_] | None = None,
        count: int = 200,
    ) -> FloatArray:
        """The `count` most promising of the candidates, [count, d], best first.

        Args:
            points: evaluated points [n, d], in the order of evaluation.
            values: their values [n], finite.
            pending: points [m, d] that are being evaluated; they are taken to turn out as expected.
            eligible: which of the points are to be improved on, [n]; None: all. The others only inform.

        """
        with _THREADS.limit(limits=1):
            scaled = _scaled(values)
            model = self._conditioned(points, scaled, self._kernel(points, values))
            if len(pending):
                expected = np.concatenate([scaled, model.predict(pending)])
                model = self._conditioned(np.concatenate([points, pending]), expected, model.kernel)
            rivals = points if eligible is None or not eligible.any() else points[eligible]
            leaders = rivals[np.argsort(model.predict(rivals), kind="stable")[:5]]
            incumbent = model.predict(leaders).min()
            beta = self.beta
            if beta is None and (len(rivals) + len(pending)) % 2 == 0:
                beta = _EXPLORATION
            around = [self._near(leaders, CANDIDATES // 4, spread, rng) for spread in (0.2, 0.05)]
            candidates = np.concatenate([self.random(CANDIDATES // 2, rng), *around])
            merits = _merits(model, candidates, incumbent, beta)
            for spread in _SPREADS:
                best = candidates[np.argsort(-merits, kind="stable")[:10]]
                closer = self._near(best, CANDIDATES // 5, spread, rng)
                candidates = np.concatenate([candidates, closer])
                merits = np.concatenate([merits, _merits(model, closer, incumbent, beta)])
            return candidates[np.argsort(-merits, kind="stable")[:count]]

    def expected(self, points: FloatArray, values: FloatArray, at: FloatArray) -> FloatArray:
        """The values [m] that the process expects at some points [m, d], knowing `values` at `points`."""
        scaled = _scaled(values)
        cut = np.minimum(values, _limit(values))
        with _THREADS.limit(limits=1):
            model = self._conditioned(points, scaled, self._kernel(points, values))
            return cut.mean() + (cut.std() or 1.0) * model.predict(at)

    def _near(self, centres: FloatArray, count: int, spread: float, rng: np.random.Generator) -> FloatArray:
        """Points around the centres; each moves in some or all coordinates, by a distance up to `spread`."""
        chosen = centres[rng.integers(len(centres), size=count)]
        moved = rng.uniform(size=chosen.shape) < rng.choice([0.25, 0.5, 1.0], size=(count, 1))
        distance = spread * rng.uniform(0.1, 1, size=(count, 1))
        points = np.clip(chosen + moved * distance * rng.normal(size=chosen.shape), 0, 1)
        if self.either_or.any():
            ended = self.either_or & ((chosen == 0) | (chosen == 1))
            flipped = self.either_or & (rng.uniform(size=chosen.shape) < _FLIPPED)
            points = np.where(flipped, chosen < 0.5, np.where(ended, chosen, points))
        return self.project(points)

    def _kernel(self, points: FloatArray, values: FloatArray) -> Kernel:
        """Fitted to the first so many points, a number that follows from how many there are: so a restart agrees."""
        scale: float | FloatArray = 0.5
        fitted, several = len(points), _POINTS_A_SCALE * len(self.either_or)
        if fitted >= several:
            scale, fitted = np.full(len(self.either_or), scale), several
            while (grown := int(np.ceil(fitted * _GROWTH))) <= len(points):
                fitted = grown
        noise = WhiteKernel(1e-2, (1e-6, 1.0))
        kernel = ConstantKernel(1.0, (1e-1, 1e2)) * Matern(scale, (5e-2, 1e1), nu=2.5) + noise
        if fitted < 4:
            return kernel
        if fitted not in self._kernels:
            scaled = _scaled(values[:fitted])
            chosen = _thinned(scaled, FITTED_POINTS)
            process = GaussianProcessRegressor(kernel, alpha=self.alpha, optimizer=_few_steps)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                self._kernels[fitted] = process.fit(points[chosen], scaled[chosen]).kernel_
        return self._kernels[fitted]

    def _conditioned(self, points: FloatArray, values: FloatArray, kernel: Kernel) -> GaussianProcessRegressor:
        chosen = _thinned(values, CONDITIONED_POINTS)
        return GaussianProcessRegressor(kernel, alpha=self.alpha, optimizer=None).fit(points[chosen], values[chosen])


def _merits(model: GaussianProcessRegressor, candidates: FloatArray, best: float, beta: float | None) -> FloatArray:
    """How promising each candidate is, [n]: by the expected improvement on `best` (beta None), or by its low end."""
    mean, deviation = model.predict(candidates, return_std=True)
    if beta is not None:
        return np.asarray(beta * deviation - mean)
    deviation = np.maximum(deviation, 1e-9)
    gain = (best - mean) / deviation
    return np.asarray(deviation * (gain * scipy.stats.norm.cdf(gain) + scipy.stats.norm.pdf(gain)))


def _scaled(values: FloatArray) -> FloatArray:
    """Mean 0 and variance 1; the worst values are cut off first, because how bad they are does not matter."""
    cut = np.minimum(values, _limit(values))
    return (cut - cut.mean()) / (cut.std() or 1.0)


def _limit(values: FloatArray) -> float:
    low, middle = np.quantile(values, [0, 0.5])
    return float(middle + 2 * (middle - low) + 1e-12)


def _thinned(values: FloatArray, count: int) -> NDArray[np.int64]:
    """Indices of at most `count` values: the best half of them, and the others evenly over the rest, as they came."""
    if len(values) <= count:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    rest = np.sort(order[count // 2 :])
    spread = rest[np.linspace(0, len(rest) - 1, count - count // 2).astype(int)]
    return np.sort(np.concatenate([order[: count // 2], spread]))


def _few_steps(objective: Callable[..., object], start: FloatArray, bounds: FloatArray) -> tuple[FloatArray, float]:
    """An optimiser for scikit-learn: one descent of a few steps."""
    result = scipy.optimize.minimize(
        objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
    )
    return result.x, result.fun
