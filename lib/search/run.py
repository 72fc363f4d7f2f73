"""The stage: from a trained detector and a budget to the rates of the best plan."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from lib.config import Config
from lib.data.annotations import Record
from lib.detection import FaceDetector
from lib.errors import ConfigError, DataError, TrainingError
from lib.evaluation.ap import evaluate
from lib.evaluation.latency import litert_latencies
from lib.models import inference_model
from lib.pruning import channel_sets, plan_kept, shrink
from lib.pruning.criteria import l1
from lib.search.budget import Budget
from lib.search.groups import group_sets, patterns_of
from lib.search.latency import LatencyTable
from lib.search.oracle import Finished, SearchOracle
from lib.search.pictures import draw_search
from lib.search.record import Record as SearchRecord
from lib.search.record import best_of, read_rates, write_rates
from lib.search.space import Space
from lib.search.trials import Schooling, Trials
from lib.search.tuner import SearchTuner, role_from_environment
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)

AveragePrecision = Callable[[keras.Model, Sequence[Record]], float]


def check_search(config: Config, model: keras.Model) -> None:
    """Raises ConfigError where an enabled search's groups or targets do not fit; milliseconds are not measured."""
    if not config.SEARCH.enabled:
        return
    if config.SEARCH.budget == "latency":
        sets = channel_sets(inference_model(model), config.PRUNE.mode)
        group_sets(sets, patterns_of(config.SEARCH.groups, config.PRUNE.mode))
    else:
        search_space(config, model, Path())


def search_space(config: Config, model: keras.Model, folder: Path) -> tuple[Budget, Space]:
    """The plans that the config's budget allows for a model; their costs are known, nothing is trained.

    A budget of milliseconds needs a table; it is measured once, and kept in the folder as `latency.json`.

    Raises:
        ConfigError: groups or targets are unfit; see `group_sets` and `Space.check`.

    """
    search, mode = config.SEARCH, config.PRUNE.mode
    model = inference_model(model)  # what is paid for, and what is pruned, is what detects
    by_time = search.budget == "latency" and mode == "removable"
    table = LatencyTable(model, search.hin, search.win, folder / "latency.json") if by_time else None
    budget = Budget(search.budget, model, mode, search.hin, search.win, table)
    groups = group_sets(budget.sets, patterns_of(search.groups, mode))
    weights = {item.name: _mean_weight(model, item.convolutions) for item in budget.sets} if search.branches else {}
    space = Space(
        budget.sets,
        groups,
        budget.share,
        search.tolerance,
        search.max_rate,
        search.branches,
        sorted(weights, key=lambda name: weights[name]),
        config.PRUNE.channel_divisor,
        config.PRUNE.min_channels,
    )
    for target in search.targets():
        space.check(target)
    return budget, space


class Search:
    """A search from a trainer's present weights, or the one that the folder holds, gone on with.

    Args:
        config: checked settings.
        trainer: runs the trials.
        train: the training images; a share of them, SEARCH.holdout, is held out to judge the trials by.
        folder: the run's; `search/`, `search.csv`, `search_*.png` and `rates_*.json` go there.
        average_precision: measures a detector on images, for SEARCH.objective = "ap".
        seed: of the proposals; None: the run's.

    Attributes:
        space: the plans.
        oracle: the trials so far.

    Raises:
        ConfigError: groups or targets are unfit.
        DataError: too few images to hold some out.

    """

    def __init__(
        self,
        config: Config,
        trainer: Trainer,
        train: Sequence[Record],
        folder: str | Path,
        average_precision: AveragePrecision | None = None,
        seed: int | None = None,
    ) -> None:
        search = self.settings = config.SEARCH
        self.folder = Path(folder)
        budget, self.space = search_space(config, trainer.model, self.folder)
        self.record = SearchRecord(self.folder / "search.csv", self.space, budget.figures)
        self.oracle = SearchOracle(
            self.space,
            search.targets(),
            search.n_init_points,
            search.n_opt_iterations,
            search.probing_offset,
            search.n_long,
            config.TRAIN.seed if seed is None else seed,
            on_finished=self._on_finished,
        )
        to_train, to_judge = _split(train, search.holdout, config.TRAIN.seed)
        by_ap = search.objective == "ap" and average_precision
        self.trials = Trials(
            trainer,
            self.space,
            to_train,
            to_judge,
            Schooling(search.steps, search.long_steps, search.lr, search.recalibration_batches),
            (lambda model: by_ap(model, to_judge)) if by_ap else None,
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
        draw_search(self.record.file, self.folder, self.oracle.expected())
        if self.trials.seconds:
            logger.info("of the trials' time %.1f %% went into setting them up", self.trials.overhead_percent)
        found = {}
        for target in self.settings.targets():
            best = best_of(self.oracle.finished(), target)
            if best is None:
                raise TrainingError(
                    f"no trial of the search at SEARCH.target = {target:g} succeeded; see the warnings above"
                )
            measured = self._measured_share(best) if self.settings.budget == "latency" else None
            write_rates(rates_file(self.folder, target), self.space, best, measured)
            found[target] = best
        return found

    def _measured_share(self, best: Finished) -> float:
        """The found model's milliseconds against the whole one's, in one run of both: the check of the table."""
        model = inference_model(self.trials.trainer.model)
        small = shrink(model, plan_kept(model, self.space.by_name(best.proposal.kept)))
        times = litert_latencies({"whole": model, "found": small}, self.settings.hin, self.settings.win)
        share = times["found"].best_ms / times["whole"].best_ms
        predicted = self.space.share(best.proposal.kept)
        logger.info(
            "of the milliseconds %.1f %% are left by measurement, %.1f %% by the table", 100 * share, 100 * predicted
        )
        return share

    def _on_finished(self, finished: list[Finished]) -> None:
        self.record.update(finished)
        latest, best = finished[-1], best_of(finished, finished[-1].proposal.target)
        assert best is not None
        self.record.announce(latest, best, len(self.oracle.schedule))


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


def found_rates(config: Config, trainer: Trainer, train: Sequence[Record], folder: Path) -> dict[str, float]:
    """The rates for the first of the budget's targets; searched for from the trainer's weights, unless on file."""
    file = rates_file(folder, config.SEARCH.targets()[0])
    if not file.is_file():
        logger.info("searching for rates")
        Search(config, trainer, train, folder, measure_with(config)).run()
    return read_rates(file)


def work_for_chief(config: Config, model: keras.Model, train: Sequence[Record], folder: Path) -> bool:
    """Runs an enabled search's trials for a chief elsewhere if the environment says so; False if it does not.

    Raises:
        ConfigError: the processes of a search on many machines have no common weights to start from.

    """
    role = role_from_environment() if config.SEARCH.enabled else "alone"
    if role != "alone" and not config.MODEL.pretrained_model:
        raise ConfigError("a search on many machines starts from MODEL.pretrained_model, the same in every process")
    if role == "worker":
        Search(config, Trainer(model, config), train, folder, measure_with(config)).run()
    return role == "worker"


def measure_with(config: Config) -> AveragePrecision:
    """AP at the config's TEST settings."""

    def measure(model: keras.Model, records: Sequence[Record]) -> float:
        detector = FaceDetector(model, config.TEST.iou_thres, config.TEST.max_detect)
        return evaluate(detector, records, config.TEST.score_thres)[0]

    return measure
