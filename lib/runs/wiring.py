"""Where a config becomes values: the only place in lib/ that knows what its settings are called."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from lib.config import Config, Lesson, stage_names
from lib.console import ProgressLine
from lib.data.batches import SCALE_STEP_PX, BatchSettings
from lib.data.sources import DataSettings, FaceData
from lib.detection.formats.pb import DetectionSettings
from lib.errors import ConfigError, ModelError
from lib.geometry.compensation import Compensation
from lib.models import ANY_SIZE, anchors_of, build, load, size_of_images
from lib.models.zoo import located
from lib.pruning.choice import Choice
from lib.runs.folder import RunFolder
from lib.runs.stages.base import Stage
from lib.runs.stages.evaluate import Evaluate
from lib.runs.stages.gradual import Gradual
from lib.runs.stages.learning import Course, Finetune, Import, Pretrain, SoftPrune, Watch
from lib.runs.stages.removal import Repair, Shrink
from lib.runs.stages.search import Search
from lib.runs.workbench import Workbench
from lib.search.run import SearchSettings
from lib.search.trials import Schooling
from lib.training.distillation import DistillationSettings
from lib.training.losses import LossSettings
from lib.training.optimizer import OptimizerSettings
from lib.training.processes import present
from lib.training.trainer import Trainer, TrainerSettings, lock_norms

logger = logging.getLogger(__name__)


# --- what runs


def stages_of(config: Config) -> list[Stage]:
    """The stages that the config names, in their order; what a run starts with, always."""
    train, prune = config.TRAIN, config.PRUNE
    watch = Watch(
        train.checkpoint_every_step, train.keep_checkpoints, train.log_interval, train.ap_every_epoch, train.ap_images
    )
    made: dict[str, Callable[[], Stage]] = {
        "search": lambda: Search(search_settings(config)),
        "soft_prune": lambda: SoftPrune(_course(config, config.SOFT_PRUNE), watch, prune.epoch_prune, prune.schedule),
        "shrink": lambda: _shrink(config, watch),
        "repair": lambda: _repair(config),
        "finetune": lambda: Finetune(_course(config, config.FINETUNE), watch, config.FINETUNE.lock_bn),
        "evaluate": lambda: Evaluate(config.TEST.latency_rounds),
    }
    first = Import() if config.MODEL.pretrained_model else Pretrain(_course(config, config.PRETRAIN), watch)
    return [first, *(made[name]() for name in stage_names(config) if name != "pretrain")]


def _repair(config: Config) -> Repair:
    return Repair(config.PRUNE.repair, config.PRUNE.repair_images, config.PRUNE.mode)


def _shrink(config: Config, watch: Watch) -> Stage:
    """At once, or in steps, between which is trained at the rate of fine-tuning, or by the same cosine."""
    prune, tune = config.PRUNE, config.FINETUNE
    if prune.steps == 1:
        return Shrink()
    course = replace(_course(config, tune), epochs=prune.step_epoch, steps=(), decay_epochs=())
    if not course.cosine:
        course = replace(course, values=course.values[:1])
    return Gradual(course, watch, prune.steps, _repair(config), tune.lock_bn)


def _course(config: Config, lesson: Lesson) -> Course:
    cosine = config.TRAIN.lr_schedule == "cosine"
    return Course(
        lesson.epoch,
        lesson.rates(cosine),
        lesson.decay_step,
        lesson.decay_epoch,
        config.TRAIN.warmup_step,
        cosine,
    )


def workbench(
    config: Config,
    start: keras.Model,
    data: FaceData,
    verbose: int = 0,
    progress: Callable[[str], ProgressLine] | None = None,
) -> Workbench:
    """What the stages share."""
    return Workbench(
        RunFolder(config.MODEL.model_path, writes=present().first),
        data,
        start,
        trainer_settings(config, start),
        detection_settings(config),
        choice(config),
        config.PRUNE.rate,
        cost_size_px=(config.COST.hin, config.COST.win),
        calibration_images=config.PRUNE.calibration_images,
        devices=config.TRAIN.num_gpu,
        verbose=verbose,
        progress=progress,
    )


# --- the model


def chosen_model(config: Config) -> keras.Model:
    """`MODEL.pretrained_model`, or else a new model of `MODEL.net_structure` with the settings that concern it.

    A bare name is that of published weights (`lib.models.zoo`). MODEL.lock_basenet_bn locks every batch normalisation
    of EResFD, which is all base, and of a model from a file.

    Raises:
        ModelError: the file is no detector of images of any size, the settings do not go together, or a backbone's
            weights cannot be had.

    """
    if config.MODEL.pretrained_model:
        model = load(located(config.MODEL.pretrained_model))
        anchors_of(model)  # refuses a model that is no detector
        if size := size_of_images(model):
            raise ModelError(
                f"{config.MODEL.pretrained_model}: takes images of {size[0]}x{size[1]} (height x width) alone, and a "
                f"run shows it images of many sizes; take {ANY_SIZE}"
            )
    else:
        model = build(config.MODEL.net_structure, **model_options(config))
    if config.MODEL.lock_basenet_bn and (config.MODEL.pretrained_model or config.MODEL.net_structure == "eresfd"):
        lock_norms(model)
    if locked := sum(bool(layer.weights) and not layer.trainable for layer in model.layers):
        logger.info("%d layers of the model are locked: training leaves them as they are", locked)
    return model


def model_options(config: Config) -> dict[str, Any]:
    """The options of `lib.models.build` for a new model."""
    model, anchor = config.MODEL, config.ANCHOR
    if model.net_structure == "eresfd":
        return {"width_mult": model.width_mult, "anchor_ratio": anchor.anchor_ratio}
    if model.net_structure in ("yunet_n", "yunet_s"):
        return {}
    return {
        "fpn": model.fpn,
        "dual_mode": model.dual_mode,
        "maxout": model.maxout,
        "norm": model.norm or None,
        "l2_norm": model.l2_norm,
        "fpn_dims": model.fpn_dims,
        "fem_dims": model.fem_dims,
        "frozen_stages": model.frozen_stages,
        "lock_basenet_bn": model.lock_basenet_bn,
        "anchor_sizes": anchor.ANCHOR_SIZES,
        "anchor_ratios": anchor.ANCHOR_RATIOS,
        "rect_longer": anchor.rect_longer,
        "pixel_mean": model.PIXEL_MEAN,
        "pixel_std": model.PIXEL_STD,
        "backbone_weights": model.backbone_weights,
    }


# --- settings of the rooms


def data_settings(config: Config) -> DataSettings:
    """Where images and boxes come from."""
    data, train = config.DATA, config.TRAIN
    return DataSettings(
        root=data.root_path,
        train_annotations=data.train_txt_path,
        train_images=data.train_image_dir,
        val_annotations=data.val_txt_path,
        val_images=data.val_image_dir,
        samples=data.sample_path,
        seed=train.seed,
        train_size=train.train_set_size,
        val_size=train.val_set_size,
    )


def batch_settings(config: Config, model: keras.Model) -> BatchSettings:
    """How a model's images become batches. A DSFD's faces are matched with compensation, an EResFD's in two stages."""
    train, data, anchor = config.TRAIN, config.DATA, config.ANCHOR
    compensation = Compensation(anchor.NEGATIVE_ANCHOR_THRESH, anchor.AVG_MATCHES, anchor.super_match)
    return BatchSettings(
        height_px=data.hin,
        width_px=data.win,
        batch_size=train.batch_size,
        seed=train.seed,
        recipe=data.recipe,
        crop_min=data.crop_min,
        anchor_sampling=data.anchor_sampling,
        sizes_px=tuple(range(data.scales[0], data.scales[1] + 1, SCALE_STEP_PX)) if data.multiscale else (),
        cover_px=data.cover_small_face,
        ignore_invalid=data.ignore_invalid,
        positive_iou=anchor.POSITIVE_ANCHOR_THRESH,
        second_stage_iou=anchor.second_stage_thresh,
        compensation=compensation if anchors_of(model).code == "corners" else None,  # the code of all DSFDs
        workers=train.process_num,
        prefetch=train.prefetch_size,
    )


