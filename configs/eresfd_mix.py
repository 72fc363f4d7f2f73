"""Published EResFD at 0.60 of its LiteRT milliseconds: what costs time and helps little goes whole.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER FINETUNE.epoch=1 \
              DATA.anchor_sampling=0.5 MODEL.model_path=runs/whole MODEL.pretrained_model=models/eresfd.keras
          python pruned_train.py --config configs/eresfd_mix.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/whole/optimized/finetune.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER FINETUNE.epoch=6 \
              FINETUNE.lr=8e-4 MODEL.model_path=runs/eresfd_mix_end \
              MODEL.pretrained_model=runs/eresfd_mix/optimized/finetune.keras \
              DISTIL.teacher=runs/whole/optimized/finetune.keras
          python tools/average.py --models runs/eresfd_mix runs/eresfd_mix_end --shares 2 3 --output mix.keras
          with 'TRAIN.stages=["pretrain","search"]' the third looks for rates itself, by milliseconds
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      one pass of the whole model 9 minutes of processors' time, on one with AVX2 (TF_ENABLE_ONEDNN_OPTS=1,
          docs/runs.md); repair and 32 passes over 3,539 photographs at 320 px 70, six at 640 px 42
Expected  0.600 and 0.603 of the milliseconds at 480x640 with AVX-512, 0.65 with AVX2 alone; 0.441 of the
          multiply-accumulates, 60.8 k parameters; AP on 298 WIDER FACE / 120 masked faces' validation photographs:
          repaired on 192, before training, 0.3462 / 0.3853, after the third command 0.5613 / 0.7095, after the fourth
          0.5701 / 0.6667, after the fifth 0.5723 / 0.6946. From the published weights at once, by AdamW, 14 passes at
          320 px and ten at 640 px, 0.5481 / 0.6272; docs/recovery.md
"""

from configs._wider import by_muon, short_trials, smaller_eresfd

config = smaller_eresfd(
    rate={
        "conv4_conv1": 1.0,  # the stem's block becomes its shortcut
        "context0_branch2a": 1.0,  # the finest context module keeps its first branch
        "stage1_block1_conv1": 1.0,  # one of stage 1's blocks becomes its shortcut
        "stage?_block0_conv2": 0.25,  # the stages' and the FPN's streams
        "conv3": 0.25,
    }
)

config.MODEL.model_path = "runs/eresfd_mix"
config.PRUNE.channel_divisor = 4  # whole fours run faster: with 11 channels in place of 12 the model takes 0.612
config.PRUNE.min_channels = 0  # a rate of 1 takes a convolution out, and what it alone fed
config.DISTIL.teacher = "start"  # the model that the run starts with
by_muon(config, epochs=32, rate=2e-3)

config.SEARCH.budget = "latency"
config.SEARCH.target = 0.6  # share of the milliseconds that is left, LiteRT, one thread
config.SEARCH.groups = {
    "stem": ["conv[123]"],
    "conv4": ["conv4_conv1"],
    "stage1_1": ["stage1_block1_conv1"],
    "stage1_2": ["stage1_block2_conv1"],
    "inner": ["stage?_block0_conv1", "stage[2345]_block[12]_conv1"],
    "fpn": ["stage?_block0_conv2"],
    "small0": ["context0_branch2a"],
    "small": ["context[12345]_branch2a"],
    "context": ["context?_branch1", "context?_branch2b", "context?_branch3?"],
}
# Milliseconds fall little with a convolution's channels and much with the convolution: these may go altogether.
config.SEARCH.branches = ("conv4", "stage1_1", "stage1_2", "small0", "small")
config.SEARCH.n_init_points = 14
config.SEARCH.n_opt_iterations = 27
short_trials(config, repair_images=24)
