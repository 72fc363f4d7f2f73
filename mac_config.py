"""What mac.py counts; any value can also be given on its command line: MODEL.trained_model=FILE."""

from lib.config import MacConfig

config = MacConfig()

config.MODEL.trained_model = "runs/eresfd_samples"  # a .keras file, or a run folder (then its last model)
config.MODEL.full_model = ""  # unpruned model for the percentages; empty: trained_model with all its channels
config.COST.hin = 480  # input height that multiply-accumulates are counted at, px
config.COST.win = 640  # input width, px
config.DATA.image_dir = ""  # folder of images for the count by activations (or --images DIR); empty: no such count
config.DATA.max_images = 0  # use the first so many images; 0: all
# What a file may ask for, LIMITS.max_pixels and so on: as in pruned_train_config.py.
