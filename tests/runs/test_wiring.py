from pathlib import Path

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.batches import BatchSettings
from lib.errors import ConfigError, ModelError
from lib.geometry.compensation import Compensation
from lib.models import anchors_of, save, shots
from lib.runs.stages.learning import Finetune, Import, Learning, Pretrain, SoftPrune
from lib.runs.stages.removal import Shrink
from lib.runs.wiring import (
    batch_settings,
    chosen_model,
    distillation_settings,
    stages_of,
    trainer_settings,
)
from lib.training.distillation import DistillationSettings
from lib.training.optimizer import OptimizerSettings
from tests.detectors import of_one_size, random_dsfd, small_detector
from tests.networks import lively


def test_eresfds_settings_reach_the_model() -> None:
    config = Config()
    config.MODEL.width_mult = 8 / 256
    config.ANCHOR.anchor_ratio = 1.0
    model = chosen_model(config)
    assert model.get_layer("conv3").filters == 8
    assert anchors_of(model).ratio == 1.0


def test_dsfds_settings_reach_the_model() -> None:
    config = Config()
    config.MODEL.net_structure = "MobilenetV2"
    config.MODEL.backbone_weights = "random"
    config.MODEL.fem_dims = 16
    config.MODEL.fpn_dims = [8, 8, 8, 8, 8, 8]  # type: ignore[assignment]  # as a user writes it
    config.MODEL.maxout = False
    config.ANCHOR.ANCHOR_SIZES = (8, 16, 32, 64, 128, 256)
    config.ANCHOR.ANCHOR_RATIOS = (4, 1)
    config.ANCHOR.rect_longer = False
    config.MODEL.norm = "GN"
    config.MODEL.frozen_stages = 0
    config.MODEL.lock_basenet_bn = True
    config.MODEL.PIXEL_MEAN = (1, 2, 3)
    config.MODEL.PIXEL_STD = (4, 5, 6)
    model = chosen_model(config)
    assert [spec.scales for spec in shots(model).values()] == [(1.0,), (0.5,)]
    assert (anchors_of(model).sizes, anchors_of(model).ratio) == ((8, 16, 32, 64, 128, 256), 1.0)
    assert model.get_layer("lateral0").filters == 8
    assert model.get_layer("fem0_branch1").filters == 8
    assert model.get_layer("head0_scores").filters == 2
    assert isinstance(model.get_layer("extra_conv1_gn"), keras.layers.GroupNormalization)
    assert not model.get_layer("Conv1").trainable
    assert not model.get_layer("block_16_project_BN").trainable
    assert model.get_layer("block_16_project").trainable
    assert model.get_layer("normalize").offset == pytest.approx([-1 / 4, -2 / 5, -3 / 6])
    config.MODEL.dual_mode = False
    assert [spec.scales for spec in shots(chosen_model(config)).values()] == [(1.0, 0.5)]


def test_a_pretrained_model_goes_first(tmp_path: Path) -> None:
    save(small_detector(), tmp_path / "m.keras")
    config = Config()
    config.MODEL.net_structure = "vgg_16"
    config.MODEL.pretrained_model = str(tmp_path / "m.keras")
    assert chosen_model(config).name == "small"


def test_a_pretrained_model_of_one_size_is_refused(tmp_path: Path) -> None:
    save(of_one_size(small_detector(), 64, 96), tmp_path / "m.keras")
    config = Config()
    config.MODEL.pretrained_model = str(tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"m\.keras: takes images of 64x96 \(height x width\) alone, .*clone_model"):
        chosen_model(config)


@pytest.mark.parametrize("from_file", [False, True])
def test_locked_batch_normalisations(tmp_path: Path, rng: np.random.Generator, from_file: bool) -> None:
    config = Config()
    config.MODEL.lock_basenet_bn = True
    if from_file:
        save(lively(small_detector(), rng), tmp_path / "m.keras")
        config.MODEL.pretrained_model = str(tmp_path / "m.keras")
    model = chosen_model(config)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert not any(layer.trainable for layer in norms)
    assert model.get_layer("conv1").trainable
    before = [np.array(weight) for layer in norms for weight in layer.weights]
    model(np.full((1, 64, 64, 3), 200, np.float32), training=True)
    after = [np.array(weight) for layer in norms for weight in layer.weights]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_settings_that_do_not_go_together() -> None:
    config = Config()
    config.MODEL.net_structure = "vgg_16"
    config.ANCHOR.ANCHOR_RATIOS = (1,)
    with pytest.raises(ModelError, match="dual_mode needs two anchor ratios"):
        chosen_model(config)


