"""DSFD on VGG-16 with the pruned DSFD's settings: 42.6 M parameters, 210.6 G multiply-accumulates at 640x640.

Commands  python pruned_train.py --config configs/dsfd_vgg.py DATA.root_path=/path/to/WIDER
          python tools/auto_freeze.py --ckpt_path=runs/dsfd_vgg --output_path=runs/dsfd_vgg
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      100,000 steps of 6 images: for a GPU (not measured here); on 2 busy CPU cores a step of 2 images took 29 to
          46 s, which makes months of the whole
Expected  not measured here; the paper's DSFD (ResNet-152) reaches 0.966 / 0.957 / 0.904 on WIDER FACE val

The backbone starts from ImageNet weights, which Keras downloads once; MODEL.backbone_weights=random does without.
"""

from lib.config import Config

config = Config()

config.TRAIN.stages = ("pretrain", "evaluate")
config.TRAIN.seed = 0
config.TRAIN.batch_size = 6  # fewer where memory does not suffice: 2 took 4.3 GiB on a CPU
config.TRAIN.epoch = 47  # of 2,146 steps: 100,000 in all
config.TRAIN.lr_value_every_step = (1e-5, 1e-4, 5e-4, 1e-4, 1e-5, 1e-6)  # the first two warm up
config.TRAIN.lr_decay_every_step = (500, 1000, 60000, 80000, 100000)
config.TRAIN.optimizer = "sgd"
config.TRAIN.momentum = 0.9
config.TRAIN.clip_value = 5.0  # every gradient is clipped to -5..5
config.TRAIN.weight_decay_factor = 5e-4
config.TRAIN.norm = "None"  # of the layers behind the backbone: "BN", "GN" or "None"; "": as suits the backbone
config.TRAIN.lock_basenet_bn = False  # True: the backbone's batch normalisations (VGG has none) stay as they are
config.TRAIN.frozen_stages = -1  # backbone stages 0..n are not trained (0: conv1, 1: conv2, ...); -1: all are

config.DATA.root_path = "WIDER"  # what the paths below are relative to
config.DATA.train_txt_path = "wider_face_split/wider_face_train_bbx_gt.txt"
config.DATA.train_image_dir = "WIDER_train/images"
config.DATA.val_txt_path = "wider_face_split/wider_face_val_bbx_gt.txt"
config.DATA.val_image_dir = "WIDER_val/images"
config.DATA.hin = 640  # px
config.DATA.win = 640  # px
config.DATA.num_category = 1  # faces; there is no other
config.DATA.PIXEL_MEAN = (123, 116, 103)  # R, G, B; ImageNet weights are converted to it
config.DATA.PIXEL_STD = (58, 57, 57)

config.MODEL.net_structure = "vgg_16"
config.MODEL.backbone_weights = "imagenet"  # "imagenet", "random" or a weights file of keras.applications
config.MODEL.model_path = "runs/dsfd_vgg"
config.MODEL.l2_norm = (10, 8, 5)  # initial scales of the L2 normalisation of the three finest maps (VGG only)
config.MODEL.fpn = True  # the feature enhance module; False: heads on the maps as they are
config.MODEL.fpn_dims = (
    256,
    512,
    512,
    1024,
    512,
    256,
)  # of its products (the first three); (): the backbone's
config.MODEL.fem_dims = 512  # channels of each enhanced map
config.MODEL.dual_mode = True  # two shots, one anchor a cell each; False: one shot with all anchors
config.MODEL.maxout = True  # three background scores on the finest level, of which the largest counts; False: one
config.MODEL.max_negatives_per_positive = 3.0
config.MODEL.negatives_over = "batch"  # the hardest of all images together; "image": of each
config.MODEL.box_loss_sigma = 9.0  # smooth L1 turns linear at a distance of 1 / 9

config.ANCHOR.ANCHOR_SIZES = (16, 32, 64, 128, 256, 512)  # widths in px at ratio 1, one a level
config.ANCHOR.ANCHOR_STRIDES = (4, 8, 16, 32, 64, 128)  # px; the network's own
config.ANCHOR.ANCHOR_RATIOS = (1, 4)  # an anchor a cell for each, of 1 / ratio of the area: 4 is half the width
config.ANCHOR.rect_longer = True  # anchors 1.5 times as high as wide; False: square
config.ANCHOR.POSITIVE_ANCHOR_THRESH = 0.35  # IoU from which an anchor is positive
config.ANCHOR.NEGATIVE_ANCHOR_THRESH = 0.35  # IoU below which it is background; what lies between is ignored
config.ANCHOR.AVG_MATCHES = 20  # faces with fewer anchors get more, from between the thresholds; 0: off
config.ANCHOR.super_match = True  # up to the mean of all faces, if that is more; False: up to AVG_MATCHES

config.TEST.score_thres = 0.05
config.TEST.iou_thres = 0.3
config.TEST.max_detect = 1500
