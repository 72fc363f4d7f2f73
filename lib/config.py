"""The settings of all programs, section by section.

A config file is Python that makes a `Config` called `config` and assigns to `config.SECTION.key`.

Settings marked `Immaterial` may change between two calls for one run folder: they say how fast a run goes, what is
shown, which stages are run (finished ones are not run again), and where folder and data lie (data are judged by what is
in them). So may all of a section that concerns only stages that have not begun.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args, overload

from pydantic import Field

from lib.errors import ConfigError
from lib.settings import AnySettings, Immaterial, Section, Settings, load_settings

Stage = Literal["pretrain", "search", "soft_prune", "shrink", "repair", "finetune", "evaluate"]
USUAL_STAGES: tuple[Stage, ...] = ("pretrain", "soft_prune", "shrink", "finetune", "evaluate")
NetStructure = Literal["eresfd", "vgg_16", "resnet_v1_50", "resnet_v1_101", "MobilenetV2"]
Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
LearningRate = Annotated[float, Field(gt=0)]
LearningRates = LearningRate | tuple[LearningRate, ...]
PositiveFloat = Annotated[float, Field(gt=0)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Rgb = tuple[float, float, float]
# AP of other settings is measured anew; only a search by it depends on them.
Unmeasured = Immaterial(unless=("SEARCH.objective", "ap"))


class Train(Section):
    """What runs, and what is the same in every stage that trains."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1), Immaterial()] = USUAL_STAGES
    seed: Count = 0
    batch_size: Positive = 16
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
    score_loss: Literal["softmax", "focal"] = "softmax"
    max_negatives_per_positive: Annotated[float, Field(gt=0)] = 3.0
    negatives_over: Literal["image", "batch"] = "image"
    box_loss_sigma: Annotated[float, Field(gt=0)] = 1.0
    num_gpu: Positive = 1
    checkpoint_every_step: Annotated[Count, Immaterial()] = 0
    keep_checkpoints: Annotated[Count, Immaterial()] = 0
    log_interval: Annotated[Count, Immaterial()] = 100
    ap_every_epoch: Annotated[Count, Immaterial()] = 0
    ap_images: Annotated[Positive, Immaterial()] = 100
    pruned_alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pruned_ratio: Share | tuple[Share, ...] | list[Share] | dict[str, Share] = 0.3
    train_set_size: Count = 0
    val_set_size: Count = 0
    process_num: Annotated[Positive, Immaterial()] = 2
    prefetch_size: Annotated[Positive, Immaterial()] = 8
    vis: Annotated[bool, Immaterial()] = False


class Lesson(Section):
    """How long one stage trains, and at which rates; the stage's epochs and steps count from 0."""

    epoch: Positive = 30
    lr: LearningRates = 1e-3
    decay_epoch: tuple[Positive, ...] = ()
    decay_step: tuple[Positive, ...] = ()
    lr_end: Annotated[float, Field(ge=0)] | None = None

    def rates(self, cosine: bool) -> tuple[float, ...]:
        """The rates between the decays: a number falls to a tenth at each; of a cosine the first rate and the last."""
        if isinstance(self.lr, tuple):
            rates = self.lr
        else:
            rates = tuple(self.lr * 0.1**drop for drop in range(len(self.decay_epoch or self.decay_step) + 1))
        return (rates[0], rates[-1] if self.lr_end is None else self.lr_end) if cosine else rates

    def check(self, name: str, cosine: bool) -> None:
        """Raises ConfigError where the rates and decays of the section `name` do not go together."""
        if self.decay_step and self.decay_epoch:
            raise ConfigError(f"give {name}.decay_step or {name}.decay_epoch, not both")
        unit, decays = ("epoch", self.decay_epoch) if self.decay_epoch else ("step", self.decay_step)
        if list(decays) != sorted(set(decays)):
            raise ConfigError(f"{name}.decay_{unit} must increase, got {list(decays)}")
        if isinstance(self.lr, tuple) and (not self.lr or (len(self.lr) != len(decays) + 1 and not cosine)):
            raise ConfigError(
                f"{name}.lr needs one value more than {name}.decay_{unit} has {unit}s, got {len(self.lr)} values and "
                f"{len(decays)} {unit}s; or give one number, which falls to a tenth at each"
            )
        if cosine and len(set(self.rates(cosine))) == 1:
            raise ConfigError(f"{name}.lr_end must say where the cosine ends that begins at {name}.lr = {self.lr}")


class Pretrain(Lesson):
    """The first training."""

    concerns = ("pretrain",)
    lr: LearningRates = (1e-3,)


class SoftPrune(Lesson):
    """Training while channels are set to zero every few epochs."""

    concerns = ("soft_prune",)
    epoch: Positive = 20


class Finetune(Lesson):
    """Training of what pruning left."""

    concerns = ("finetune",)
    epoch: Positive = 10
    lock_bn: bool = False


