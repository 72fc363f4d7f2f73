"""The last epochs of a small EResFD at 640 px: nearly whole photographs, faces at the size at which they are detected.

Commands  python pruned_train.py --config configs/eresfd_50.py DATA.root_path=/path/to/WIDER
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/eresfd_50/optimized/finetune.keras DISTIL.teacher=models/eresfd.keras
Data      as in configs/eresfd_50.py
Cost      four passes over 3,539 photographs took 28 minutes of processors' time
Expected  AP 0.5851 / 0.7068 becomes 0.5978 / 0.7014 on 298 WIDER FACE / 120 masked faces' validation photographs
          (half of the multiply-accumulates, rates of configs/eresfd_searched.py), and by the same once more, at a rate
          of 4e-4, 0.5998 / 0.7008; 14 epochs of configs/eresfd_50.py with PRUNE.rate=0.1875, 0.6098 / 0.7463, became
          0.6154 / 0.7301 by three passes at 4e-4; docs/recovery.md
"""

from configs._wider import nearly_whole_photographs, smaller_eresfd

config = smaller_eresfd(rate=0)  # nothing more is taken out

config.MODEL.model_path = "runs/eresfd_end"
config.MODEL.pretrained_model = "runs/eresfd_50/optimized/finetune.keras"
config.TRAIN.stages = ("pretrain", "finetune", "evaluate")
nearly_whole_photographs(config)
config.DISTIL.teacher = "models/eresfd.keras"
config.FINETUNE.epoch = 4
config.FINETUNE.lr = 5e-4
