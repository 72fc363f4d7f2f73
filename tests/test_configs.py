"""Every shipped config is built, and the small DSFD is trained two steps."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.config import Config, load_config
from lib.data.scenes import SampleSet
from lib.data.sources import load_data
from lib.detection.head import output_names
from lib.models import anchors_of, inference_model, shots
from lib.pruning import plan
from lib.runs.wiring import chosen_model, data_settings, make_trainer
from tests.shared import ROOT

KINDS = ("boxes", "scores")
SHIPPED = [ROOT / "pruned_train_config.py", *sorted((ROOT / "configs").glob("[!_]*.py"))]
# What a user of the pruned DSFD (TensorFlow 1.15) has in the config file, with the values edited.
PASTED = """
from lib.config import Config

config = Config()
config.TRAIN.process_num = 1
config.TRAIN.prefetch_size = 15
config.TRAIN.batch_size = 3
config.TRAIN.epoch = 7
config.TRAIN.train_set_size = 13000
config.TRAIN.val_set_size = 3000
config.TRAIN.lr_value_every_step = [0.00001,0.0001,0.0005,0.0001,0.00001,0.000001]
config.TRAIN.lr_decay_every_step = [500,1000,60000,80000,100000]
config.TRAIN.weight_decay_factor = 5.e-4
config.TRAIN.norm='BN'
config.TRAIN.lock_basenet_bn=True
config.TRAIN.frozen_stages=-1
config.TEST.score_thres = 0.05
config.TEST.iou_thres = 0.3
config.TEST.max_detect = 1500
config.DATA.root_path=''
config.DATA.train_txt_path='train.txt'
config.DATA.val_txt_path='val.txt'
config.DATA.num_category=1
config.DATA.PIXEL_MEAN = [123., 116., 103.]
config.DATA.PIXEL_STD = [58., 57., 57.]
config.DATA.hin = 512
config.DATA.win = 512
config.ANCHOR.rect_longer=True
config.ANCHOR.ANCHOR_SIZES = (16,32,64, 128, 256, 512)
config.ANCHOR.ANCHOR_STRIDES = (4, 8,16, 32, 64, 128)
config.ANCHOR.ANCHOR_RATIOS = (1., 4.)
config.ANCHOR.POSITIVE_ANCHOR_THRESH = 0.35
config.ANCHOR.NEGATIVE_ANCHOR_THRESH = 0.3
config.ANCHOR.AVG_MATCHES=20
config.ANCHOR.super_match=True
config.MODEL.model_path = './model/'
config.MODEL.net_structure='MobilenetV2'
config.MODEL.l2_norm=[10,8,5]
config.MODEL.fpn_dims=[96,96,288,160,256,256]
config.MODEL.fem_dims=64
config.MODEL.fpn=True
config.MODEL.dual_mode=True
config.MODEL.maxout=True
config.MODEL.max_negatives_per_positive=3
"""


def test_the_shipped_config_names_every_setting_once_and_says_each_default_that_it_changes() -> None:
    lines = [re.match(r"config\.(\w+)\.(\w+) = (.*)", line) for line in SHIPPED[0].read_text().splitlines()]
    config, default = load_config(SHIPPED[0]), Config()
    named = [(line[1], line[2]) for line in lines if line]
    assert sorted(named) == sorted((name, key) for name, section in default for key in type(section).model_fields)
    for line in filter(None, lines):
        value, usual = (getattr(getattr(made, line[1]), line[2]) for made in (config, default))
        said = re.search(r"\(default: (\(.*?\)|[^,;)]+)", line[3])
        assert bool(said) == (value != usual), line[0]
        assert not said or ast.literal_eval(said[1]) == usual, line[0]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_names_a_model_that_can_be_built_and_pruned(file: Path) -> None:
    config = load_config(file, ["MODEL.backbone_weights=random"])
    config.MODEL.pretrained_model = ""
    if config.MODEL.net_structure == "vgg_16":  # its size takes seconds and shows nothing
        config.MODEL.fem_dims = 32
    model = chosen_model(config)
    assert set(inference_model(model).output) == set(output_names(anchors_of(model)))
    prune = config.PRUNE
    masks = plan(model, prune.rate, prune.criterion, prune.mode, min_channels=prune.min_channels)
    assert any(masks.channels.values()) == bool(prune.rate)


def _on(samples: SampleSet, config: Config) -> Config:
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    return config


@pytest.mark.slow
def test_the_small_dsfd_trains_two_steps(samples: SampleSet) -> None:
    overrides = ["DATA.hin=96", "DATA.win=96", "TRAIN.batch_size=4", "TRAIN.process_num=1", "TRAIN.val_set_size=4"]
    config = _on(samples, load_config(ROOT / "configs" / "dsfd_mobilenet_samples.py", overrides))
    keras.utils.set_random_seed(0)
    trainer = make_trainer(chosen_model(config), config)
    data = load_data(data_settings(config))
    validation = trainer.dataset(data.val, augment=False)
    kernels = [x.kernel for x in trainer.model.layers if hasattr(x, "kernel") and "head" not in x.name]
    kernels += [trainer.model.get_layer(f"{shot}head0_{name}").kernel for shot in ("", "first_") for name in KINDS]
    before = [np.array(kernel) for kernel in kernels]
    trainer.train_steps(trainer.dataset(data.train, augment=True), 0, 2, 1e-3)
    assert not [kernel.path for old, kernel in zip(before, kernels, strict=True) if np.array_equal(old, kernel)]
    losses = trainer.validate(validation)
    terms = {f"{shot}{name}_loss" for shot in shots(trainer.model) for name in KINDS}
    assert set(losses) == {"loss", *terms}
    assert losses["loss"] == pytest.approx(sum(losses[term] for term in terms), rel=1e-4)
    assert all(np.isfinite(value) and value > 0 for value in losses.values())


def test_a_pasted_config_of_the_seed_works(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(PASTED)
    config = load_config(file, ["MODEL.backbone_weights=random"])
    assert config.PRETRAIN.decay_step == (500, 1000, 60000, 80000, 100000)
    assert (config.PRETRAIN.epoch, config.MODEL.norm, config.TRAIN.max_negatives_per_positive) == (7, "BN", 3)
    model = chosen_model(config)
    assert model.get_layer("lateral2").filters == 288
    assert model.get_layer("fem5_branch1").filters == 32
    assert model.get_layer("Conv1").trainable_weights
    assert not model.get_layer("bn_Conv1").trainable
