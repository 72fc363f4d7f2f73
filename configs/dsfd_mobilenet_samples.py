"""A small DSFD (MobileNetV2, narrow behind the backbone) on the built-in sample set.

Command   python pruned_train.py --config configs/dsfd_mobilenet_samples.py
Cost      13 minutes of processor time: about 7 minutes on 2 CPU cores
Expected  AP 0.9445 on the built-in scenes, from random weights, with 1.4 M parameters; the scenes are drawn, so this
          says nothing about photographs
"""

from lib.config import Config

config = Config()

config.TRAIN.stages = ("pretrain", "evaluate")
config.PRETRAIN.epoch = 25
config.PRETRAIN.lr = (2e-3, 2e-4)
config.PRETRAIN.decay_step = (500,)

config.DATA.hin = 224  # px
config.DATA.win = 224  # px
config.DATA.crop_min = 0.5  # smallest random crop, share of the largest that fits
config.DATA.anchor_sampling = 0.0  # off

config.MODEL.net_structure = "MobilenetV2"
config.MODEL.backbone_weights = "random"  # ImageNet's would help on photographs
config.MODEL.model_path = "runs/dsfd_samples"
config.MODEL.fpn_dims = (32, 32, 32, 32, 32, 32)  # the seed's: (96, 96, 288, 160, 256, 256)
config.MODEL.fem_dims = 32  # the seed's: 256
