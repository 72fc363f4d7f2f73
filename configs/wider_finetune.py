"""Published EResFD weights, pruned by 20 % and fine-tuned on a part of WIDER FACE.

Commands  python tools/import_weights.py --weights eresfd_16.pth --output models/eresfd.keras
          python pruned_train.py --config configs/wider_finetune.py DATA.root_path=/path/to/WIDER
Data      the folder holds WIDER_train/images, WIDER_val/images and wider_face_split, as WIDER FACE is distributed
Cost      11 minutes on 2 CPU cores with 400 training images; the whole training set takes a GPU
Expected  see the table in README.md: a short run that shows the way; for published accuracy set the published epochs
          and all images (not measured here)
"""

from configs._wider import published_eresfd

config = published_eresfd()

config.MODEL.model_path = "runs/eresfd_wider"
config.TRAIN.train_set_size = 400  # images, drawn by the seed; 0: all
config.PRUNE.rate = 0.2  # share of each set's channels