def trainer_settings(config: Config, model: keras.Model) -> TrainerSettings:
    """How a model is trained."""
    train, prune = config.TRAIN, config.PRUNE
    return TrainerSettings(
        batches=batch_settings(config, model),
        optimizer=optimizer_settings(config),
        losses=loss_settings(config),
        precision=train.mixed_precision,
        mode=prune.mode,
        sparsity=train.pruned_alpha,
        sparsity_ratios=train.pruned_ratio,
        distillation=distillation_settings(config),
    )


def make_trainer(model: keras.Model, config: Config) -> Trainer:
    """A trainer of a model, as the config says."""
    return Trainer(model, trainer_settings(config, model))


def optimizer_settings(config: Config) -> OptimizerSettings:
    """How weights move."""
    train = config.TRAIN
    return OptimizerSettings(
        name=train.optimizer,
        momentum=train.momentum,
        weight_decay=train.weight_decay_factor,
        clip_value=train.clip_value,
        clip_norm=train.clip_norm,
        accumulate=train.accumulate,
        ema=train.ema,
        scale_loss=train.mixed_precision == "float16",
    )


def loss_settings(config: Config) -> LossSettings:
    """What weights are pulled by."""
    train = config.TRAIN
    return LossSettings(train.score_loss, train.max_negatives_per_positive, train.negatives_over, train.box_loss_sigma)


