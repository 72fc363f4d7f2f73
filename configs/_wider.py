"""What the configs of WIDER FACE share; the folder holds WIDER_train/images, WIDER_val/images and wider_face_split."""

from lib.config import Config


def on_wider() -> Config:
    """Training and validation images of WIDER FACE, as it is distributed, in the folder DATA.root_path."""
    config = Config()
    config.DATA.root_path = "WIDER"  # what the paths below are relative to
    config.DATA.train_txt_path = "wider_face_split/wider_face_train_bbx_gt.txt"
    config.DATA.train_image_dir = "WIDER_train/images"
    config.DATA.val_txt_path = "wider_face_split/wider_face_val_bbx_gt.txt"
    config.DATA.val_image_dir = "WIDER_val/images"
    return config


def published_eresfd() -> Config:
    """Published EResFD weights, pruned and fine-tuned for a few epochs."""
    config = on_wider()
    config.MODEL.pretrained_model = "models/eresfd.keras"  # loading it takes pretrain's place
    config.TRAIN.batch_size = 8
    config.PRUNE.epoch_prune = 2  # epochs between two soft prunings (published: 5)
    config.SOFT_PRUNE.epoch = 4  # published: 200
    config.SOFT_PRUNE.lr = 5e-4
    config.SOFT_PRUNE.decay_epoch = (3,)  # epochs at which the rate falls to a tenth
    config.FINETUNE.epoch = 8  # published: 10
    config.FINETUNE.lr = 5e-4
    config.FINETUNE.decay_epoch = (6,)
    return config


def smaller(config: Config) -> Config:
    """Channels out of published weights, the layers behind them solved anew, the small model fine-tuned."""
    config.TRAIN.stages = ("pretrain", "shrink", "repair", "finetune", "evaluate")
    config.PRUNE.repair = "solve"
    config.PRUNE.repair_images = 192
    config.TRAIN.batch_size = 16
    config.TRAIN.weight_decay_factor = 1e-5
    config.TRAIN.clip_norm = 5.0
    config.TRAIN.lr_schedule = "cosine"
    config.TRAIN.warmup_step = 20
    config.TRAIN.ema = 0.998  # the averaged weights are what is validated and saved
    config.DATA.hin = 320  # px
    config.DATA.win = 320  # px
    config.DATA.crop_min = 0.5  # smallest random crop, share of the largest square
    config.FINETUNE.epoch = 24
    config.FINETUNE.lr = 1e-3
    config.FINETUNE.lr_end = 1e-6
    config.FINETUNE.lock_bn = True  # the repair has set the statistics
    return config


def smaller_eresfd(rate: float | dict[str, float]) -> Config:
    """Published EResFD weights at a rate for every set, by `smaller`."""
    config = smaller(on_wider())
    config.MODEL.pretrained_model = "models/eresfd.keras"  # loading it takes pretrain's place
    config.PRUNE.rate = rate  # share of each set's channels, of all or by name
    return config


def by_muon(config: Config, epochs: int, rate: float) -> None:
    """Fine-tuning that saw most in long trainings: steps by Muon, and no crops around an anchor."""
    config.TRAIN.optimizer = "muon"
    config.DATA.anchor_sampling = 0.0
    config.FINETUNE.epoch = epochs
    config.FINETUNE.lr = rate


def nearly_whole_photographs(config: Config) -> None:
    """Large crops at 640 px, in which faces have the size at which they are detected."""
    config.TRAIN.batch_size = 4
    config.DATA.hin = 640  # px
    config.DATA.win = 640  # px
    config.DATA.crop_min = 0.8  # smallest random crop, share of the largest square


def short_trials(config: Config, repair_images: int) -> None:
    """Trials of a search that are repaired before a few steps judge them."""
    config.SEARCH.repair_images = repair_images
    config.SEARCH.holdout = 0.035  # share of the training images that judges the trials: 124 of 3,539
    config.SEARCH.steps = 12
    config.SEARCH.lr = 5e-4
    config.SEARCH.recalibration_batches = 5
