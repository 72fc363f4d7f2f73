"""EResFD on the built-in sample set: pretrain, soft pruning of 30 % of the channels, fine-tuning, evaluation.

Command   python pruned_train.py     (or `make train`, which also sets up the environment)
Cost      about 5 minutes on 2 CPU cores
Expected  see the table in README.md; the sample set is drawn, so its AP says nothing about photographs

For photographs, name annotations and image folders under DATA, set MODEL.model_path to a new folder, and see
configs/wider_finetune.py. Every value can also be given on the command line: python pruned_train.py TRAIN.epoch=10
"""

from lib.config import Config

config = Config()

# --- what runs ---------------------------------------------------------------------------------------------------
# Any of pretrain, soft_prune, finetune, evaluate, in this order. With MODEL.pretrained_model, loading it takes
# pretrain's place. Without evaluate no AP is measured.
config.TRAIN.stages = ("pretrain", "soft_prune", "finetune", "evaluate")
config.TRAIN.seed = 0  # of everything random: weights, sample set, shuffling, augmentation

# --- data --------------------------------------------------------------------------------------------------------
config.DATA.root_path = ""  # what the four paths below are relative to; empty: the working directory
config.DATA.train_txt_path = ""  # annotations, *_bbx_gt.txt or `path| x1,y1,x2,y2,1 ...`; empty: built-in sample set
config.DATA.val_txt_path = ""
config.DATA.train_image_dir = ""  # folder that the image paths in train_txt_path are relative to
config.DATA.val_image_dir = ""
config.DATA.sample_path = "data/samples"  # where the built-in sample set is made
config.DATA.hin = 224  # input height while training, px (published: 640); detection works at any size
config.DATA.win = 224  # input width, px
config.DATA.mutiscale = False  # multi-scale training: every batch square, of another size; False: all hin x win
config.DATA.scales = (320, 640)  # its smallest and largest size, px; multiples of 32 between them are drawn
config.DATA.recipe = "eresfd"  # augmentation as EResFD's (square crops) or "dsfd" (zooming out, SSD's crops)
config.DATA.crop_min = 0.5  # smallest random crop, share of the largest that fits (published: 0.3); 1: no cropping
config.DATA.anchor_sampling = (
    0.0  # probability of data-anchor sampling instead of a crop (published: 0.5; DSFD 0.4); 0: off
)
config.DATA.cover_small_face = 0.0  # faces below this size in the input, px, are painted over (Pruned DSFD: 5); 0: off
config.DATA.ignore_invalid = True  # faces flagged invalid in *_bbx_gt.txt are painted over; False: faces like others
config.TRAIN.train_set_size = 0  # use so many training images, drawn by the seed; 0: all
config.TRAIN.val_set_size = 0  # likewise for validation
config.TRAIN.process_num = 2  # threads that prepare batches; the batches do not depend on it
config.TRAIN.prefetch_size = 8  # batches prepared ahead
config.TRAIN.vis = False  # True: draws samples of the first epoch with their anchors into samples.png of the run folder

# --- model -------------------------------------------------------------------------------------------------------
config.MODEL.net_structure = "eresfd"
config.MODEL.width_mult = 0.0625  # share of 256 channels (published: 0.0625, 92,208 parameters)
config.MODEL.pretrained_model = ""  # a .keras file, e.g. from tools/import_weights.py; empty: pretrain
config.MODEL.model_path = "runs/eresfd_samples"  # run folder: settings, checkpoints, results
config.MODEL.max_negatives_per_positive = 3.0  # hard negatives in the score loss
config.ANCHOR.anchor_ratio = 1.25  # height / width of a new model's anchors; a loaded model brings its own
config.ANCHOR.POSITIVE_ANCHOR_THRESH = 0.35  # IoU from which an anchor is positive
config.ANCHOR.second_stage_thresh = 0.1  # lower IoU bound of the second matching stage

# --- pretraining -------------------------------------------------------------------------------------------------
config.TRAIN.epoch = 25  # published: 300
config.TRAIN.batch_size = 16
config.TRAIN.lr_value_every_step = (2e-3, 2e-4)  # Adam's rates, one more than steps (published: from 1e-3, x0.1)
config.TRAIN.lr_decay_every_step = (500,)  # steps at which the next rate begins (published: 250k, 300k, 320k)
config.TRAIN.weight_decay_factor = 5e-4  # decoupled; 0: off
config.TRAIN.pruned_alpha = 0.0  # weight of the group-sparsity loss, until fine-tuning; 0: off
config.TRAIN.pruned_ratio = 0.3  # share of each endpoint's channels that it pulls to zero, 0..1: one number, a list in
# layer order (lib.pruning.endpoints), or names and patterns, {"context*": 0.5, "*": 0.2}

# --- pruning -----------------------------------------------------------------------------------------------------
config.PRUNE.rate = 0.3  # share of each set's channels, 0 <= rate < 1, or {"context*": 0.5, "stage?_*": 0.2}
config.PRUNE.channel_divisor = (
    1  # channels that stay are rounded up to a multiple of this, for kernels that take 8; 1: off
)
config.PRUNE.min_channels = 1  # so many stay in every set; 0: a rate of 1 takes out a set with the branch that it feeds
config.PRUNE.mode = "removable"  # tied channels go together; "per_layer": each convolution by itself, as published
config.PRUNE.criterion = "fpgm"  # or "l1", "l2", "random"
config.PRUNE.schedule = "constant"  # the rate at every soft pruning; "polynomial": it grows from 0 to that
config.PRUNE.epoch_prune = 2  # epochs between two soft prunings (published: 5)
config.PRUNE.soft_epoch = 6  # epochs of soft pruning (published: 200)
config.PRUNE.soft_lr = 1e-3
config.PRUNE.soft_lr_decay_epoch = (4,)  # epochs of this stage at which the rate falls to a tenth
config.PRUNE.finetune_epoch = 9  # epochs with the pruned channels held at zero (published: 10)
config.PRUNE.finetune_lr = 1e-3
config.PRUNE.finetune_lr_decay_epoch = (6,)
config.PRUNE.calibration_images = 64  # with pruned_alpha: channels silent on so many training images go too; 0: off

# --- evaluation --------------------------------------------------------------------------------------------------
config.TEST.score_thres = 0.05  # boxes below this score are not counted
config.TEST.iou_thres = 0.3  # NMS: a box that overlaps a better one by more goes
config.TEST.max_detect = 750  # at most so many boxes an image
config.TEST.latency_rounds = (
    60  # timings of each model at the end, in turns (and frozen graphs, for their size); 0: off
)