class Model(Section):
    """Which network, from which weights, into which folder."""

    model_path: Annotated[str, Field(min_length=1), Immaterial()] = "runs/eresfd"
    pretrained_model: str = ""
    net_structure: NetStructure = "eresfd"
    width_mult: Annotated[float, Field(gt=0)] = 0.0625
    backbone_weights: Annotated[str, Field(min_length=1)] = "imagenet"
    l2_norm: tuple[PositiveFloat, ...] = (10, 8, 5)
    fpn: bool = True
    fpn_dims: tuple[Positive, ...] = ()
    fem_dims: Positive = 512
    norm: Literal["", "BN", "GN", "None"] = ""
    frozen_stages: Annotated[int, Field(ge=-1)] = -1
    lock_basenet_bn: bool = False
    PIXEL_MEAN: Rgb = (123, 116, 103)
    PIXEL_STD: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58, 57, 57)
    dual_mode: bool = True
    maxout: bool = True


class Data(Section):
    """Where images and boxes come from, and what the network sees of them."""

    root_path: Annotated[str, Immaterial()] = ""
    train_txt_path: Annotated[str, Immaterial()] = ""
    val_txt_path: Annotated[str, Immaterial()] = ""
    train_image_dir: Annotated[str, Immaterial()] = ""
    val_image_dir: Annotated[str, Immaterial()] = ""
    sample_path: Annotated[str, Immaterial()] = "data/samples"
    hin: Annotated[int, Field(ge=32)] = 640
    win: Annotated[int, Field(ge=32)] = 640
    multiscale: bool = False
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
    ANCHOR_RATIOS: tuple[PositiveFloat, ...] = (1, 4)
    rect_longer: bool = True
    NEGATIVE_ANCHOR_THRESH: Threshold = 0.35
    AVG_MATCHES: Count = 20
    super_match: bool = True


class Cost(Section):
    """The input size at which multiply-accumulates and milliseconds are counted, everywhere."""

    hin: Positive = 480
    win: Positive = 640


class Test(Section):
    """How detections are made where AP is measured."""

    score_thres: Annotated[float, Field(ge=0, le=1), Unmeasured] = 0.05
    iou_thres: Annotated[float, Field(gt=0, lt=1), Unmeasured] = 0.3
    max_detect: Annotated[Positive, Unmeasured] = 750
    latency_rounds: Annotated[Count, Immaterial()] = 60


class Prune(Section):
    """How much goes, by which criterion, and how."""

    concerns = ("search", "soft_prune", "shrink", "repair", "finetune")
    rate: Share | dict[str, Share] = 0.3
    mode: Literal["removable", "per_layer"] = "removable"
    criterion: Literal["fpgm", "l1", "l2", "random"] = "fpgm"
    channel_divisor: Positive = 1
    min_channels: Count = 1
    schedule: Literal["constant", "polynomial"] = "constant"
    epoch_prune: Positive = 5
    protected: tuple[str, ...] = ()
    calibration_images: Count = 64
    repair: Literal["solve", "recalibrate", "off"] = "solve"
    repair_images: Positive = 48


class Distil(Section):
    """Which model teaches those in training, beside the labels or in their place, and what its terms weigh."""

    teacher: str = ""
    scores: Annotated[float, Field(ge=0)] = 1.0
    boxes: Annotated[float, Field(ge=0)] = 1.0
    temperature: PositiveFloat = 1.0
    focus: Annotated[float, Field(ge=0)] = 1.0


