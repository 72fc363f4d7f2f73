"""Published EResFD at 50 % of its multiply-accumulates: removed, repaired, fine-tuned.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/eresfd_50.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      36 passes with the teacher over 3,539 photographs took about two hours of one core's time, all included
Expected  AP 0.5830 / 0.7071 on 298 WIDER FACE / 120 masked faces' validation photographs (unpruned 0.6548 /
          0.7044), by 8 passes of 44 and then 28 from a rate of 1e-3 again, as a run that was begun too long; 18 passes
          at once, repaired on 48: 0.5747 / 0.6890. Before training, repaired on 192, 0.3987 / 0.3830
"""

from configs._wider import smaller_eresfd

config = smaller_eresfd(rate=0.3125)

config.MODEL.model_path = "runs/eresfd_50"
config.DISTIL.teacher = "start"  # the model that the run starts with
config.FINETUNE.epoch = 36
