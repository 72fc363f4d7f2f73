"""EResFD on the built-in sample set: pretrain, soft pruning of 30 % of the channels, fine-tuning, evaluation.

Command   python pruned_train.py     (or `make train`, which also sets up the environment)
Cost      about 6 minutes on 2 CPU cores
Expected  see the table in README.md; the sample set is drawn, so its AP says nothing about photographs

Every setting is here. Where the sample run needs another value than `Config()` has, the line says the default.
For photographs, name annotations and image folders under DATA, set MODEL.model_path to a new folder, and see
configs/wider_finetune.py. Every value can also be given on the command line: python pruned_train.py PRETRAIN.epoch=10
"""

from lib.config import Config

config = Config()

# --- what runs ---------------------------------------------------------------------------------------------------
# Any of pretrain, search, soft_prune, shrink, repair, finetune, evaluate, in this order. With MODEL.pretrained_model,
# loading it takes pretrain's place. shrink takes the pruned channels out (without soft_prune: by the present weights),
# repair solves the layers behind them anew, finetune trains the small model; with shrink behind it, the whole one with
# them held at zero. Without evaluate no AP.
config.TRAIN.stages = ("pretrain", "soft_prune", "shrink", "finetune", "evaluate")
config.TRAIN.seed = 0  # of everything random: weights, sample set, shuffling, augmentation

# --- data --------------------------------------------------------------------------------------------------------
config.DATA.root_path = ""  # what the four paths below are relative to; empty: the working directory
# Annotations: *_bbx_gt.txt, RetinaFace's label.txt, which has landmarks, or `path| x1,y1,x2,y2,1 ...`; empty: built-in
# sample set.
config.DATA.train_txt_path = ""
config.DATA.val_txt_path = ""
config.DATA.train_image_dir = ""  # folder that the image paths in train_txt_path are relative to
config.DATA.val_image_dir = ""
config.DATA.sample_path = "data/samples"  # where the built-in sample set is made
config.DATA.hin = 224  # input height while training, px (default: 640); detection works at any size
config.DATA.win = 224  # input width, px (default: 640)
config.DATA.multiscale = False  # multi-scale training: every batch square, of another size; False: all hin x win
config.DATA.scales = (320, 640)  # its smallest and largest size, px; multiples of 32 between them are drawn
config.DATA.recipe = "eresfd"  # augmentation: "eresfd" (square crops), "dsfd" (SSD's), "yunet" (squares, larger too)
config.DATA.crop_min = 0.5  # smallest random crop, share of the largest that fits (default: 0.3); 1: no cropping
config.DATA.anchor_sampling = 0.0  # probability of data-anchor sampling, not a crop (default: 0.5; DSFD: 0.4); 0: off
config.DATA.cover_small_face = 0.0  # faces below this size in the input, px, are painted over (Pruned DSFD: 5); 0: off
config.DATA.ignore_invalid = True  # faces flagged invalid in *_bbx_gt.txt are painted over; False: faces like others
config.TRAIN.train_set_size = 0  # use so many training images, drawn by the seed; 0: all
config.TRAIN.val_set_size = 0  # likewise for validation
config.TRAIN.process_num = 2  # threads that prepare batches; the batches do not depend on it
config.TRAIN.prefetch_size = 8  # batches prepared ahead
config.TRAIN.vis = False  # True: draws samples of the first epoch with their anchors into samples.png of the run folder

# --- model -------------------------------------------------------------------------------------------------------
config.MODEL.net_structure = (
    "eresfd"  # a DSFD: "vgg_16", "resnet_v1_50", "resnet_v1_101", "MobilenetV2"; "yunet_n", "yunet_s"
)
config.MODEL.width_mult = 0.0625  # share of 256 channels (published: 0.0625, 92,208 parameters)
config.MODEL.pretrained_model = ""  # a .keras file, or published weights by name, e.g. "eresfd"; empty: pretrain
# True: batch normalisations stay as they are (a new DSFD: the backbone's). For a low rate: crops have other statistics.
config.MODEL.lock_basenet_bn = False
config.MODEL.model_path = "runs/eresfd_samples"  # run folder: settings, checkpoints (default: "runs/eresfd")
config.ANCHOR.anchor_ratio = 1.25  # height / width of a new model's anchors; a loaded model brings its own
config.ANCHOR.POSITIVE_ANCHOR_THRESH = 0.35  # IoU from which an anchor is positive
config.ANCHOR.second_stage_thresh = 0.1  # lower IoU bound of the second matching stage

