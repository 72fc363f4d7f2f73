"""The stages of a run: pretrain or load, soft pruning, fine-tuning under hard masks, evaluation; resume included."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from lib.config import Config
from lib.data.batches import FaceDataset
from lib.data.picture import write_samples
from lib.data.sources import FaceData, load_data, subset
from lib.files import read_json, write_json
from lib.models import inference_model, load
from lib.models.dsfd import named_ratios
from lib.pruning import (
    CostModel,
    GroupSparsity,
    Masks,
    SoftPruning,
    apply_masks,
    combine,
    dead_channels,
    plan,
    removal_report,
)
from lib.pruning.plan import Rates as PruningRates
from lib.runs.chosen import chosen_model
from lib.runs.folder import RunFolder
from lib.runs.results import average_precision, costs_of, results_of, shrink_outcome
from lib.search.run import check_search, found_rates, work_for_chief
from lib.tables import removal_table
from lib.training.callbacks import (
    ActivityLog,
    AveragePrecision,
    Checkpoint,
    LearningRate,
    StopOnNonFinite,
    Validation,
)
from lib.training.devices import scope
from lib.training.logs import EventLog, Progress, ProgressBar
from lib.training.memory import memory_errors
from lib.training.optimizer import Rates
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)

RECALIBRATION_BATCHES = 40  # at momentum 0.9 the old statistics then weigh 0.9^40, 1.5 %


@dataclass(frozen=True)
class _Stage:
    """A training stage: its epochs, counted from 0 over the whole run, and its learning rates by update."""

    name: str
    first_epoch: int
    epochs: int
    rates: Rates


def run(
    config: Config,
    fresh: bool = False,
    verbose: int = 0,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Runs the stages that the config names, or goes on where the run folder stands.

    Args:
        config: checked settings.
        fresh: start anew even if the folder holds a run; that one is moved aside.
        verbose: Keras' own display beside the log: 0 none, 1 a bar, 2 a line an epoch.
        progress: makes a bar for what is about to run.

    Returns:
        The content of `results.json`.

    Raises:
        ToolkitError: settings, data, weights or an earlier run in the folder do not fit; found before any training.

    """
    keras.utils.set_random_seed(config.TRAIN.seed)
    with scope(config.TRAIN.num_gpu):
        start = chosen_model(config)
        planned = _choose(config)(start, config.PRUNE.rate)  # unfit rates fail now, not after hours
        check_search(config, start)  # a budget that cannot be met likewise
        if config.TRAIN.pruned_alpha:
            ratios = named_ratios(start, config.TRAIN.pruned_ratio)
            GroupSparsity(start, config.TRAIN.pruned_alpha, ratios).detach()  # unfit ratios likewise
        data = load_data(config)
        folder = RunFolder(config.MODEL.model_path)
        if work_for_chief(config, start, data.train, folder.path):
            return {"stages": [], "data": data.description}
        folder.open(config, fresh)
        if planned.mode == "removable" and any(planned.channels.values()) and not config.SEARCH.enabled:
            costs = CostModel(inference_model(start), config.DATA.hin, config.DATA.win)
            logger.info("what pruning will leave:\n%s", removal_table(removal_report(costs, planned)))
        stages = _Stages(config, data, folder, start, verbose, progress)
    if (folder.path / "results.json").is_file():
        logger.info("%s holds a finished run: what is done is not done again; --fresh starts anew", folder.path)
    if config.TRAIN.vis:
        write_samples(folder.path / "samples.png", stages.trainer.dataset(data.train, augment=True))

    first = "imported" if config.MODEL.pretrained_model else "pretrain"
    for stage in [first, *(stage for stage in ("soft_prune", "finetune") if stage in config.TRAIN.stages)]:
        row = next((row for row in folder.state["stages"] if row["stage"] == stage), None)
        if row is None:
            logger.info("stage %s", stage)
            if config.SEARCH.enabled and stage != first:
                stages.search_rates(first)
            with memory_errors(config.TRAIN.batch_size, config.DATA.hin, config.DATA.win):
                stages.run_stage(stage)
            row = {"stage": stage, "ap": None, **costs_of(stages.trainer.model, config)}
            folder.state["stages"].append(row)
            folder.state["progress"] = None
            folder.save_state()
        else:
            logger.info("stage %s: already done", stage)
        if "evaluate" in config.TRAIN.stages and row["ap"] is None:
            bar = progress(f"evaluating {stage}") if progress else None
            row["ap"] = average_precision(folder.outcome(stage), data.val, config, bar)
            folder.save_state()
    if folder.state["stages"][-1]["stage"] in ("soft_prune", "finetune"):
        shrink_outcome(config, data, folder, progress)
    content = results_of(config, data, folder)
    write_json(folder.path / "results.json", content)
    return content


