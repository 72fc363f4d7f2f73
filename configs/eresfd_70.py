"""Published EResFD at 70 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER FINETUNE.epoch=1 \
              DATA.anchor_sampling=0.5 MODEL.model_path=runs/whole MODEL.pretrained_model=models/eresfd.keras
          python pruned_train.py --config configs/eresfd_70.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/whole/optimized/finetune.keras
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/eresfd_70/epoch_24.keras DISTIL.teacher=runs/whole/optimized/finetune.keras
          python tools/average.py --models runs/eresfd_70/epoch_24.keras runs/eresfd_end/epoch_5.keras --shares 2 3 \
              --output small.keras
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      109 minutes of processors' time, on one with AVX2 (TF_ENABLE_ONEDNN_OPTS=1, docs/runs.md): one pass of the
          whole model 9, repair and 24 passes over 3,539 photographs at 320 px 57, five at 640 px 43
Expected  0.707 of the multiply-accumulates, 82,666 parameters; AP on 298 WIDER FACE / 120 masked faces' validation
          photographs (unpruned 0.6548 / 0.7044): after the third command, 66 minutes, 0.6201 / 0.7527, after the fourth
          0.6251 / 0.7230, after the fifth 0.6275 / 0.7424. One rate for all sets, 0.70 of the multiply-accumulates, by
          another way in 52 minutes: 0.6176 / 0.7287; docs/recovery.md
"""

from configs._wider import by_muon, smaller_eresfd

# Most of the stem's inner convolution, and one channel in sixteen of the stages' and the FPN's streams.
config = smaller_eresfd(rate={"conv4_conv1": 0.875, "stage?_block0_conv2": 0.0625})

config.MODEL.model_path = "runs/eresfd_70"
config.DISTIL.teacher = "start"  # the model that the run starts with
by_muon(config, epochs=24, rate=2e-3)
