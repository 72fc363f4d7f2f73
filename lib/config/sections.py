"""The sections of the settings, their types and defaults.

Settings marked `Immaterial` may change between two calls for one run folder: they say how fast a run goes, what is
shown, which stages are run (finished ones are not run again), and where folder and data lie (data are judged by what is
in them). So may all of a section that concerns only stages that have not begun.
"""

from typing import Annotated, Literal

from pydantic import Field

from lib.errors import ConfigError
from lib.settings import Immaterial, Section

Stage = Literal["pretrain", "search", "soft_prune", "shrink", "repair", "finetune", "evaluate"]
NetStructure = Literal["eresfd", "vgg_16", "resnet_v1_50", "resnet_v1_101", "MobilenetV2", "yunet_n", "yunet_s"]
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
Limit = Annotated[Positive | None, Immaterial()]
# AP of other settings is measured anew; only a search by it depends on them.
Unmeasured = Immaterial(unless=("SEARCH.objective", "ap"))


class Train(Section):
    """What runs, and what is the same in every stage that trains."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1), Immaterial()] = (
        "pretrain",
        "soft_prune",
        "shrink",
        "finetune",
        "evaluate",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    batch_size: Positive = 16
    lr_schedule: Literal["step", "cosine"] = "step"
    warmup_step: Count = 0
    optimizer: Literal["adam", "adamw", "muon", "sgd"] = "adamw"
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
    distribution: Literal["off", "data_parallel"] = "off"
    process_address: Annotated[str, Immaterial()] = ""
    processes: Annotated[Count, Immaterial()] = 0
    process_index: Annotated[int, Field(ge=-1), Immaterial()] = -1
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


class Limits(Section):
    """How much a file may ask for, see `lib.limits`; None: what the environment says, or the default there."""

    max_pixels: Limit = None
    max_unpacked_bytes: Limit = None
    max_tensor_bytes: Limit = None
    max_description_bytes: Limit = None
    max_prediction_bytes: Limit = None
    max_channels: Limit = None
    max_layer_number: Limit = None


class Model(Section):
    """Which network, from which weights, into which folder."""

    model_path: Annotated[str, Field(min_length=1), Immaterial()] = "runs/eresfd"
    pretrained_model: str = ""
    net_structure: NetStructure = "eresfd"
    width_mult: Annotated[float, Field(gt=0, le=4)] = 0.0625
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
    recipe: Literal["eresfd", "dsfd", "yunet"] = "eresfd"
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
    max_detect: Annotated[int, Field(gt=0, lt=2**31), Unmeasured] = 750
    latency_rounds: Annotated[Count, Immaterial()] = 60


class Prune(Section):
    """How much goes, by which criterion, and how."""

    concerns = ("search", "soft_prune", "shrink", "repair", "finetune")
    rate: Share | Annotated[dict[str, Share], Field(min_length=1)] = 0.3
    mode: Literal["removable", "per_layer"] = "removable"
    criterion: Literal["fpgm", "l1", "l2", "lamp", "gamma", "random"] = "fpgm"
    channel_divisor: Positive = 1
    min_channels: Count = 1
    schedule: Literal["constant", "polynomial"] = "constant"
    epoch_prune: Positive = 5
    protected: tuple[str, ...] = ()
    calibration_images: Count = 64
    repair: Literal["solve", "recalibrate", "off"] = "solve"
    repair_images: Positive = 192
    steps: Positive = 1
    step_epoch: Count = 2


class Distil(Section):
    """Which model teaches those in training, beside the labels or in their place, and what its terms weigh."""

    teacher: str = ""
    scores: Annotated[float, Field(ge=0)] = 1.0
    boxes: Annotated[float, Field(ge=0)] = 1.0
    landmarks: Annotated[float, Field(ge=0)] = 1.0
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
    repair_images: Count = 0
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
