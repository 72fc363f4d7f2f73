"""The stage that takes the pruned channels out."""

import logging

from lib.data.images import read_rgb
from lib.pruning import apply_masks
from lib.runs.removal import remove
from lib.runs.stages.base import Stage
from lib.runs.state import Removal
from lib.runs.workbench import Workbench

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 8  # validation images that the model without its pruned channels is compared on


class Shrink(Stage):
    """Leaves the model without its pruned channels: those of the masks there are, or else chosen by its weights."""

    name = "shrink"
    leaves = ("model", "removal")

    def run(self, bench: Workbench) -> None:
        state, masked = bench.folder.state, bench.model()
        of = state.rows[-1].stage
        logger.info("taking the pruned channels out of %s", of)
        masks = bench.masks(masked)
        apply_masks(masked, masks)
        images = [read_rgb(record.image) for record in bench.data.val[:COMPARED_IMAGES]]
        small, proof = remove(masked, masks, images)
        bench.leave("shrunk", small)
        state.removal = Removal(of, proof)
