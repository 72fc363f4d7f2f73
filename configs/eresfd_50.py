"""Published EResFD at 50 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_50.py DATA.root_path=/path/to/WIDER
          and on with configs/eresfd_end.py
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      32 passes with the teacher over 3,539 photographs 83 minutes of processors' time, all included, on one with
          AVX2 (TF_ENABLE_ONEDNN_OPTS=1, docs/runs.md)
Expected  AP 0.5861 / 0.7073 on 298 WIDER FACE / 120 masked faces' validation photographs (unpruned 0.6548 / 0.7044),
          and behind configs/eresfd_end.py 0.5983 / 0.6683; before training, repaired on 192, 0.3987 / 0.3830
"""

from configs._wider import by_muon, smaller_eresfd

config = smaller_eresfd(rate=0.3125)

config.MODEL.model_path = "runs/eresfd_50"
config.DISTIL.teacher = "start"  # the model that the run starts with
by_muon(config, epochs=32, rate=2e-3)