def distillation_settings(config: Config) -> DistillationSettings | None:
    """Who teaches: a file, or "start", the model that the run starts with; None without DISTIL.teacher.

    Raises:
        ConfigError: the run starts with a new model, which has nothing to teach.

    """
    distil = config.DISTIL
    if not distil.teacher:
        return None
    if distil.teacher == "start" and not config.MODEL.pretrained_model:
        raise ConfigError(
            "DISTIL.teacher = 'start' is MODEL.pretrained_model, and that is empty; set it, or name another .keras file"
        )
    teacher = config.MODEL.pretrained_model if distil.teacher == "start" else distil.teacher
    return DistillationSettings(
        str(located(teacher)), distil.scores, distil.boxes, distil.landmarks, distil.temperature, distil.focus
    )


def detection_settings(config: Config) -> DetectionSettings:
    """How faces are detected where AP is measured, and in frozen graphs."""
    test = config.TEST
    return DetectionSettings(test.score_thres, test.iou_thres, max_detections=test.max_detect)


def choice(config: Config) -> Choice:
    """Which channels go."""
    prune = config.PRUNE
    return Choice(
        criterion=prune.criterion,
        mode=prune.mode,
        channel_divisor=prune.channel_divisor,
        min_channels=prune.min_channels,
        protected=prune.protected,
        seed=config.TRAIN.seed,
    )


def search_settings(config: Config) -> SearchSettings:
    """What is searched for."""
    search = config.SEARCH
    return SearchSettings(
        quantity=search.budget,
        targets=search.targets(),
        tolerance=search.tolerance,
        height_px=config.COST.hin,
        width_px=config.COST.win,
        groups=search.groups,
        branches=search.branches,
        max_rate=search.max_rate,
        n_init_points=search.n_init_points,
        n_opt_iterations=search.n_opt_iterations,
        probing_offset=search.probing_offset,
        n_long=search.n_long,
        objective=search.objective,
        regularization_coefficient=search.regularization_coefficient,
        holdout=search.holdout,
        schooling=Schooling(
            search.steps, search.long_steps, search.lr, search.recalibration_batches, search.repair_images
        ),
        choice=choice(config),
        seed=config.TRAIN.seed,
    )
