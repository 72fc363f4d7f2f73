"""Published EResFD at 50 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER FINETUNE.epoch=1 \
              DATA.anchor_sampling=0.5 MODEL.model_path=runs/whole MODEL.pretrained_model=models/eresfd.keras
          python pruned_train.py --config configs/eresfd_50.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/whole/optimized/finetune.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/eresfd_50/epoch_24.keras DISTIL.teacher=runs/whole/optimized/finetune.keras
          python tools/average.py --models runs/eresfd_50/epoch_24.keras runs/eresfd_end/epoch_5.keras --shares 2 3 \
              --output half.keras
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      110 minutes of processors' time, on one with AVX2 (TF_ENABLE_ONEDNN_OPTS=1, docs/runs.md): one pass of the
          whole model 9, repair and 24 passes over 3,539 photographs at 320 px 59, five at 640 px 42
Expected  0.501 of the multiply-accumulates, 51,790 parameters; AP on 298 WIDER FACE / 120 masked faces' validation
          photographs (unpruned 0.6548 / 0.7044): after the third command 0.5940 / 0.7308, after the fourth 0.6071 /
          0.6698, after the fifth 0.6082 / 0.6979. One rate for all sets, PRUNE.rate=0.3125, with 28 passes and four:
          0.5881 / 0.7382, 0.5974 / 0.6665, 0.5987 / 0.6982
"""

from configs._wider import by_muon, smaller_eresfd

# After what a search found: of the stem's block a channel is left, and nothing goes from the context modules.
config = smaller_eresfd(
    rate={
        "conv[123]": 0.125,
        "conv4*": 0.9375,
        "stage[45]_block?_conv1": 0.33,
        "stage?_block0_conv2": 0.375,  # the stages' and the FPN's streams
    }
)

config.MODEL.model_path = "runs/eresfd_50"
config.DISTIL.teacher = "start"  # the model that the run starts with
by_muon(config, epochs=24, rate=2e-3)