# --- model, DSFD only: see docs/dsfd.md; EResFD does not look at these -------------------------------------------
config.MODEL.backbone_weights = "imagenet"  # downloaded by Keras; "random", or a weights file of keras.applications
config.MODEL.fpn = True  # the feature enhance module; False: heads on the maps as they are
config.MODEL.dual_mode = True  # two shots, one anchor a cell each; False: one shot with all anchors
config.MODEL.maxout = True  # three background scores on the finest level, of which the largest counts; False: one
config.MODEL.l2_norm = (10, 8, 5)  # VGG: initial scales of the L2 normalisation of the three finest maps
config.MODEL.fpn_dims = ()  # channels of the enhance module's products, one a level (first 3 count); (): as published
config.MODEL.fem_dims = 512  # channels of each enhanced map, a multiple of 4 (published for MobilenetV2: 256)
config.MODEL.norm = ""  # behind the backbone: "BN", "GN" or "None"; "": "None" for vgg_16, "BN" for the others
config.MODEL.frozen_stages = -1  # backbone stages 0..n are not trained (0: up to stride 2); -1: all are
config.MODEL.PIXEL_MEAN = (123, 116, 103)  # R, G, B of 0..255
config.MODEL.PIXEL_STD = (58, 57, 57)
config.ANCHOR.ANCHOR_SIZES = (16, 32, 64, 128, 256, 512)  # widths at ratio 1, px, one a level
config.ANCHOR.ANCHOR_RATIOS = (1, 4)  # an anchor a cell for each, of 1 / ratio of the area: 4 is half the width
config.ANCHOR.rect_longer = True  # anchors 1.5 times as high as wide; False: square
config.ANCHOR.NEGATIVE_ANCHOR_THRESH = 0.35  # IoU below which an anchor is background; up to positive it is ignored
config.ANCHOR.AVG_MATCHES = 20  # faces with fewer anchors get more, from between the thresholds; 0: off
config.ANCHOR.super_match = True  # up to the mean of all faces, if that is more; False: up to AVG_MATCHES

# --- how long each stage trains, and at which rates ---------------------------------------------------------------
# lr is a number, which falls to a tenth at each decay, or the rates one after the other, one more than decays.
config.PRETRAIN.epoch = 25  # (default: 30; published: 300)
config.PRETRAIN.lr = (2e-3, 2e-4)  # (default: (1e-3,); published: from 1e-3, x0.1)
config.PRETRAIN.decay_step = (500,)  # steps at which the next rate begins (default: (); published: 250k, 300k, 320k)
config.PRETRAIN.decay_epoch = ()  # the same by epoch, in place of steps
config.PRETRAIN.lr_end = None  # where a cosine ends (TRAIN.lr_schedule); None: at the last rate
config.SOFT_PRUNE.epoch = 6  # (default: 20; published: 200)
config.SOFT_PRUNE.lr = 1e-3
config.SOFT_PRUNE.decay_step = ()
config.SOFT_PRUNE.decay_epoch = (4,)  # epochs of this stage (default: ())
config.SOFT_PRUNE.lr_end = None
config.FINETUNE.epoch = 9  # (default: 10, as published)
config.FINETUNE.lr = 1e-3
config.FINETUNE.decay_step = ()
config.FINETUNE.decay_epoch = (6,)  # (default: ())
config.FINETUNE.lr_end = None
config.FINETUNE.lock_bn = False  # True: batch normalisations stay as they are in this stage

