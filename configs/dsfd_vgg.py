"""DSFD on VGG-16 with the pruned DSFD's settings: 42.6 M parameters, 210.6 G multiply-accumulates at 640x640.

Commands  python pruned_train.py --config configs/dsfd_vgg.py DATA.root_path=/path/to/WIDER
          python tools/auto_freeze.py --ckpt_path=runs/dsfd_vgg --output_path=runs/dsfd_vgg
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      100,000 steps of 6 images: for a GPU (not measured here); on 2 busy CPU cores a step of 2 images took 29 to
          46 s, which makes months of the whole
Expected  not measured here; the paper's DSFD (ResNet-152) reaches 0.966 / 0.957 / 0.904 on WIDER FACE val

The backbone starts from ImageNet weights, which Keras downloads once; MODEL.backbone_weights=random does without.
"""

from configs._wider import on_wider

config = on_wider()

config.TRAIN.stages = ("pretrain", "evaluate")
config.TRAIN.batch_size = 6  # fewer where memory does not suffice: 2 took 4.3 GiB on a CPU
config.TRAIN.optimizer = "sgd"
config.TRAIN.momentum = 0.9
config.TRAIN.clip_value = 5.0  # every gradient is clipped to -5..5
config.TRAIN.weight_decay_factor = 5e-4
config.TRAIN.max_negatives_per_positive = 3.0
config.TRAIN.negatives_over = "batch"  # the hardest of all images together; "image": of each
config.TRAIN.box_loss_sigma = 9.0  # smooth L1 turns linear at a distance of 1 / 9

config.PRETRAIN.epoch = 47  # of 2,146 steps: 100,000 in all
config.PRETRAIN.lr = (1e-5, 1e-4, 5e-4, 1e-4, 1e-5, 1e-6)  # the first two warm up
config.PRETRAIN.decay_step = (500, 1000, 60000, 80000, 100000)

config.MODEL.net_structure = "vgg_16"  # its other settings, and those of anchors, are at their defaults
config.MODEL.model_path = "runs/dsfd_vgg"
config.MODEL.fpn_dims = (256, 512, 512, 1024, 512, 256)  # of the enhance module's products (the first three)
config.MODEL.fem_dims = 512  # channels of each enhanced map

config.TEST.max_detect = 1500
