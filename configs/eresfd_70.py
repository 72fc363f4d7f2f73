"""Published EResFD at 70 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_70.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      24 passes over 3,539 photographs, 35 minutes of one core's time, the repair, validation and AP included
Expected  AP 0.5986 / 0.7742 on 298 WIDER FACE / 120 masked faces' validation photographs (unpruned 0.6548 /
          0.7044); it was repaired on 48, 0.5189 / 0.5665; on 192, as now, 0.5598 / 0.5959, before training
"""

from configs._wider import smaller_eresfd

config = smaller_eresfd(rate=0.1875)

config.MODEL.model_path = "runs/eresfd_70"