# --- training, the same in every stage ---------------------------------------------------------------------------
config.TRAIN.batch_size = 16
config.TRAIN.optimizer = "adamw"  # decay decoupled; "muon" (docs/recovery.md) too; "adam", as published, "sgd": coupled
config.TRAIN.momentum = 0.9  # of sgd; 0: off
config.TRAIN.lr_schedule = "step"  # or "cosine": half a cosine from a stage's first rate to its lr_end
config.TRAIN.warmup_step = 0  # steps over which every stage's rate rises from 0; 0: off
config.TRAIN.weight_decay_factor = 5e-4  # on all parameters; 0: off
config.TRAIN.score_loss = "softmax"  # with hard negatives, or "focal": all anchors, no mining
config.TRAIN.max_negatives_per_positive = 3.0  # hard negatives in the softmax loss
config.TRAIN.negatives_over = "image"  # each image's for its own positives; "batch": the batch's together (DSFD)
config.TRAIN.box_loss_sigma = 1.0  # smooth L1 is quadratic up to 1 / sigma (DSFD: 9)
config.TRAIN.pruned_alpha = 0.0  # weight of the group-sparsity loss, until fine-tuning; 0: off
config.TRAIN.pruned_ratio = 0.3  # share of each endpoint's channels that it pulls to zero, 0..1: one number, a list in
# layer order (lib.pruning.endpoints), or names and patterns, {"context*": 0.5, "*": 0.2}
config.TRAIN.clip_value = 0.0  # every gradient is cut to -value..value (DSFD: 5); 0: off
config.TRAIN.clip_norm = 0.0  # all gradients together are scaled down to this norm; 0: off
config.TRAIN.accumulate = 1  # batches for one update, each with its own batch statistics; 1: off
config.TRAIN.ema = 0.0  # weights averaged with this momentum, e.g. 0.999, are validated and saved; 0: off
config.TRAIN.mixed_precision = "off"  # "bfloat16", or "float16" on GPUs without it; heads and losses stay float32
config.TRAIN.num_gpu = 1  # GPUs that share every batch (TensorFlow only); 1: no sharing
config.TRAIN.distribution = "off"  # "data_parallel": all devices of all processes share batches (JAX, docs/scale.md)
config.TRAIN.process_address = ""  # HOST:PORT of the first process; "": from the environment, as for the next two
config.TRAIN.processes = 0  # that train together
config.TRAIN.process_index = -1  # of this one, from 0

# --- checkpoints and logs ----------------------------------------------------------------------------------------
config.TRAIN.checkpoint_every_step = 0  # also so often within an epoch; 0: after every epoch only
config.TRAIN.keep_checkpoints = 0  # so many of the latest epochs' checkpoints stay, and the best; 0: all
config.TRAIN.log_interval = 100  # steps between two points in TensorBoard's files; 0: epochs only
config.TRAIN.ap_every_epoch = 0  # epochs between two measurements of AP while training; 0: off
config.TRAIN.ap_images = 100  # validation images for it, drawn by the seed

# --- pruning -----------------------------------------------------------------------------------------------------
config.PRUNE.rate = 0.3  # share of each set's channels, 0 <= rate < 1, or {"context*": 0.5, "stage?_*": 0.2}
config.PRUNE.channel_divisor = 1  # kept channels are rounded up to a multiple, for kernels that take 4 or 8; 1: off
config.PRUNE.min_channels = 1  # so many stay in every set; 0: a rate of 1 takes out a set with the branch that it feeds
config.PRUNE.mode = "removable"  # tied channels go together; "per_layer": each convolution by itself, as published
config.PRUNE.criterion = "fpgm"  # or "l1", "l2", "lamp", "gamma", "random"
config.PRUNE.schedule = "constant"  # the rate at every soft pruning; "polynomial": it grows from 0 to that
config.PRUNE.epoch_prune = 2  # epochs between two soft prunings (default: 5, as published)
config.PRUNE.protected = ()  # layers, e.g. ("conv1", "head*"): the channels that they read or make stay
config.PRUNE.repair = "solve"  # what the stage repair does: "solve", "recalibrate" (batch statistics only) or "off"
config.PRUNE.repair_images = 192  # training photographs for it, drawn by the seed
config.PRUNE.steps = 1  # the stage shrink takes channels out in so many steps, each repaired, with training between
config.PRUNE.step_epoch = 2  # epochs of that training, at FINETUNE's rates; 0: the repair alone
config.PRUNE.calibration_images = 64  # with pruned_alpha: channels silent on so many training images go too; 0: off

