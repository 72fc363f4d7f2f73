"""The last epochs of a small EResFD at 640 px: nearly whole photographs, faces at the size at which they are detected.

Commands  python pruned_train.py --config configs/eresfd_50.py DATA.root_path=/path/to/WIDER
          python pruned_train.py --config configs/eresfd_end.py DATA.root_path=/path/to/WIDER \
              MODEL.pretrained_model=runs/eresfd_50/optimized/finetune.keras DISTIL.teacher=models/eresfd.keras
Data      as in configs/eresfd_50.py
Cost      four passes over 3,539 photographs took 35 minutes of processors' time, on one with AVX2
Expected  AP 0.5861 / 0.7073 becomes 0.5983 / 0.6683 on 298 WIDER FACE / 120 masked faces' validation photographs
          (half of the multiply-accumulates; after the last epoch: the validation photographs say which one is kept),
          and the mean of both by tools/average.py, shares 2 and 3, sees 0.5980 / 0.6895. With the whole model after
          one epoch as start and teacher of both, as in configs/eresfd_mix.py, and 28 epochs in the first, 0.5881 /
          0.7382, 0.5974 / 0.6665 and 0.5987 / 0.6982, in 117 minutes of processors' time. By AdamW at a rate of 5e-4,
          with crops around an anchor, 0.5851 / 0.7068 became 0.5978 / 0.7014 (rates of configs/eresfd_searched.py),
          and by the same once more at 4e-4 0.5998 / 0.7008; docs/recovery.md
"""

from configs._wider import by_muon, nearly_whole_photographs, smaller_eresfd

config = smaller_eresfd(rate=0)  # nothing more is taken out

config.MODEL.model_path = "runs/eresfd_end"
config.MODEL.pretrained_model = "runs/eresfd_50/optimized/finetune.keras"
config.TRAIN.stages = ("pretrain", "finetune", "evaluate")
nearly_whole_photographs(config)
config.DISTIL.teacher = "models/eresfd.keras"
by_muon(config, epochs=4, rate=1e-3)
