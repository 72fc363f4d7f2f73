"""Rates for published EResFD weights, searched for at half the multiply-accumulates on a part of WIDER FACE.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/wider_search.py DATA.root_path=/path/to/WIDER
          python benchmarks/search_finds.py --config configs/wider_search.py DATA.root_path=/path/to/WIDER
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      the search about half an hour on 2 CPU cores; soft pruning and fine-tuning come on top
Expected  the found plan's validation loss below that of uniform rates and of random plans at the same budget
"""

from lib.config import Config

config = Config()

config.TRAIN.stages = ("pretrain", "search", "soft_prune", "shrink", "finetune", "evaluate")  # pretrain: loads it
config.TRAIN.seed = 0
config.TRAIN.batch_size = 8
config.TRAIN.train_set_size = 320  # images, drawn by the seed; 0: all
config.TRAIN.weight_decay_factor = 1e-5  # decoupled; 0: off

config.DATA.root_path = "WIDER"  # what the paths below are relative to
config.DATA.train_txt_path = "wider_face_split/wider_face_train_bbx_gt.txt"
config.DATA.train_image_dir = "WIDER_train/images"
config.DATA.val_txt_path = "wider_face_split/wider_face_val_bbx_gt.txt"
config.DATA.val_image_dir = "WIDER_val/images"
config.DATA.hin = 320  # px
config.DATA.win = 320  # px
config.DATA.crop_min = 0.3  # smallest random crop, share of the largest square
config.DATA.anchor_sampling = 0.5  # probability of data-anchor sampling in place of a random crop; 0: off

config.MODEL.pretrained_model = "models/eresfd.keras"
config.MODEL.model_path = "runs/eresfd_wider_search"

config.SEARCH.budget = "macs"
config.SEARCH.target = 0.5  # share of the multiply-accumulates that is left
config.SEARCH.groups = "eresfd_6"
config.SEARCH.n_init_points = 12  # published: 60
config.SEARCH.n_opt_iterations = 27  # published: 940
config.SEARCH.steps = 20  # training steps of a trial (published: an epoch); 0: an epoch
config.SEARCH.holdout = 0.2  # share of the training images that judges the trials
config.SEARCH.recalibration_batches = 5  # batches by which batch statistics are measured anew; 0: off

config.PRUNE.epoch_prune = 2  # epochs between two soft prunings (published: 5)
config.PRUNE.soft_epoch = 4  # published: 200
config.PRUNE.soft_lr = 5e-4
config.PRUNE.soft_lr_decay_epoch = (3,)  # epochs at which the rate falls to a tenth
config.PRUNE.finetune_epoch = 8  # published: 10
config.PRUNE.finetune_lr = 5e-4
config.PRUNE.finetune_lr_decay_epoch = (6,)