def _choose(config: Config) -> Callable[[keras.Model, PruningRates], Masks]:
    """Which channels go at which rates, as the config says."""
    prune = config.PRUNE
    return partial(
        plan,
        criterion=prune.criterion,
        mode=prune.mode,
        channel_divisor=prune.channel_divisor,
        min_channels=prune.min_channels,
        seed=config.TRAIN.seed,
    )


class _Stages:
    """The stages of one run, on one trainer."""

    def __init__(
        self,
        config: Config,
        data: FaceData,
        folder: RunFolder,
        model: keras.Model,
        verbose: int,
        progress: Callable[[str], Progress] | None,
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.trainer = Trainer(model, config)
        self.verbose, self.progress = verbose, progress
        self.rate: PruningRates = config.PRUNE.rate

    def search_rates(self, first: str) -> None:
        """Prunes at rates that are searched for from the first stage's outcome, unless they were found already."""
        self.trainer.held.release()
        self.trainer.set_weights(load(self.folder.outcome(first)).get_weights())
        self.rate = found_rates(self.config, self.trainer, self.data.train, self.folder.path)

    def run_stage(self, name: str) -> None:
        """Runs a stage from the outcome of the one before, or from its own last checkpoint, and saves its outcome."""
        if name != "imported":
            progress = self._prepare(name)
            if self.trainer.sparsity:  # pulling at the channels that are left would only cost
                self.trainer.sparsity.alpha = 0.0 if name == "finetune" else self.config.TRAIN.pruned_alpha
            stage = self._stage(name)
            epoch = progress["epoch"] if progress else stage.first_epoch
            train = self.trainer.dataset(self.data.train, augment=True, epoch=epoch)
            if name == "soft_prune":
                self.trainer.held.release()
                masks = self._soft_prune(stage, train, progress)
                write_json(self.folder.path / "masks.json", masks.to_dict())
            else:
                if name == "finetune":
                    self.trainer.held.hold(self._hard_masks())
                else:
                    self.trainer.held.release()
                self._fit(stage, train, progress)
                self._take_best()
        self.trainer.save(self.folder.outcome(name))

    def _prepare(self, name: str) -> dict[str, Any] | None:
        """Brings model and optimiser to where the stage stands; returns the stage's progress, None at its start."""
        state = self.folder.state
        progress = state["progress"]
        if progress:
            checkpoint = self.folder.last_checkpoint()
            assert checkpoint is not None, "there is progress"
            logger.info("stage %s: going on from %s", name, checkpoint)
            self.trainer.restore(checkpoint)
            return dict(progress)
        if state["stages"]:
            self.trainer.set_weights(load(self.folder.outcome(state["stages"][-1]["stage"])).get_weights())
        self.trainer.reset_optimizer()
        return None

    def _stage(self, name: str) -> _Stage:
        train, prune = self.config.TRAIN, self.config.PRUNE
        earlier = [row["epoch"] for row in self.folder.state["history"] if row["stage"] != name]
        first = max(earlier, default=0)
        updates_per_epoch = len(self.trainer.dataset(self.data.train, augment=True)) // train.accumulate
        if name == "pretrain":
            epochs, values = train.epoch, train.lr_value_every_step
            boundaries = train.lr_decay_every_step
            if train.lr_decay_every_epoch:
                boundaries = tuple(epoch * updates_per_epoch for epoch in train.lr_decay_every_epoch)
        else:
            soft = name == "soft_prune"
            epochs = prune.soft_epoch if soft else prune.finetune_epoch
            rate = prune.soft_lr if soft else prune.finetune_lr
            decays = prune.soft_lr_decay_epoch if soft else prune.finetune_lr_decay_epoch
            values = tuple(rate * 0.1**drop for drop in range(len(decays) + 1))
            boundaries = tuple(epoch * updates_per_epoch for epoch in decays)
        cosine = epochs * updates_per_epoch if train.lr_schedule == "cosine" else 0
        return _Stage(name, first, epochs, Rates(values, boundaries, train.warmup_step, cosine))

    def _fit(
        self, stage: _Stage, train: FaceDataset, progress: dict[str, Any] | None, pruning: SoftPruning | None = None
    ) -> None:
        """Keras' loop over what is left of the stage."""
        last = stage.first_epoch + stage.epochs
        if train.epoch >= last:
            return
        settings, trainer = self.config.TRAIN, self.trainer

        def more_state() -> dict[str, Any]:
            return {"masks": pruning.masks.to_dict()} if pruning and pruning.masks else {}

        callbacks: list[keras.callbacks.Callback] = [
            LearningRate(stage.rates, stage.first_epoch, len(train), settings.accumulate),
            StopOnNonFinite(self.folder, train.image_names, settings.checkpoint_every_step),
        ]
        if self.progress:
            callbacks.append(ProgressBar(self.progress(stage.name), last, len(train), train.batch_size))
        if pruning:
            recalibration = trainer.dataset(self.data.train, True, last)
            callbacks += [pruning, _AfterPruning(pruning, trainer, recalibration)]
        callbacks += self._activity_log()
        callbacks.append(Validation(trainer, trainer.dataset(self.data.val, augment=False)))
        if settings.ap_every_epoch:
            callbacks.append(AveragePrecision(self._present_ap, settings.ap_every_epoch, stage.first_epoch))
        callbacks += [
            EventLog(self.folder.path / "tensorboard", settings.log_interval, len(train)),
            Checkpoint(
                self.folder,
                stage.name,
                trainer,
                more_state,
                settings.checkpoint_every_step,
                settings.keep_checkpoints,
            ),
        ]
        trainer.fit(train, last, callbacks, self.verbose, progress.get("batch", 0) if progress else 0)

    def _present_ap(self) -> float:
        """AP of the present weights on a part of the validation images."""
        records = subset(self.data.val, self.config.TRAIN.ap_images, self.config.TRAIN.seed)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "present.keras"
            self.trainer.save(path)
            return average_precision(path, records, self.config, None)

    def _activity_log(self) -> list[ActivityLog]:
        """Where the group-sparsity loss is at work: what it switches off, on the first batch of validation images."""
        if not self.trainer.sparsity:
            return []
        images, _ = self.trainer.dataset(self.data.val, augment=False)[0]
        return [ActivityLog(self.trainer.model, images)]

    def _soft_prune(self, stage: _Stage, train: FaceDataset, progress: dict[str, Any] | None) -> Masks:
        prune = self.config.PRUNE
        first_epoch, last_epoch = stage.first_epoch, stage.first_epoch + stage.epochs - 1
        choose = _choose(self.config)
        pruning = SoftPruning(self.rate, prune.epoch_prune, first_epoch, last_epoch, choose, prune.schedule)
        if progress and "masks" in progress:
            pruning.masks = Masks.from_dict(progress["masks"])
        self._fit(stage, train, progress, pruning)
        assert pruning.masks is not None, "the last epoch ends with a pruning"
        return self._with_dead(pruning.masks)

    def _with_dead(self, masks: Masks) -> Masks:
        """The masks, and the channels that training for sparsity has switched off; these are masked here."""
        count = self.config.PRUNE.calibration_images
        if not (self.trainer.sparsity and count):
            return masks
        prune, images = self.config.PRUNE, self.trainer.dataset(self.data.train[:count], augment=False)
        batches = (images[index][0] for index in range(len(images)))
        dead = dead_channels(self.trainer.model, batches, prune.mode, min_channels=prune.min_channels)
        both = combine(masks, dead)
        more = sum(len(both.channels[name]) - len(masks.channels[name]) for name in masks.channels)
        logger.info("%d more channels are silent on %d images, and go too", more, len(self.data.train[:count]))
        apply_masks(self.trainer.model, both)
        return both

    def _hard_masks(self) -> Masks:
        """The soft stage's masks, or, where there was none, masks by the present weights."""
        saved = self.folder.path / "masks.json"
        if not saved.is_file():
            masks = _choose(self.config)(self.trainer.model, self.rate)
            write_json(saved, self._with_dead(masks).to_dict())
        return Masks.from_dict(read_json(saved))

    def _take_best(self) -> None:
        """Takes the weights of the stage's epoch with the lowest validation loss."""
        best = self.folder.state["progress"]["best"]
        logger.info("best validation loss: %.4f after epoch %d", best["val_loss"], best["epoch"])
        self.trainer.set_weights(load(self.folder.checkpoint(best["epoch"])).get_weights())


class _AfterPruning(keras.callbacks.Callback):
    """What a soft pruning invalidates: averaged weights, and after the last one batch statistics, are made anew.

    The statistics still hold the constants that the pruned channels were.
    """

    def __init__(self, pruning: SoftPruning, trainer: Trainer, dataset: FaceDataset) -> None:
        super().__init__()
        self.pruning, self.trainer, self.dataset = pruning, trainer, dataset
        self.masks = pruning.masks

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.pruning.masks is not self.masks:
            self.masks = self.pruning.masks
            self.trainer.restart_average()
        if epoch == self.pruning.last_epoch:
            for batch in range(RECALIBRATION_BATCHES):
                images, _ = self.dataset[batch % len(self.dataset)]
                self.trainer.model(images, training=True)
