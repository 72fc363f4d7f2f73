"""Channels taken out a few at a time, with a repair and some training between."""

import logging

import keras

from lib.data.batches import FaceDataset
from lib.errors import ConfigError
from lib.models import load
from lib.pruning import channel_sets
from lib.runs.stages.learning import Course, Learning, Watch
from lib.runs.stages.removal import Repair, take_out
from lib.runs.state import Removal
from lib.runs.workbench import Workbench
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)


class Gradual(Learning):
    """Takes the pruned channels out in steps, in `Shrink`'s place.

    Each step takes as many channels of every set as the others, by the weights that training has left, and is
    repaired; behind all but the last the small model is trained. The models are `step_1`, `step_1_trained`, `step_2`
    and so on, and at last `shrunk`, which the next stages repair and fine-tune.

    Args:
        course: of the training behind each step.
        steps: at least 2.
        mend: how the small model is repaired before it is trained.
        lock_norms: see `Finetune`.

    """

    name = "shrink"
    leaves = ("model", "removal")

    def __init__(self, course: Course, watch: Watch, steps: int, mend: Repair, lock_norms: bool) -> None:
        super().__init__(course, watch)
        self.steps, self.mend, self.lock_norms = steps, mend, lock_norms

    def check(self, start: keras.Model) -> None:
        self.mend.check(start)

    def check_length(self, bench: Workbench) -> None:
        if self.course.epochs:
            super().check_length(bench)
        if bench.choice.mode != "removable" or not bench.choice.min_channels:
            raise ConfigError("PRUNE.steps above 1 needs PRUNE.mode = 'removable' and PRUNE.min_channels of at least 1")

    def run(self, bench: Workbench) -> None:
        before = [row.stage for row in bench.folder.state.rows if not row.stage.startswith("step_")]
        whole = load(bench.folder.outcome(before[-1]))
        off = bench.choice(whole, bench.rates).channels
        sizes = {item.name: item.size for item in channel_sets(whole, protected=bench.choice.protected)}
        done = {row.stage for row in bench.folder.state.rows}
        for step in range(1, self.steps + 1):
            if f"step_{step}" not in done:
                kept = {name: size - round(len(off[name]) * step / self.steps) for name, size in sizes.items()}
                self._prune(bench, step, kept)
            if step < self.steps and self.course.epochs and f"step_{step}_trained" not in done:
                logger.info("step %d of %d: training what is left", step, self.steps)
                first = self.epochs_before(bench) + (step - 1) * self.course.epochs
                self.train(bench, f"step_{step}_trained", first)
                bench.folder.position = None
                bench.folder.save_state()

    def _prune(self, bench: Workbench, step: int, kept: dict[str, int]) -> None:
        folder, model = bench.folder, bench.model()
        of = folder.state.rows[-1].stage
        masks = bench.choice.kept(model, kept)
        logger.info("step %d of %d: %d channels leave %s", step, self.steps, sum(map(len, masks.channels.values())), of)
        small, proof = take_out(bench, model, masks)
        if step < self.steps:
            if self.mend.how != "off":
                self.mend.mend(bench, small, lambda: (load(folder.outcome(of)), masks))
            bench.leave(f"step_{step}", small)
            folder.save_state()
        else:
            bench.keep_masks(masks)
            bench.leave("shrunk", small)
            folder.state.removal = Removal(of, proof)

    def learn(self, bench: Workbench, trainer: Trainer, train: FaceDataset, first_epoch: int) -> None:
        trainer.held.release()
        self.fit(bench, trainer, train, first_epoch)
        self.take_best(bench, trainer)
