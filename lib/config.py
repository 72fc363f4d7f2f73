"""The settings of all programs, section by section.

A config file is Python that makes a `Config` called `config` and assigns to `config.SECTION.key`.
"""

import os
from collections.abc import Sequence
from typing import Annotated, Literal, get_args, overload

from pydantic import Field

from lib.errors import ConfigError
from lib.settings import AnySettings, Section, Settings, load_settings

Stage = Literal["pretrain", "search", "soft_prune", "shrink", "repair", "finetune", "evaluate"]
NetStructure = Literal["eresfd", "vgg_16", "resnet_v1_50", "resnet_v1_101", "MobilenetV2"]
Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
LearningRate = Annotated[float, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Rgb = tuple[float, float, float]


class Train(Section):
    """What runs, and how the first training goes."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (
        "pretrain",
        "soft_prune",
        "shrink",
        "finetune",
        "evaluate",
    )
    seed: Count = 0
    epoch: Positive = 30
    batch_size: Positive = 16
    lr_value_every_step: Annotated[tuple[LearningRate, ...], Field(min_length=1)] = (1e-3,)
    lr_decay_every_step: tuple[Positive, ...] = ()
    lr_decay_every_epoch: tuple[Positive, ...] = ()
    lr_schedule: Literal["step", "cosine"] = "step"
    warmup_step: Count = 0
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    momentum: Rate = 0.9
    weight_decay_factor: Annotated[float, Field(ge=0)] = 5e-4
    clip_value: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    accumulate: Positive = 1
    ema: Rate = 0.0
    mixed_precision: Literal["off", "bfloat16", "float16"] = "off"
    num_gpu: Positive = 1
    checkpoint_every_step: Count = 0
    keep_checkpoints: Count = 0
    log_interval: Count = 100
    ap_every_epoch: Count = 0
    ap_images: Positive = 100
    norm: Literal["", "BN", "GN", "None"] = ""
    lock_basenet_bn: bool = False
    frozen_stages: Annotated[int, Field(ge=-1)] = -1
    pruned_alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pruned_ratio: Share | tuple[Share, ...] | list[Share] | dict[str, Share] = 0.3
    train_set_size: Count = 0
    val_set_size: Count = 0
    process_num: Positive = 2
    prefetch_size: Positive = 8
    vis: bool = False


class Model(Section):
    """Which network, from which weights, into which folder."""

    model_path: Annotated[str, Field(min_length=1)] = "runs/eresfd"
    pretrained_model: str = ""
    net_structure: NetStructure = "eresfd"
    width_mult: Annotated[float, Field(gt=0)] = 0.0625
    backbone_weights: Annotated[str, Field(min_length=1)] = "imagenet"
    l2_norm: tuple[PositiveFloat, ...] = (10, 8, 5)
    fpn: bool = True
    fpn_dims: tuple[Positive, ...] = ()
    fem_dims: Positive = 512
    dual_mode: bool = True
    maxout: bool = True
    max_negatives_per_positive: Annotated[float, Field(gt=0)] = 3.0
    negatives_over: Literal["image", "batch"] = "image"
    score_loss: Literal["softmax", "focal"] = "softmax"
    box_loss_sigma: Annotated[float, Field(gt=0)] = 1.0


class Data(Section):
    """Where images and boxes come from, and what the network sees of them."""

    root_path: str = ""
    train_txt_path: str = ""
    val_txt_path: str = ""
    train_image_dir: str = ""
    val_image_dir: str = ""
    sample_path: str = "data/samples"
    hin: Annotated[int, Field(ge=32)] = 640
    win: Annotated[int, Field(ge=32)] = 640
    num_category: Literal[1] = 1
    PIXEL_MEAN: Rgb = (123, 116, 103)
    PIXEL_STD: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58, 57, 57)
    mutiscale: bool = False
    scales: tuple[Positive, Positive] = (320, 640)
    recipe: Literal["eresfd", "dsfd"] = "eresfd"
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.3
    anchor_sampling: Annotated[float, Field(ge=0, le=1)] = 0.5
    cover_small_face: Annotated[float, Field(ge=0)] = 0.0
    ignore_invalid: bool = True


class Anchor(Section):
    """Anchors of a new model, and how faces are matched to them."""

    anchor_ratio: Annotated[float, Field(gt=0)] = 1.25
    POSITIVE_ANCHOR_THRESH: Threshold = 0.35
    second_stage_thresh: Threshold = 0.1
    ANCHOR_SIZES: tuple[PositiveFloat, ...] = (16, 32, 64, 128, 256, 512)
    ANCHOR_STRIDES: tuple[Positive, ...] = (4, 8, 16, 32, 64, 128)
    ANCHOR_RATIOS: tuple[PositiveFloat, ...] = (1, 4)
    rect_longer: bool = True
    NEGATIVE_ANCHOR_THRESH: Threshold = 0.35
    AVG_MATCHES: Count = 20
    super_match: bool = True


class Test(Section):
    """How detections are made where AP is measured."""

    score_thres: Annotated[float, Field(ge=0, le=1)] = 0.05
    iou_thres: Annotated[float, Field(gt=0, lt=1)] = 0.3
    max_detect: Positive = 750
    latency_rounds: Count = 60


class Prune(Section):
    """How much goes, by which criterion, and the two stages that make it go."""

    rate: Share | dict[str, Share] = 0.3
    mode: Literal["removable", "per_layer"] = "removable"
    criterion: Literal["fpgm", "l1", "l2", "random"] = "fpgm"
    channel_divisor: Positive = 1
    min_channels: Count = 1
    schedule: Literal["constant", "polynomial"] = "constant"
    epoch_prune: Positive = 5
    soft_epoch: Positive = 20
    soft_lr: LearningRate = 1e-3
    soft_lr_decay_epoch: tuple[Positive, ...] = ()
    finetune_epoch: Positive = 10
    finetune_lr: LearningRate = 1e-3
    finetune_lr_decay_epoch: tuple[Positive, ...] = ()
    calibration_images: Count = 64
    repair: Literal["solve", "recalibrate", "off"] = "solve"
    repair_images: Positive = 48


class Search(Section):
    """Which rates are looked for, under which budget, and how each proposal is judged."""

    enabled: bool = False
    budget: Literal["macs", "parameters", "latency", "zeroed"] = "macs"
    target: PositiveShare | list[PositiveShare] = 0.5
    target_pruning_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tolerance: Annotated[float, Field(gt=0, lt=0.04)] = 0.01
    hin: Positive = 480
    win: Positive = 640
    groups: str | dict[str, list[str]] = "eresfd_6"
    branches: tuple[str, ...] = ()
    max_rate: Annotated[float, Field(gt=0, lt=1)] = 0.98
    n_init_points: Count = 20
    n_opt_iterations: Count = 80
    probing_offset: Annotated[float, Field(ge=0, lt=1)] = 0.04
    objective: Literal["loss", "ap"] = "loss"
    regularization_coefficient: Annotated[float, Field(ge=0)] = 5.0
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    steps: Count = 0
    lr: LearningRate = 1e-3
    recalibration_batches: Count = 10
    n_long: Count = 0
    long_steps: Count = 0

    def targets(self) -> tuple[float, ...]:
        """The shares of the budgeted quantity that shall be left."""
        if self.target_pruning_rate:
            return (1 - self.target_pruning_rate,)
        return tuple(self.target) if isinstance(self.target, list) else (self.target,)


class Config(Settings):
    """All sections of the pruning job. `Config()` holds the defaults."""

    TRAIN: Train = Field(default_factory=Train)
    MODEL: Model = Field(default_factory=Model)
    DATA: Data = Field(default_factory=Data)
    ANCHOR: Anchor = Field(default_factory=Anchor)
    TEST: Test = Field(default_factory=Test)
    PRUNE: Prune = Field(default_factory=Prune)
    SEARCH: Search = Field(default_factory=Search)

    def check(self) -> None:
        """Raises ConfigError where settings that are fine alone do not go together."""
        train, data, prune = self.TRAIN, self.DATA, self.PRUNE
        if train.lr_decay_every_step and train.lr_decay_every_epoch:
            raise ConfigError("give TRAIN.lr_decay_every_step or TRAIN.lr_decay_every_epoch, not both")
        decays, unit = (
            (train.lr_decay_every_epoch, "epoch") if train.lr_decay_every_epoch else (train.lr_decay_every_step, "step")
        )
        if train.lr_schedule == "step" and len(train.lr_value_every_step) != len(decays) + 1:
            raise ConfigError(
                f"TRAIN.lr_value_every_step needs one value more than TRAIN.lr_decay_every_{unit} has {unit}s, got "
                f"{len(train.lr_value_every_step)} values and {len(decays)} {unit}s"
            )
        if train.clip_value and train.clip_norm:
            raise ConfigError("give TRAIN.clip_value or TRAIN.clip_norm, not both; 0 switches one off")
        for name, steps in (
            ("TRAIN.lr_decay_every_step", train.lr_decay_every_step),
            ("TRAIN.lr_decay_every_epoch", train.lr_decay_every_epoch),
            ("PRUNE.soft_lr_decay_epoch", prune.soft_lr_decay_epoch),
            ("PRUNE.finetune_lr_decay_epoch", prune.finetune_lr_decay_epoch),
        ):
            if list(steps) != sorted(set(steps)):
                raise ConfigError(f"{name} must increase, got {list(steps)}")
        self._check_stages()
        if bool(data.train_txt_path) != bool(data.val_txt_path):
            raise ConfigError(
                "DATA.train_txt_path and DATA.val_txt_path go together; leave both empty for the built-in sample set"
            )
        if data.mutiscale and (any(size % 32 for size in data.scales) or data.scales[0] >= data.scales[1]):
            raise ConfigError(f"DATA.scales must be two multiples of 32, the smaller first, got {list(data.scales)}")
        if self.ANCHOR.second_stage_thresh >= self.ANCHOR.POSITIVE_ANCHOR_THRESH:
            raise ConfigError("ANCHOR.second_stage_thresh must lie below ANCHOR.POSITIVE_ANCHOR_THRESH")
        if self.ANCHOR.NEGATIVE_ANCHOR_THRESH > self.ANCHOR.POSITIVE_ANCHOR_THRESH:
            raise ConfigError("ANCHOR.NEGATIVE_ANCHOR_THRESH must not lie above ANCHOR.POSITIVE_ANCHOR_THRESH")
        if self.SEARCH.enabled or "search" in train.stages:
            self._check_search()

    def _check_stages(self) -> None:
        stages = self.TRAIN.stages
        if not in_order(stages):
            raise ConfigError(
                f"TRAIN.stages must be some of {', '.join(STAGES)}, in this order and each once, got "
                f"{', '.join(stages)}; only 'shrink' may also come right after 'finetune', which then trains the whole "
                "model with the pruned channels held at zero"
            )
        early = "shrink" in stages and "finetune" in stages[stages.index("shrink") :]
        if self.PRUNE.mode == "per_layer" and early:
            raise ConfigError(
                "PRUNE.mode = 'per_layer' masks channels that cannot be removed, and they have to be held while they "
                "are fine-tuned; put 'shrink' after 'finetune' in TRAIN.stages, or leave it out"
            )
        if "pretrain" not in stages and not self.MODEL.pretrained_model:
            raise ConfigError(
                f"without the stage 'pretrain', MODEL.pretrained_model must name the model for {stages[0]!r} to start "
                "from"
            )

    def _check_search(self) -> None:
        search = self.SEARCH
        targets = search.targets()
        if not targets or len(set(targets)) != len(targets):
            raise ConfigError(f"SEARCH.target needs one share, or several different ones, got {list(targets)}")
        if search.n_init_points + search.n_opt_iterations == 0:
            raise ConfigError("SEARCH.n_init_points and SEARCH.n_opt_iterations are both 0: nothing would be searched")
        if search.branches and self.PRUNE.min_channels:
            raise ConfigError("SEARCH.branches lets sets go whole; that needs PRUNE.min_channels = 0")
        if search.n_long and not search.long_steps:
            raise ConfigError("SEARCH.n_long trials are tried again, but SEARCH.long_steps does not say how long")


STAGES: tuple[str, ...] = get_args(Stage)
# What is pruned is taken out before fine-tuning, so that the small model is trained, or after it.
_ORDERS = (STAGES, ("pretrain", "search", "soft_prune", "finetune", "shrink", "evaluate"))


def in_order(stages: Sequence[str]) -> bool:
    """Whether stages come in an order in which they can be run, each at most once."""
    return any(list(stages) == [name for name in order if name in stages] for order in _ORDERS)


class MacConfig(Settings):
    """What mac.py counts. `MacConfig()` holds the defaults."""

    class Model(Section):
        """The model that is counted, and the one that it is compared with."""

        trained_model: Annotated[str, Field(min_length=1)] = "runs/eresfd_samples"
        full_model: str = ""

    class Data(Section):
        """The input, and images for counting by activations."""

        hin: Positive = 480
        win: Positive = 640
        image_dir: str = ""
        max_images: Count = 0

    MODEL: Model = Field(default_factory=Model)
    DATA: Data = Field(default_factory=Data)


@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str], kind: type[AnySettings]) -> AnySettings: ...
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), kind: type[Settings] = Config) -> Settings:
    """Reads and checks a config file; `lib.settings.load_settings` for `Config`."""
    return load_settings(path, overrides, kind)
