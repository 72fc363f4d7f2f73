"""Published EResFD at half of its multiply-accumulates, by rates that a search finds: repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_searched.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      the search, 36 trials, took 40 minutes on two cores that a training and tests shared; fine-tuning about
          80 minutes of processors' time
Expected  repaired, before training, AP 0.4120 / 0.4398 on 298 WIDER FACE / 120 masked faces (one rate for all sets:
          0.3987 / 0.3830), found on 600 of the photographs with SEARCH.holdout=0.2; fine-tuned 0.5851 / 0.7068 (one
          rate: 0.5830 / 0.7071)
"""

from configs._wider import short_trials, smaller_eresfd

config = smaller_eresfd(rate=0.3125)  # for the search's probe; what it finds takes its place

config.MODEL.model_path = "runs/eresfd_searched"
config.TRAIN.stages = ("pretrain", "search", "shrink", "repair", "finetune", "evaluate")
config.DISTIL.teacher = "start"  # the model that the run starts with
config.FINETUNE.epoch = 36
config.SEARCH.budget = "macs"
config.SEARCH.target = 0.5  # share of the multiply-accumulates that is left
config.SEARCH.groups = "eresfd_6"
config.SEARCH.n_init_points = 12
config.SEARCH.n_opt_iterations = 23
short_trials(config, repair_images=48)
