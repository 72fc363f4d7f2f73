"""The detector that a config names."""

import logging
from typing import Any

import keras

from lib.config import Config
from lib.models import anchors_of, build, load

logger = logging.getLogger(__name__)


def chosen_model(config: Config) -> keras.Model:
    """`MODEL.pretrained_model`, or else a new model of `MODEL.net_structure` with the settings that concern it.

    TRAIN.lock_basenet_bn locks every batch normalisation of EResFD, which is all base, and of a model from a file.

    Raises:
        ModelError: the file is no detector, the settings do not go together, or a backbone's weights cannot be had.

    """
    if config.MODEL.pretrained_model:
        model = load(config.MODEL.pretrained_model)
        anchors_of(model)  # refuses a model that is no detector
    else:
        model = build(config.MODEL.net_structure, **model_options(config))
    if config.TRAIN.lock_basenet_bn and (config.MODEL.pretrained_model or config.MODEL.net_structure == "eresfd"):
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    if locked := sum(bool(layer.weights) and not layer.trainable for layer in model.layers):
        logger.info("%d layers of the model are locked: training leaves them as they are", locked)
    return model


def model_options(config: Config) -> dict[str, Any]:
    """The options of `lib.models.build` for a new model."""
    model, train, data, anchor = config.MODEL, config.TRAIN, config.DATA, config.ANCHOR
    if model.net_structure == "eresfd":
        return {"width_mult": model.width_mult, "anchor_ratio": anchor.anchor_ratio}
    return {
        "fpn": model.fpn,
        "dual_mode": model.dual_mode,
        "maxout": model.maxout,
        "norm": train.norm or None,
        "l2_norm": model.l2_norm,
        "fpn_dims": model.fpn_dims,
        "fem_dims": model.fem_dims,
        "frozen_stages": train.frozen_stages,
        "lock_basenet_bn": train.lock_basenet_bn,
        "anchor_sizes": anchor.ANCHOR_SIZES,
        "anchor_strides": anchor.ANCHOR_STRIDES,
        "anchor_ratios": anchor.ANCHOR_RATIOS,
        "rect_longer": anchor.rect_longer,
        "pixel_mean": data.PIXEL_MEAN,
        "pixel_std": data.PIXEL_STD,
        "backbone_weights": model.backbone_weights,
    }
