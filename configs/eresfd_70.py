"""Published EResFD at 70 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_70.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      28 passes over 3,539 photographs with the unpruned model as teacher, 50 minutes of one core's time, repair,
          validation and AP included
Expected  AP 0.6117 / 0.7444 on 298 WIDER FACE / 120 masked faces' validation photographs (unpruned 0.6548 / 0.7044);
          repaired, before training, 0.5598 / 0.5959; 10 passes without a teacher (FINETUNE.epoch=10 DISTIL.teacher=),
          15 minutes: 0.5988 / 0.7671. FINETUNE.epoch=14, and then configs/eresfd_end.py with FINETUNE.epoch=3 and
          FINETUNE.lr=4e-4, 56 minutes of processors' time in all: 0.6154 / 0.7301
"""

from configs._wider import smaller_eresfd

config = smaller_eresfd(rate=0.1875)

config.MODEL.model_path = "runs/eresfd_70"
config.DISTIL.teacher = "start"  # the model that the run starts with
config.FINETUNE.epoch = 28
