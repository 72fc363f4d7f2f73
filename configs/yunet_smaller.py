"""Published YuNet-n at the milliseconds of YuNet-s: removed, repaired, fine-tuned with the whole one as teacher."""

from configs._wider import on_wider

config = on_wider()
config.MODEL.model_path = "runs/yunet_smaller"
config.MODEL.pretrained_model = "models/yunet_n.keras"  # loading it takes pretrain's place
config.TRAIN.stages = ("pretrain", "shrink", "repair", "finetune", "evaluate")
config.PRUNE.rate = {"model1_*": 0.5, "model2_*": 0.5}  # where most of a YuNet's time passes
config.DISTIL.teacher = "start"  # the model that the run starts with; it teaches landmarks too
config.DISTIL.boxes = 5.0
config.TRAIN.batch_size = 16
config.TRAIN.weight_decay_factor = 1e-5
config.TRAIN.clip_norm = 5.0
config.TRAIN.lr_schedule = "cosine"
config.TRAIN.warmup_step = 20
config.TRAIN.ema = 0.998  # the averaged weights are what is validated and saved
config.DATA.hin = 320  # px
config.DATA.win = 320  # px
config.DATA.crop_min = 0.5  # smallest random crop, share of the largest square
config.DATA.anchor_sampling = 0.0
config.FINETUNE.epoch = 12
config.FINETUNE.lr = 1e-3
config.FINETUNE.lr_end = 1e-6
config.FINETUNE.lock_bn = True  # the repair has set the statistics
