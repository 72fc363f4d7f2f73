"""The settings of all programs, section by section.

A config file is Python that makes a `Config` called `config` and assigns to `config.SECTION.key`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, get_args, overload

from pydantic import Field

from lib.config.sections import (
    Anchor,
    Cost,
    Count,
    Data,
    Distil,
    Finetune,
    Lesson,
    Limits,
    Model,
    Pretrain,
    Prune,
    Search,
    SoftPrune,
    Stage,
    Test,
    Train,
)
from lib.errors import ConfigError
from lib.settings import AnySettings, Section, Settings, load_settings

__all__ = ["STAGES", "Config", "Finetune", "Lesson", "MacConfig", "Stage", "in_order", "load_config", "stage_names"]


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
    LIMITS: Limits = Field(default_factory=Limits)

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
        self._check_distribution()
        if bool(data.train_txt_path or (self.DISTIL.teacher and data.train_image_dir)) != bool(data.val_txt_path):
            raise ConfigError(
                "DATA.train_txt_path and DATA.val_txt_path go together; leave both empty for the built-in sample set, "
                "or, with a DISTIL.teacher, the first alone for all photographs in DATA.train_image_dir without labels"
            )
        if data.multiscale and (any(size % 32 for size in data.scales) or data.scales[0] >= data.scales[1]):
            raise ConfigError(f"DATA.scales must be two multiples of 32, the smaller first, got {list(data.scales)}")
        if data.root_path and not data.val_txt_path:
            raise ConfigError(
                "DATA.root_path is set, but no annotations: the built-in sample set would be taken; set "
                "DATA.train_txt_path and DATA.val_txt_path, or leave DATA.root_path empty"
            )
        if data.cover_small_face >= min(data.hin, data.win):
            raise ConfigError(
                f"DATA.cover_small_face = {data.cover_small_face:g} px would cover every face of an input of "
                f"{data.hin}x{data.win}; 0 is off"
            )
        if self.ANCHOR.second_stage_thresh >= self.ANCHOR.POSITIVE_ANCHOR_THRESH:
            raise ConfigError("ANCHOR.second_stage_thresh must lie below ANCHOR.POSITIVE_ANCHOR_THRESH")
        if self.ANCHOR.NEGATIVE_ANCHOR_THRESH > self.ANCHOR.POSITIVE_ANCHOR_THRESH:
            raise ConfigError("ANCHOR.NEGATIVE_ANCHOR_THRESH must not lie above ANCHOR.POSITIVE_ANCHOR_THRESH")
        if self.SEARCH.enabled or "search" in train.stages:
            if "search" not in stage_names(self):
                raise ConfigError(
                    "SEARCH.enabled looks for rates, but no stage prunes at them; add 'soft_prune', 'shrink' or "
                    "'finetune' to TRAIN.stages, or 'search' itself"
                )
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
        if self.PRUNE.steps > 1 and ("soft_prune" in stages or not early):
            raise ConfigError(
                "PRUNE.steps takes channels out in steps with training between, in the place of soft pruning; set "
                "TRAIN.stages = ('pretrain', 'shrink', 'repair', 'finetune', 'evaluate')"
            )
        if self.PRUNE.steps > 1 and self.PRUNE.repair != "off" and "repair" not in stages:
            raise ConfigError(
                "PRUNE.steps repairs what every step but the last leaves, and the stage 'repair' what the last one "
                "does; add it behind 'shrink' in TRAIN.stages, or set PRUNE.repair = 'off' for none"
            )
        if "pretrain" not in stages and not self.MODEL.pretrained_model:
            raise ConfigError(
                f"without the stage 'pretrain', MODEL.pretrained_model must name the model for {stages[0]!r} to start "
                "from"
            )

    def _check_distribution(self) -> None:
        train = self.TRAIN
        if train.distribution == "off":
            return
        alone = ["search"] if "search" in stage_names(self) else []
        alone += ["TRAIN.ap_every_epoch"] if train.ap_every_epoch else []
        alone += ["TRAIN.num_gpu"] if train.num_gpu > 1 else []
        alone += ["PRUNE.steps"] if self.PRUNE.steps > 1 else []
        if alone:
            raise ConfigError(
                f"TRAIN.distribution = 'data_parallel' shares the stages that train over processes, not "
                f"{', '.join(alone)}; run that in one process, or leave it out"
            )

    def _check_search(self) -> None:
        search = self.SEARCH
        targets = search.targets()
        if not targets or len(set(targets)) != len(targets):
            raise ConfigError(f"SEARCH.target needs one share, or several different ones, got {list(targets)}")
        if search.n_init_points + search.n_opt_iterations == 0:
            raise ConfigError("SEARCH.n_init_points and SEARCH.n_opt_iterations are both 0: nothing would be searched")
        if self.DATA.val_txt_path and not self.DATA.train_txt_path:
            raise ConfigError("no search can judge by photographs without labels; set DATA.train_txt_path")
        if search.repair_images and self.PRUNE.mode != "removable":
            raise ConfigError(
                "SEARCH.repair_images repairs what is left when channels are gone: PRUNE.mode = 'removable'"
            )
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
    LIMITS: Limits = Field(default_factory=Limits)


@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config(path: str | os.PathLike[str], overrides: Sequence[str], kind: type[AnySettings]) -> AnySettings: ...
def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), kind: type[Settings] = Config) -> Settings:
    """Reads and checks a config file; `lib.settings.load_settings` for `Config`."""
    return load_settings(path, overrides, kind)
