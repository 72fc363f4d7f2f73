"""YuNet-n from scratch, as its authors trained it.

Commands  python pruned_train.py --config configs/yunet_published.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed, and RetinaFace's label.txt, which has the landmarks, for its training images
Cost      640 passes over 12,880 photographs of 640 px: for a GPU (not measured here)
Expected  not measured here; its authors report an AP of 0.811 on WIDER FACE val, hard

Landmarks are learned from that file alone: with WIDER FACE's own annotations as DATA.train_txt_path they are not.
"""

from configs._wider import on_wider

config = on_wider()

config.MODEL.net_structure = "yunet_n"
config.MODEL.model_path = "runs/yunet_published"
config.TRAIN.stages = ("pretrain", "evaluate")
config.TRAIN.batch_size = 32  # 16 on each of two GPUs
config.TRAIN.optimizer = "sgd"
config.TRAIN.momentum = 0.9
config.TRAIN.weight_decay_factor = 5e-4
config.TRAIN.warmup_step = 1500
config.DATA.train_txt_path = "label.txt"  # RetinaFace's for the training images
config.DATA.recipe = "yunet"
config.DATA.anchor_sampling = 0.0
config.PRETRAIN.epoch = 640
config.PRETRAIN.lr = 0.01
config.PRETRAIN.decay_epoch = (400, 544)