# --- distillation: a teacher says what the model in training shall say, in every stage that trains ---------------
# Without DATA.train_txt_path all photographs in DATA.train_image_dir are trained on, by the teacher alone.
config.DISTIL.teacher = ""  # a .keras file, or "start": MODEL.pretrained_model; "": nobody teaches
config.DISTIL.scores = 1.0  # weight of the scores' term; 0: off
config.DISTIL.boxes = 1.0  # weight of the boxes' term, where the teacher is sure of a face; 0: off
config.DISTIL.landmarks = 1.0  # weight of the landmarks' term, of a YuNet; 0: off
config.DISTIL.temperature = 1.0  # both detectors' logits are divided by it
config.DISTIL.focus = 1.0  # exponent of the difference that an anchor's score counts with; 0: all alike

# --- search for rates, in place of PRUNE.rate ---------------------------------------------------------------------
config.SEARCH.enabled = False  # True: the stage search comes before the first one that prunes
config.SEARCH.budget = "macs"  # what is limited: "macs", "parameters", "latency" (of LiteRT), "zeroed" (published)
config.SEARCH.target = 0.5  # share of it that is left, above 0; [0.9, 0.7, 0.5]: several, the first is pruned to
config.SEARCH.target_pruning_rate = 0.0  # share that goes, in place of target (published: 0.1 to 0.6); 0: off
config.SEARCH.tolerance = 0.01  # how far a plan may be from the target, as a share of the whole
config.SEARCH.groups = "eresfd_6"  # or another split of lib.search.groups.SPLITS, or {"stem": ["conv*"], ...}
config.SEARCH.branches = ()  # groups whose sets may go whole, one after the other, e.g. ("stage1-3",); (): none
config.SEARCH.max_rate = 0.98  # no other group loses more than this share of its channels
config.SEARCH.n_init_points = 20  # random plans (published: 60)
config.SEARCH.n_opt_iterations = 80  # plans chosen by what was learned (published: 940)
config.SEARCH.probing_offset = 0.04  # the uniform plan's rate is 1 - target + this if that meets the budget; 0: off
config.SEARCH.objective = "loss"  # -validation loss; or "ap"
config.SEARCH.regularization_coefficient = 5.0  # weight of the penalty for missing the target; 0: off
config.SEARCH.holdout = 0.2  # share of the training images that judges the trials
config.SEARCH.repair_images = 0  # photographs on which a trial is repaired before it trains; 0: off
config.SEARCH.steps = 0  # training steps of a trial; 0: an epoch (published)
config.SEARCH.lr = 1e-3
config.SEARCH.recalibration_batches = 10  # batches that measure batch statistics anew after a trial's training; 0: off
config.SEARCH.n_long = 0  # so many of the best plans are tried again with longer training; 0: off
config.SEARCH.long_steps = 0  # training steps of those

# --- costs: tables, budgets of a search --------------------------------------------------------------------------
config.COST.hin = 480  # input height at which multiply-accumulates and milliseconds are counted, px
config.COST.win = 640  # input width, px

# --- evaluation --------------------------------------------------------------------------------------------------
config.TEST.score_thres = 0.05  # boxes below this score are not counted
config.TEST.iou_thres = 0.3  # NMS: a box that overlaps a better one by more goes
config.TEST.max_detect = 750  # at most so many boxes an image
config.TEST.latency_rounds = 60  # timings of each model at the end, in turns, and frozen graphs for their size; 0: off

# --- limits: what a file may ask for before memory is set aside for it --------------------------------------------
# Each is also a variable of the environment, as FACE_PRUNING_MAX_PIXELS, which tools/ and vis.py look at too; None: as
# it says there, or else the number in the line.
config.LIMITS.max_pixels = None  # Pixels of an image; None: 150,000,000
config.LIMITS.max_unpacked_bytes = None  # of a model's archive, beyond four times the file's size; None: 64 MiB
config.LIMITS.max_tensor_bytes = None  # of all tensors in it, beyond four times the file's size; None: 64 MiB
config.LIMITS.max_description_bytes = None  # of the part of it that describes the model; None: 16 MiB
config.LIMITS.max_prediction_bytes = None  # of a prediction file in a .zip; None: 64 MiB
config.LIMITS.max_channels = None  # that a layer of a .keras file makes; None: 8,192
config.LIMITS.max_layer_number = None  # any other number that describes such a layer; None: 1,048,576
