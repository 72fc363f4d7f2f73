"""The stage: from a trained detector and a budget to the rates of the best plan."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from lib.data.annotations import Record
from lib.errors import DataError, TrainingError
from lib.evaluation.latency import litert_latencies
from lib.models import inference_model
from lib.pruning import channel_sets, shrink
from lib.pruning.choice import Choice
from lib.pruning.criteria import l1
from lib.search.budget import Budget, Quantity
from lib.search.groups import group_sets, patterns_of
from lib.search.latency_table import LatencyTable
from lib.search.oracle import Finished, SearchOracle
from lib.search.pictures import draw_search
from lib.search.space import Space
from lib.search.trial_table import TrialTable, best_of, read_rates, write_rates
from lib.search.trials import Schooling, Trials
from lib.search.tuner import SearchTuner
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)

AveragePrecision = Callable[[keras.Model, Sequence[Record]], float]


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for, and how.

    Attributes:
        quantity: what the budget limits, see `Budget`.
        targets: shares of it that are left; the first one's rates are those that are pruned at.
        tolerance: how far a plan may be from its target.
        height_px, width_px: input size at which multiply-accumulates and milliseconds are counted.
        groups: a split of `lib.search.groups.SPLITS`, or patterns of set names by group.
        branches, max_rate: see `Space`.
        n_init_points, n_opt_iterations, probing_offset, n_long: see `SearchOracle`.
        objective: "loss": minus the validation loss; "ap": average precision.
        regularization_coefficient: weight of the penalty for missing a target.
        holdout: share of the training images that judges the trials.
        schooling: how a trial is trained.
        choice: which channels of a plan's counts go.
        seed: of the proposals, and of what is held out.

    """

    quantity: Quantity = "macs"
    targets: tuple[float, ...] = (0.5,)
    tolerance: float = 0.01
    height_px: int = 480
    width_px: int = 640
    groups: str | Mapping[str, Sequence[str]] = "eresfd_6"
    branches: tuple[str, ...] = ()
    max_rate: float = 0.98
    n_init_points: int = 20
    n_opt_iterations: int = 80
    probing_offset: float = 0.04
    n_long: int = 0
    objective: Literal["loss", "ap"] = "loss"
    regularization_coefficient: float = 5.0
    holdout: float = 0.2
    schooling: Schooling = field(default_factory=lambda: Schooling(0, 0, 1e-3, 10))
    choice: Choice = field(default_factory=Choice)
    seed: int = 0


def check_search(settings: SearchSettings, model: keras.Model) -> None:
    """Raises ConfigError where a search's groups or targets do not fit a model; milliseconds are not measured."""
    if settings.quantity == "latency":
        _grouped(settings, inference_model(model))
    else:
        search_space(settings, model, Path())


def _grouped(settings: SearchSettings, model: keras.Model) -> dict[str, tuple[str, ...]]:
    """Group name -> names of its sets in a model that detects, see `group_sets`."""
    mode = settings.choice.mode
    return group_sets(channel_sets(model, mode, settings.choice.protected), patterns_of(settings.groups, mode))


def search_space(settings: SearchSettings, model: keras.Model, folder: Path) -> tuple[Budget, Space]:
    """The plans that the budget allows for a model; their costs are known, nothing is trained.

    A budget of milliseconds needs a table; it is measured once, and kept in the folder as `latency.json`.

    Raises:
        ConfigError: groups or targets are unfit; see `group_sets` and `Space.check`.

    """
    size, choice = (settings.height_px, settings.width_px), settings.choice
    model = inference_model(model)  # what is paid for, and what is pruned, is what detects
    by_time = settings.quantity == "latency" and choice.mode == "removable"
    groups, table = _grouped(settings, model), None
    if by_time:
        branches = [name for group in settings.branches for name in groups.get(group, ())]
        table = LatencyTable(model, *size, folder / "latency.json", protected=choice.protected, branches=branches)
    budget = Budget(
        settings.quantity,
        model,
        choice.mode,
        height_px=size[0],
        width_px=size[1],
        protected=choice.protected,
        milliseconds=table,
    )
    weights = {item.name: _mean_weight(model, item.convolutions) for item in budget.sets} if settings.branches else {}
    space = Space(
        budget.sets,
        groups,
        budget.share,
        settings.tolerance,
        max_rate=settings.max_rate,
        branches=settings.branches,
        first_to_go=sorted(weights, key=lambda name: weights[name]),
        divisor=choice.channel_divisor,
        min_channels=choice.min_channels,
    )
    for target in settings.targets:
        space.check(target)
    return budget, space