class Search(Section):
    """Which rates are looked for, under which budget, and how each proposal is judged."""

    concerns = ("search",)
    enabled: bool = False
    budget: Literal["macs", "parameters", "latency", "zeroed"] = "macs"
    target: PositiveShare | list[PositiveShare] = 0.5
    target_pruning_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tolerance: Annotated[float, Field(gt=0, lt=0.04)] = 0.01
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

    aliases: ClassVar[Mapping[str, str]] = {  # earlier names, the seed's among them
        "TRAIN.epoch": "PRETRAIN.epoch",
        "TRAIN.lr_value_every_step": "PRETRAIN.lr",
        "TRAIN.lr_decay_every_step": "PRETRAIN.decay_step",
        "TRAIN.lr_decay_every_epoch": "PRETRAIN.decay_epoch",
        "PRUNE.soft_epoch": "SOFT_PRUNE.epoch",
        "PRUNE.soft_lr": "SOFT_PRUNE.lr",
        "PRUNE.soft_lr_decay_epoch": "SOFT_PRUNE.decay_epoch",
        "PRUNE.finetune_epoch": "FINETUNE.epoch",
        "PRUNE.finetune_lr": "FINETUNE.lr",
        "PRUNE.finetune_lr_decay_epoch": "FINETUNE.decay_epoch",
        "DATA.mutiscale": "DATA.multiscale",
        **{f"TRAIN.{key}": f"MODEL.{key}" for key in ("norm", "frozen_stages", "lock_basenet_bn")},
        **{f"DATA.{key}": f"MODEL.{key}" for key in ("PIXEL_MEAN", "PIXEL_STD")},
        **{f"MODEL.{key}": f"TRAIN.{key}" for key in ("score_loss", "max_negatives_per_positive")},
        **{f"MODEL.{key}": f"TRAIN.{key}" for key in ("negatives_over", "box_loss_sigma")},
        **{f"SEARCH.{key}": f"COST.{key}" for key in ("hin", "win")},
    }
    constants: ClassVar[Mapping[str, Any]] = {  # the seed's config names them
        "DATA.num_category": 1,
        "ANCHOR.ANCHOR_STRIDES": (4, 8, 16, 32, 64, 128),
    }

    TRAIN: Train = Field(default_factory=Train)
    PRETRAIN: Pretrain = Field(default_factory=Pretrain)
    SOFT_PRUNE: SoftPrune = Field(default_factory=SoftPrune)
    FINETUNE: Finetune = Field(default_factory=Finetune)
    MODEL: Model = Field(default_factory=Model)
    DATA: Data = Field(default_factory=Data)
    ANCHOR: Anchor = Field(default_factory=Anchor)
    COST: Cost = Field(default_factory=Cost)
    TEST: Test = Field(default_factory=Test)
    PRUNE: Prune = Field(default_factory=Prune)
    DISTIL: Distil = Field(default_factory=Distil)
    SEARCH: Search = Field(default_factory=Search)

    def check(self) -> None:
        """Raises ConfigError where settings that are fine alone do not go together."""
        train, data = self.TRAIN, self.DATA
        lessons: dict[str, Lesson] = {"SOFT_PRUNE": self.SOFT_PRUNE, "FINETUNE": self.FINETUNE}
        if not self.MODEL.pretrained_model:
            lessons["PRETRAIN"] = self.PRETRAIN
        for name, lesson in lessons.items():
            if name.lower() in train.stages:
                lesson.check(name, train.lr_schedule == "cosine")
        if train.clip_value and train.clip_norm:
            raise ConfigError("give TRAIN.clip_value or TRAIN.clip_norm, not both; 0 switches one off")
        self._check_stages()
        if bool(data.train_txt_path or (self.DISTIL.teacher and data.train_image_dir)) != bool(data.val_txt_path):
            raise ConfigError(
                "DATA.train_txt_path and DATA.val_txt_path go together; leave both empty for the built-in sample set, "
                "or, with a DISTIL.teacher, the first alone for all photographs in DATA.train_image_dir without labels"
            )
        if data.multiscale and (any(size % 32 for size in data.scales) or data.scales[0] >= data.scales[1]):
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
                f"without 'pretrain', MODEL.pretrained_model must name the model for {stages[0]!r} to start from"
            )

    def _check_search(self) -> None:
        search, targets = self.SEARCH, self.SEARCH.targets()
        if not targets or len(set(targets)) != len(targets):
            raise ConfigError(f"SEARCH.target needs one share, or several different ones, got {list(targets)}")
        if search.n_init_points + search.n_opt_iterations == 0:
            raise ConfigError("SEARCH.n_init_points and SEARCH.n_opt_iterations are both 0: nothing would be searched")
        if self.DATA.val_txt_path and not self.DATA.train_txt_path:
            raise ConfigError("no search can judge by photographs without labels; set DATA.train_txt_path")
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


def stage_names(config: Config) -> tuple[str, ...]:
    """TRAIN.stages, with a search before the first one that prunes where SEARCH.enabled asks for it."""
    names: list[str] = list(config.TRAIN.stages)
    pruning = [name for name in names if name in ("soft_prune", "shrink", "finetune")]
    if config.SEARCH.enabled and "search" not in names and pruning:
        names.insert(names.index(pruning[0]), "search")
    return tuple(names)


class MacConfig(Settings):
    """What mac.py counts. `MacConfig()` holds the defaults."""

    aliases: ClassVar[Mapping[str, str]] = {"DATA.hin": "COST.hin", "DATA.win": "COST.win"}

    class Model(Section):
        """The model that is counted, and the one that it is compared with."""

        trained_model: Annotated[str, Field(min_length=1)] = "runs/eresfd_samples"
        full_model: str = ""

    class Data(Section):
        """Images for counting by activations."""

        image_dir: str = ""
        max_images: Count = 0

    MODEL: Model = Field(default_factory=Model)
    DATA: Data = Field(default_factory=Data)
    COST: Cost = Field(default_factory=Cost)


@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str], kind: type[AnySettings]) -> AnySettings: ...
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), kind: type[Settings] = Config) -> Settings:
    """Reads and checks a config file; `lib.settings.load_settings` for `Config`."""
    return load_settings(path, overrides, kind)