def test_settings_of_batches() -> None:
    config = Config()
    config.TRAIN.batch_size, config.TRAIN.seed, config.TRAIN.process_num, config.TRAIN.prefetch_size = 4, 7, 3, 5
    config.DATA.hin, config.DATA.win = 96, 128
    config.DATA.recipe, config.DATA.crop_min, config.DATA.anchor_sampling = "dsfd", 0.4, 0.1
    config.DATA.cover_small_face, config.DATA.ignore_invalid = 5.0, False
    settings = batch_settings(config, small_detector())
    assert settings == BatchSettings(
        96, 128, 4, 7, "dsfd", 0.4, 0.1, cover_px=5.0, ignore_invalid=False, workers=3, prefetch=5
    )
    config.DATA.multiscale, config.DATA.scales = True, (64, 160)
    assert batch_settings(config, small_detector()).sizes_px == (64, 96, 128, 160)


def test_a_dsfd_is_matched_with_compensation() -> None:
    config = Config()
    config.ANCHOR.AVG_MATCHES = 7
    assert batch_settings(config, small_detector()).compensation is None
    compensation = batch_settings(config, random_dsfd(backbone_weights="random")).compensation
    assert compensation == Compensation(average_matches=7)


def test_settings_of_a_trainer() -> None:
    config = Config()
    config.TRAIN.mixed_precision, config.TRAIN.optimizer, config.TRAIN.ema = "float16", "sgd", 0.5
    config.TRAIN.score_loss, config.PRUNE.mode = "focal", "per_layer"
    settings = trainer_settings(config, small_detector())
    assert settings.optimizer == OptimizerSettings("sgd", ema=0.5, scale_loss=True)
    assert (settings.losses.scores, settings.mode, settings.precision) == ("focal", "per_layer", "float16")


def test_who_teaches() -> None:
    config = Config()
    assert distillation_settings(config) is None
    config.MODEL.pretrained_model = "m.keras"
    config.DISTIL.teacher, config.DISTIL.boxes, config.DISTIL.temperature = "t.keras", 0.5, 2.0
    assert distillation_settings(config) == DistillationSettings("t.keras", boxes=0.5, temperature=2.0)
    config.DISTIL.teacher = "start"
    assert distillation_settings(config) == DistillationSettings("m.keras", boxes=0.5, temperature=2.0)
    config.MODEL.pretrained_model = ""
    with pytest.raises(ConfigError, match=r"'start' is MODEL\.pretrained_model, and that is empty"):
        distillation_settings(config)


def test_stages_are_made_in_their_order() -> None:
    config = Config()
    config.SOFT_PRUNE.decay_epoch, config.SOFT_PRUNE.lr = (4,), 1e-2
    config.TRAIN.stages = ("pretrain", "soft_prune", "finetune", "shrink")
    first, soft, *others = stages_of(config)
    assert [type(stage) for stage in (first, soft, *others)] == [Pretrain, SoftPrune, Finetune, Shrink]
    assert isinstance(soft, SoftPrune)
    assert soft.course.rates(10).boundaries == (40,)
    assert [stage.lock_norms for stage in (first, soft, *others[:1]) if isinstance(stage, Learning)] == [False] * 3
    assert soft.course.rates(10).values == pytest.approx((1e-2, 1e-3))
    config.FINETUNE.lock_bn = True
    config.TRAIN.lr_schedule, config.FINETUNE.lr_end = "cosine", 1e-6
    fine = stages_of(config)[2]
    assert isinstance(fine, Finetune)
    assert (fine.lock_norms, fine.course.values) == (True, (1e-3, 1e-6))
    config.MODEL.pretrained_model, config.TRAIN.stages = "m.keras", ("shrink",)
    assert [type(stage) for stage in stages_of(config)] == [Import, Shrink]