class Search:
    """A search from a trainer's present weights, or the one that the folder holds, gone on with.

    Args:
        settings: what is searched for.
        trainer: runs the trials.
        train: the training images; a share of them is held out to judge the trials by.
        folder: the run's; `search/`, `search.csv`, `search_*.png` and `rates_*.json` go there.
        average_precision: measures a detector on images, for the objective "ap".
        seed: of the proposals; None: that of the settings.

    Attributes:
        space: the plans.
        oracle: the trials so far.

    Raises:
        ConfigError: groups or targets are unfit.
        DataError: too few images to hold some out.

    """

    def __init__(
        self,
        settings: SearchSettings,
        trainer: Trainer,
        train: Sequence[Record],
        folder: str | Path,
        *,
        average_precision: AveragePrecision | None = None,
        seed: int | None = None,
    ) -> None:
        self.settings, self.folder = settings, Path(folder)
        budget, self.space = search_space(settings, trainer.model, self.folder)
        self.table = TrialTable(self.folder / "search.csv", self.space, budget.figures)
        self.oracle = SearchOracle(
            self.space,
            settings.targets,
            settings.n_init_points,
            settings.n_opt_iterations,
            probing_offset=settings.probing_offset,
            n_long=settings.n_long,
            seed=settings.seed if seed is None else seed,
            on_finished=self._on_finished,
        )
        to_train, to_judge = _split(train, settings.holdout, settings.seed)
        measure = average_precision if settings.objective == "ap" else None
        self.trials = Trials(
            trainer,
            self.space,
            to_train,
            to_judge,
            schooling=settings.schooling,
            choice=settings.choice,
            average_precision=(lambda model: measure(model, to_judge)) if measure else None,
            seed=settings.seed,
        )

    def run(self) -> dict[float, Finished]:
        """Runs the trials that are left; afterwards the trainer has its weights from before again, and all channels.

        Returns:
            The best trial of each target; a worker of a search on many machines returns none.

        Raises:
            TrainingError: no trial of a target succeeded, or a chief does not answer.

        """
        tuner = SearchTuner(self.oracle, self.trials, self.folder / "search", self.settings.regularization_coefficient)
        tuner.search()
        self.trials.restore()
        if tuner.role == "worker":
            return {}
        draw_search(self.table.file, self.folder, self.oracle.expected())
        if self.trials.seconds:
            logger.info("of the trials' time %.1f %% went into setting them up", self.trials.overhead_percent)
        found = {}
        for target in self.settings.targets:
            best = best_of(self.oracle.finished(), target)
            if best is None:
                raise TrainingError(
                    f"no trial of the search at SEARCH.target = {target:g} succeeded; see the warnings above"
                )
            measured = self._measured_share(best) if self.settings.quantity == "latency" else None
            write_rates(rates_file(self.folder, target), self.space, best, measured)
            found[target] = best
        return found

    def _measured_share(self, best: Finished) -> float:
        """The found model's milliseconds against the whole one's, in one run of both: the check of the table."""
        model = inference_model(self.trials.trainer.model)
        small = shrink(model, self.settings.choice.kept(model, self.space.by_name(best.proposal.kept)))
        times = litert_latencies({"whole": model, "found": small}, self.settings.height_px, self.settings.width_px)
        share = times["found"].best_ms / times["whole"].best_ms
        predicted = self.space.share(best.proposal.kept)
        logger.info(
            "of the milliseconds %.1f %% are left by measurement, %.1f %% by the table", 100 * share, 100 * predicted
        )
        return share

    def _on_finished(self, finished: list[Finished]) -> None:
        self.table.update(finished)
        latest, best = finished[-1], best_of(finished, finished[-1].proposal.target)
        assert best is not None
        self.table.announce(latest, best, len(self.oracle.schedule))


def rates_file(folder: str | Path, target: float) -> Path:
    """Where the rates found for a target are."""
    return Path(folder) / f"rates_{target:g}.json"


def _split(records: Sequence[Record], holdout: float, seed: int) -> tuple[list[Record], list[Record]]:
    order = np.random.default_rng(seed).permutation(len(records))
    count = round(holdout * len(records))
    held = set(order[:count].tolist())
    to_train = [record for i, record in enumerate(records) if i not in held]
    to_judge = [record for i, record in enumerate(records) if i in held]
    if not to_train or not any(len(record.boxes_xyxy_px) for record in to_judge):
        raise DataError(
            f"SEARCH.holdout = {holdout:g} of {len(records)} training images leaves no faces to judge trials by, or "
            "nothing to train on"
        )
    return to_train, to_judge


def _mean_weight(model: keras.Model, names: Sequence[str]) -> float:
    """Mean absolute weight of some convolutions: of branches that may go whole, the weakest goes first."""
    kernels = [np.asarray(model.get_layer(name).kernel) for name in names]
    return float(np.mean([l1(kernel).sum() / kernel.size for kernel in kernels]))


def found_rates(
    settings: SearchSettings,
    trainer: Trainer,
    train: Sequence[Record],
    folder: Path,
    average_precision: AveragePrecision | None = None,
) -> dict[str, float]:
    """The rates for the first of the budget's targets; searched for from the trainer's weights, unless on file."""
    file = rates_file(folder, settings.targets[0])
    if not file.is_file():
        logger.info("searching for rates")
        Search(settings, trainer, train, folder, average_precision=average_precision).run()
    return read_rates(file)
