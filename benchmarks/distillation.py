"""Whether a teacher earns its cost: one model, trained as long with labels, with a teacher, and with both.

Every arm starts from MODEL.pretrained_model and takes the same batches, as many as its CPU time allows; half a cosine
from FINETUNE.lr follows the time. AP is that of every third validation image. Models go to MODEL.model_path.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.config import Config, load_config
from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table

ARMS = ("labels", "both", "teacher")
EVERY = 3  # of the validation images


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and measures the arms, and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="configs/eresfd_50.py", help="with DISTIL.teacher")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seconds", type=float, default=600, help="of CPU time, all threads together, an arm (600)")
    parser.add_argument("--part", default="", help="AP of images under PART/ and of the others, each by themselves")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key=value")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        config = load_config(options.config, options.overrides)
        rows = [_arm(config, arm, options.seconds, options.part) for arm in options.arms]
        measured = ["AP of the others", f"AP of {options.part}"] if options.part else ["AP"]
        print(markdown_table(["arm", "steps", "CPU s", "losses", *measured], rows))
    return 0


def _arm(config: Config, arm: str, seconds: float, part: str) -> list[str]:
    """The table's row of one arm."""
    import keras
    import numpy as np

    from lib.data.sources import load_data
    from lib.runs.wiring import chosen_model, data_settings, detection_settings, trainer_settings
    from lib.training.trainer import Trainer

    keras.utils.set_random_seed(config.TRAIN.seed)
    data, model = load_data(data_settings(config)), chosen_model(config)
    settings = replace(trainer_settings(config, model), lock_norms=config.FINETUNE.lock_bn)
    trainer = Trainer(model, replace(settings, distillation=None) if arm == "labels" else settings)
    records = data.train
    if arm == "teacher":
        nothing = np.zeros((0, 4), np.float32)
        records = [replace(record, boxes_xyxy_px=nothing, invalid=None, labelled=False) for record in records]
    clock = _by_the_clock(seconds, config.FINETUNE.rates(cosine=True)[0], config.TRAIN.warmup_step)
    trainer.fit(trainer.dataset(records, augment=True), 1000, [clock])
    file = Path(config.MODEL.model_path) / f"{arm}.keras"
    file.parent.mkdir(parents=True, exist_ok=True)
    trainer.save(file)

    chosen = data.val[::EVERY]
    inside = [record for record in chosen if part and record.name.startswith(f"{part}/")]
    others = [record for record in chosen if not part or not record.name.startswith(f"{part}/")]
    found = [_average_precision(file, records, detection_settings(config)) for records in (others, inside) if records]
    losses = " ".join(f"{name} {value:.3f}" for name, value in clock.losses.items())
    return [arm, str(clock.steps), f"{clock.used:.0f}", losses, *(f"{ap:.4f}" for ap in found)]


def _average_precision(file: Path, records: Sequence[Any], settings: Any) -> float:
    from lib.detection import FaceDetector
    from lib.evaluation.ap import evaluate

    detector = FaceDetector(file, settings.iou_threshold, settings.max_detections)
    return evaluate(detector, records, settings.score_threshold)[0]


def _by_the_clock(seconds: float, rate: float, warmup: int) -> Any:
    """A callback that sets the learning rate by the CPU time used and stops when it is used up."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.used, self.start = 0, 0.0, 0.0
            self.losses: dict[str, float] = {}

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            share = min(1.0, self.used / seconds)
            now = rate * min(1.0, (self.steps + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * share))
            self.model.optimizer.learning_rate = now

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            self.start = self.start or time.process_time()  # the first step, which is compiled, does not count
            self.used = time.process_time() - self.start
            self.losses = dict(logs or {})
            if self.used >= seconds:
                self.model.stop_training = True

    return Clock()


if __name__ == "__main__":
    sys.exit(main())
