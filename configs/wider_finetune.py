"""Published EResFD weights, pruned by 20 % and fine-tuned on a part of WIDER FACE.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/wider_finetune.py DATA.root_path=/path/to/WIDER
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      11 minutes on 2 CPU cores with 400 training images; the whole training set takes a GPU
Expected  see the table in README.md: a short run that shows the way; for published accuracy set the published epochs
          and all images (not measured here)
"""

from lib.config import Config

config = Config()

config.TRAIN.stages = ("pretrain", "soft_prune", "shrink", "finetune", "evaluate")  # pretrain: loads the model
config.TRAIN.seed = 0
config.TRAIN.batch_size = 8
config.TRAIN.train_set_size = 400  # images, drawn by the seed; 0: all
config.TRAIN.weight_decay_factor = 5e-4  # decoupled; 0: off

config.DATA.root_path = "WIDER"  # what the paths below are relative to
config.DATA.train_txt_path = "wider_face_split/wider_face_train_bbx_gt.txt"
config.DATA.train_image_dir = "WIDER_train/images"
config.DATA.val_txt_path = "wider_face_split/wider_face_val_bbx_gt.txt"
config.DATA.val_image_dir = "WIDER_val/images"
config.DATA.hin = 640  # px
config.DATA.win = 640  # px
config.DATA.crop_min = 0.3  # smallest random crop, share of the largest square
config.DATA.anchor_sampling = 0.5  # probability of data-anchor sampling in place of a random crop; 0: off

config.MODEL.pretrained_model = "models/eresfd.keras"
config.MODEL.model_path = "runs/eresfd_wider"

config.PRUNE.rate = 0.2  # share of each set's channels
config.PRUNE.epoch_prune = 2  # epochs between two soft prunings (published: 5)
config.PRUNE.soft_epoch = 4  # published: 200
config.PRUNE.soft_lr = 5e-4
config.PRUNE.soft_lr_decay_epoch = (3,)  # epochs at which the rate falls to a tenth
config.PRUNE.finetune_epoch = 8  # published: 10
config.PRUNE.finetune_lr = 5e-4
config.PRUNE.finetune_lr_decay_epoch = (6,)
