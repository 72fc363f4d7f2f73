"""Published EResFD at 0.60 of its LiteRT milliseconds, by rates that a search finds: repaired, fine-tuned."""

from configs._wider import smaller_eresfd

config = smaller_eresfd(rate=0.3125)  # for the search's probe; what it finds takes its place

config.MODEL.model_path = "runs/eresfd_mix"
config.TRAIN.stages = ("pretrain", "search", "shrink", "repair", "finetune", "evaluate")
config.DISTIL.teacher = "start"  # the model that the run starts with
config.SEARCH.budget = "latency"
config.SEARCH.target = 0.6  # share of the milliseconds that is left, LiteRT, one thread
config.SEARCH.groups = {
    "stem": ["conv[123]"],
    "conv4": ["conv4_conv1"],
    "stage1": ["stage1_block[12]_conv1"],
    "stage2": ["stage2_block[12]_conv1"],
    "stage3-5": ["stage[345]_block[12]_conv1"],
    "block0": ["stage?_block0_conv1"],
    "fpn": ["stage?_block0_conv2"],
    "small": ["context?_branch2a"],
    "context": ["context?_branch1", "context?_branch2b", "context?_branch3?"],
}
# Milliseconds fall little with a convolution's channels and much with the convolution: these may go altogether.
config.SEARCH.branches = ("conv4", "stage1", "stage2", "small")
config.PRUNE.min_channels = 0
config.SEARCH.n_init_points = 14
config.SEARCH.n_opt_iterations = 27
config.SEARCH.repair_images = 24  # a trial is repaired before it trains
config.SEARCH.holdout = 0.035  # share of the training images that judges the trials: 124 of 3,539
config.SEARCH.steps = 12
config.SEARCH.lr = 5e-4
config.SEARCH.recalibration_batches = 5
