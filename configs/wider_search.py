"""Rates for published EResFD weights, searched for at half the multiply-accumulates on a part of WIDER FACE.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/wider_search.py DATA.root_path=/path/to/WIDER
          python benchmarks/search_finds.py --config configs/wider_search.py DATA.root_path=/path/to/WIDER
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      the search about half an hour on 2 CPU cores; soft pruning and fine-tuning come on top
Expected  the found plan's validation loss below that of uniform rates and of random plans at the same budget
"""

from configs._wider import published_eresfd

config = published_eresfd()

config.MODEL.model_path = "runs/eresfd_wider_search"
config.TRAIN.stages = ("pretrain", "search", "soft_prune", "shrink", "finetune", "evaluate")
config.TRAIN.train_set_size = 320  # images, drawn by the seed; 0: all
config.TRAIN.weight_decay_factor = 1e-5  # decoupled; 0: off
config.DATA.hin = 320  # px
config.DATA.win = 320  # px

config.SEARCH.budget = "macs"
config.SEARCH.target = 0.5  # share of the multiply-accumulates that is left
config.SEARCH.groups = "eresfd_6"
config.SEARCH.n_init_points = 12  # published: 60
config.SEARCH.n_opt_iterations = 27  # published: 940
config.SEARCH.steps = 20  # training steps of a trial (published: an epoch); 0: an epoch
config.SEARCH.holdout = 0.2  # share of the training images that judges the trials
config.SEARCH.recalibration_batches = 5  # batches by which batch statistics are measured anew; 0: off
