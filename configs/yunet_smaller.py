"""Published YuNet-n at the milliseconds of YuNet-s: removed, repaired, fine-tuned with the whole one as teacher.

Commands  python tools/import_weights.py --weights yunet_n.pth --output models/yunet_n.keras
          python pruned_train.py --config configs/yunet_smaller.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      15 passes took 70 minutes on two cores that tests shared
Expected  AP 0.5359 / 0.7663 on 298 WIDER FACE / 120 masked faces' validation photographs, long side at most 640 px
          (YuNet-n as published 0.6077 / 0.7693, YuNet-s 0.5052 / 0.6525); docs/yunet.md has more
"""

from configs._wider import on_wider, smaller

config = smaller(on_wider())
config.MODEL.model_path = "runs/yunet_smaller"
config.MODEL.net_structure = "yunet_n"
config.MODEL.pretrained_model = "models/yunet_n.keras"  # loading it takes pretrain's place
config.PRUNE.rate = {"model1_*": 0.5, "model2_*": 0.5}  # where most of a YuNet's time passes
config.DISTIL.teacher = "start"  # the model that the run starts with; it teaches landmarks too
config.DISTIL.boxes = 5.0
config.DATA.anchor_sampling = 0.0
config.FINETUNE.epoch = 15
