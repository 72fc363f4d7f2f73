"""The stages that take the pruned channels out, and mend what that did to the other layers."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import keras

from lib.arrays import FloatArray
from lib.data.images import read_rgb
from lib.data.sources import draw_readable
from lib.errors import ConfigError
from lib.models import load
from lib.pruning import apply_masks, recalibrate, repair
from lib.pruning.graph.sets import Mode
from lib.runs.removal import remove
from lib.runs.stages.base import Stage
from lib.runs.state import Removal
from lib.runs.workbench import Workbench
from lib.tables import repair_table

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


class Repair(Stage):
    """Mends the small model on training photographs, see `lib.pruning.repair`.

    The whole model is the one that the channels were taken out of; after soft pruning, as it was before the last time
    that channels were set to zero.

    Args:
        how: "solve" the layers anew, only "recalibrate" the batch statistics, or "off": leave the model as it is.
        images: photographs, drawn by the run's seed.
        mode: of the masks.

    """

    name = "repair"
    needs = ("model", "removal")
    leaves = ("model",)

    def __init__(self, how: Literal["solve", "recalibrate", "off"], images: int, mode: Mode) -> None:
        self.how, self.images, self.mode = how, images, mode

    def check(self, start: keras.Model) -> None:
        if self.how == "solve" and self.mode == "per_layer":
            raise ConfigError(
                "PRUNE.mode = 'per_layer' leaves masked channels in the small model, and a repair would fill them "
                "again; set PRUNE.repair = 'recalibrate', or take 'repair' out of TRAIN.stages"
            )

    def run(self, bench: Workbench) -> None:
        if self.how == "off":
            logger.info("PRUNE.repair is off: the small model stays as it is")
            return
        state, seed, small = bench.folder.state, bench.training.batches.seed, bench.model()
        records, unreadable = draw_readable(bench.data.train, self.images, seed)
        for message in unreadable:
            logger.warning("left out: %s", message)
        images = (read_rgb(record.image) for record in records)
        logger.info("repairing on %d training photographs", len(records))
        if self.how == "recalibrate":
            recalibrate(small, images, seed=seed)
            state.repair = {"how": self.how, "images": len(records)}
        else:
            state.repair = {"how": self.how, **self._solve(bench, small, images, [r.boxes_xyxy_px for r in records])}
        bench.leave("repaired", small)

    def _solve(
        self, bench: Workbench, small: keras.Model, images: Iterable[Any], boxes: Sequence[FloatArray]
    ) -> dict[str, Any]:
        """What `results.json` says of it: nothing that a second run would not say too."""
        whole = load(bench.folder.whole_model())
        masks = bench.masks(whole)
        report = repair(whole, small, masks, images, boxes, seed=bench.training.batches.seed)
        layers = [asdict(layer) for layer in report.layers]
        logger.info("what the layers miss of their targets:\n%s", repair_table(layers))
        logger.info("repaired in %.0f s; %.0f MiB at most", report.seconds, report.peak_bytes / 2**20)
        if report.underdetermined:
            logger.warning(
                "fewer positions than unknowns, held by the ridge alone: %s", ", ".join(report.underdetermined)
            )
        if report.left:
            logger.warning("no rule, left as they are: %s", ", ".join(report.left))
        return {"images": report.images, "layers": layers, "left": list(report.left)}
