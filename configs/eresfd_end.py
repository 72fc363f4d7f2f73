"""The last epochs of a small EResFD at 640 px: nearly whole photographs, faces at the size at which they are detected.

Commands  as in configs/eresfd_50.py, which goes before
Data      as there
Cost      five passes over 3,539 photographs took 42 minutes of processors' time, on one with AVX2
Expected  half of the multiply-accumulates: AP 0.5940 / 0.7308 on 298 WIDER FACE / 120 masked faces' validation
          photographs becomes 0.6071 / 0.6698 (after the last epoch: the validation photographs say which one is kept),
          and the mean of both by tools/average.py, shares 2 and 3, sees 0.6082 / 0.6979. What other rates, optimisers
          and crops gave: docs/recovery.md
"""

from configs._wider import by_muon, nearly_whole_photographs, smaller_eresfd

config = smaller_eresfd(rate=0)  # nothing more is taken out

config.MODEL.model_path = "runs/eresfd_end"
config.MODEL.pretrained_model = "runs/eresfd_50/optimized/finetune.keras"
config.TRAIN.stages = ("pretrain", "finetune", "evaluate")
nearly_whole_photographs(config)
config.DISTIL.teacher = "models/eresfd.keras"
by_muon(config, epochs=5, rate=1e-3)
