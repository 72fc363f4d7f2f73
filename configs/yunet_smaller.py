"""Published YuNet-n at the milliseconds of YuNet-s: removed, repaired, fine-tuned with the whole one as teacher.

Commands  python tools/import_weights.py --weights yunet_n.pth --output models/yunet_n.keras
          python pruned_train.py --config configs/yunet_smaller.py DATA.root_path=/path/to/WIDER
Data      WIDER FACE as it is distributed. Figures below are from 3,059 of its training photographs and 480 of masked
          faces in one annotation file: set DATA.train_txt_path and DATA.train_image_dir to yours
Cost      repair and 16 passes took 55 minutes of a processor's time, on one with AVX2 (TF_ENABLE_ONEDNN_OPTS=1,
          docs/runs.md)
Expected  AP 0.5608 / 0.7912 on 298 WIDER FACE / 120 masked faces' validation photographs, long side at most 640 px
          (YuNet-n as published 0.6077 / 0.7693, YuNet-s 0.5052 / 0.6525); docs/yunet.md has more
"""

from configs._wider import by_muon, on_wider, smaller

config = smaller(on_wider())
config.MODEL.model_path = "runs/yunet_smaller"
config.MODEL.net_structure = "yunet_n"
config.MODEL.pretrained_model = "models/yunet_n.keras"  # loading it takes pretrain's place
# Where most of a YuNet's time passes, but for what has 16 channels only.
config.PRUNE.rate = {"model1_conv2_point": 0.5, "model2_conv1_point": 0.5, "model2_conv2_point": 0.5}
config.DISTIL.teacher = "start"  # the model that the run starts with; it teaches landmarks too
config.DISTIL.boxes = 5.0
by_muon(config, epochs=16, rate=2e-3)
