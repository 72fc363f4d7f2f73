"""Pictures of a search, drawn from its table alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.arrays import FloatArray
from lib.files import replacing
from lib.search.trial_table import read_table

_DPI = 110
Rows = Sequence[dict[str, float]]


def draw_search(table: str | Path, folder: str | Path, predicted: FloatArray | None = None) -> list[Path]:
    """Draws a `search.csv`.

    Args:
        table: the file.
        folder: where the PNGs go: `search_progress.png`, `search_rates.png`, with several targets
            `search_pareto.png`, and `search_predicted.png` if `predicted` is given.
        predicted: what the search's model expected of each row before it was tried, as -objective; NaN where it
            expected nothing.

    Returns:
        The files.

    """
    names, rows = read_table(table)
    if not rows:
        return []
    figures = {"progress": _progress(rows), "rates": _rates(names, rows)}
    if predicted is not None and np.isfinite(predicted).any():
        figures["predicted"] = _predicted(rows, predicted)
    if _targets(rows) > 1:
        figures["pareto"] = _pareto(rows)
    files = []
    for name, figure in figures.items():
        files.append(Path(folder) / f"search_{name}.png")
        with replacing(files[-1]) as temporary:
            figure.savefig(temporary, dpi=_DPI)
    return files


def _progress(rows: Rows) -> Figure:
    """Validation loss and objective by trial, each with the best so far."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, column, best in zip(
        figure.subplots(2, sharex=True), ("val_loss", "objective"), (np.minimum, np.maximum), strict=True
    ):
        trials, values = _column(rows, "trial"), _column(rows, column)
        axes.plot(trials, values, "o", markersize=3, alpha=0.6, label="trial")
        axes.step(trials, best.accumulate(values), where="post", color="black", linewidth=1.2, label="best so far")
        axes.set_ylabel(column)
        _focus(axes, values, bad_is_high=column == "val_loss")
        axes.legend(loc="best", fontsize=8)
        axes.grid(alpha=0.3)
    axes.set_xlabel("trial")
    return figure


def _rates(names: Sequence[str], rows: Rows) -> Figure:
    """Each group's rate against the objective; later trials are darker."""
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    objective, order = _column(rows, "objective"), _column(rows, "trial")
    best = int(np.argmax(objective))
    for axes, name in zip(grid, names, strict=False):
        rates = _column(rows, name)
        points = axes.scatter(rates, objective, c=order, cmap="viridis_r", s=14)
        axes.plot(rates[best], objective[best], "r*", markersize=11)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("share of channels gone", fontsize=8)
        _focus(axes, objective, bad_is_high=False)
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes in grid[::columns]:
        axes.set_ylabel("objective")
    figure.colorbar(points, ax=list(grid), label="trial")
    return figure


def _predicted(rows: Rows, predicted: FloatArray) -> Figure:
    """What the search's model expected of each trial against what came of it."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    known = np.isfinite(predicted)
    measured, expected, trials = -_column(rows, "objective")[known], predicted[known], _column(rows, "trial")[known]
    points = axes.scatter(expected, measured, c=trials, cmap="viridis_r", s=16)
    ends = [min(measured.min(), expected.min()), max(measured.max(), expected.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    _focus(axes, measured, bad_is_high=True)
    axes.set_xlabel("expected before the trial (-objective)")
    axes.set_ylabel("measured (-objective)")
    axes.grid(alpha=0.3)
    figure.colorbar(points, ax=axes, label="trial")
    return figure


def _pareto(rows: Rows) -> Figure:
    """Validation loss against what is left of the budget, with the plans that no other beats in both."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    left, loss = _column(rows, "budget_ratio"), _column(rows, "val_loss")
    points = axes.scatter(left, loss, c=_column(rows, "trial"), cmap="viridis_r", s=14)
    front = pareto_front(left, loss)
    axes.step(left[front], loss[front], where="post", color="black", linewidth=1.2, label="not beaten in both")
    axes.plot(left[front], loss[front], "k.", markersize=7)
    axes.set_xlabel("share of the budgeted quantity that is left")
    axes.set_ylabel("val_loss")
    _focus(axes, loss, bad_is_high=True)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.colorbar(points, ax=axes, label="trial")
    return figure


def pareto_front(costs: FloatArray, losses: FloatArray) -> list[int]:
    """Indices of the points that no other point beats in both, by rising cost."""
    front: list[int] = []
    for index in np.lexsort((losses, costs)).tolist():
        if not front or losses[index] < losses[front[-1]]:
            front.append(index)
    return front


def _focus(axes: Axes, values: FloatArray, bad_is_high: bool) -> None:
    """Cuts the axis where only the worst tenth of the values would stretch it."""
    low, high = np.quantile(values, [0.0, 0.9] if bad_is_high else [0.1, 1.0])
    room = 0.08 * (high - low) or 0.1
    if values.max() - values.min() > 3 * (high - low):
        axes.set_ylim(low - room, high + room)


def _targets(rows: Rows) -> int:
    """How many clusters, by the tenth, the shares that are left form."""
    return len({round(row["budget_ratio"], 1) for row in rows})


def _column(rows: Rows, name: str) -> FloatArray:
    return np.array([row[name] for row in rows])
