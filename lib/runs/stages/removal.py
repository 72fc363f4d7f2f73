"""The stages that take the pruned channels out, and mend what that did to the other layers."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import keras

from lib.data.images import read_rgb
from lib.data.sources import draw_readable
from lib.errors import ConfigError
from lib.models import load
from lib.pruning import Masks, apply_masks, recalibrate, repair
from lib.pruning.graph.sets import Mode
from lib.runs.removal import Proof, remove
from lib.runs.stages.base import Stage
from lib.runs.state import Removal
from lib.runs.usable import first_usable
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
        small, proof = take_out(bench, masked, bench.masks(masked))
        bench.leave("shrunk", small)
        state.removal = Removal(of, proof)


def take_out(bench: Workbench, model: keras.Model, masks: Masks) -> tuple[keras.Model, Proof]:
    """Masks a model, and makes the one without these channels; the two are compared on usable validation images."""
    apply_masks(model, masks)
    images, _ = first_usable(bench.data.val, COMPARED_IMAGES)
    if not images:
        logger.warning("none of %d validation images can be used: compared on noise alone", len(bench.data.val))
    return remove(model, masks, images)


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

        def whole() -> tuple[keras.Model, Masks]:
            model = load(bench.folder.whole_model())
            return model, bench.masks(model)

        small = bench.model()
        bench.folder.state.repair = self.mend(bench, small, whole)
        bench.leave("repaired", small)

    def mend(
        self, bench: Workbench, small: keras.Model, whole: Callable[[], tuple[keras.Model, Masks]]
    ) -> dict[str, Any]:
        """Repairs the small model in place; returns what `results.json` says of it.

        Args:
            small: the whole model without the masked channels.
            whole: gives the model before they went, and their masks, if that is needed.

        """
        seed = bench.training.batches.seed
        records, unreadable = draw_readable(bench.data.train, self.images, seed)
        for message in unreadable:
            logger.warning("left out: %s", message)
        images = (read_rgb(record.image) for record in records)
        logger.info("repairing on %d training photographs", len(records))
        if self.how == "recalibrate":
            recalibrate(small, images, seed=seed)
            return {"how": self.how, "images": len(records)}
        model, masks = whole()
        report = repair(model, small, masks, images, [record.boxes_xyxy_px for record in records], seed=seed)
        layers = [asdict(layer) for layer in report.layers]
        logger.info("what the layers miss of their targets:\n%s", repair_table(layers))
        logger.info("repaired in %.0f s; %.0f MiB at most", report.seconds, report.peak_bytes / 2**20)
        if report.underdetermined:
            logger.warning(
                "fewer positions than unknowns, held by the ridge alone: %s", ", ".join(report.underdetermined)
            )
        if report.left:
            logger.warning("no rule, left as they are: %s", ", ".join(report.left))
        return {"how": self.how, "images": report.images, "layers": layers, "left": list(report.left)}
