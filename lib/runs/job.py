"""The job: a list of stages, run one after the other; what is done is not done again."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras

from lib.config import Config
from lib.console import ProgressLine
from lib.data.picture import write_samples
from lib.data.sources import load_data
from lib.errors import ConfigError, TrainingError
from lib.files import write_json
from lib.limits import allowing
from lib.models import inference_model
from lib.models.dsfd import named_ratios
from lib.pruning import CostModel, GroupSparsity, removal_report
from lib.runs import wiring
from lib.runs.report.making import report_run
from lib.runs.report.page import NAME as PAGE
from lib.runs.report.page import read_part
from lib.runs.results import results_of
from lib.runs.stages.base import Stage, check_order
from lib.runs.stages.search import Search
from lib.runs.workbench import Workbench
from lib.tables import removal_table
from lib.training.devices import scope
from lib.training.distillation import Distillation
from lib.training.memory import keep_freed_memory
from lib.training.processes import join, meet

logger = logging.getLogger(__name__)

_SHOWN_SETS = 10  # of the plan, on the console; report.html has every layer


def run(
    config: Config,
    fresh: bool = False,
    verbose: int = 0,
    progress: Callable[[str], ProgressLine] | None = None,
) -> dict[str, Any]:
    """Runs the stages that the config names, or goes on where the run folder stands.

    Args:
        config: checked settings.
        fresh: start anew even if the folder holds a run; that one is moved aside.
        verbose: Keras' own display beside the log: 0 none, 1 a bar, 2 a line an epoch.
        progress: makes a bar for what is about to run.

    Returns:
        The content of `results.json`.

    Raises:
        ToolkitError: settings, data, weights or an earlier run in the folder do not fit; found before any training.

    """
    with allowing(**dict(config.LIMITS)):
        return _run(config, fresh, verbose, progress)


def _run(config: Config, fresh: bool, verbose: int, progress: Callable[[str], ProgressLine] | None) -> dict[str, Any]:
    keep_freed_memory()
    if config.TRAIN.distribution == "data_parallel":
        join(config.TRAIN.process_address, config.TRAIN.processes, config.TRAIN.process_index)
    keras.utils.set_random_seed(config.TRAIN.seed)
    with scope(config.TRAIN.num_gpu):
        start = wiring.chosen_model(config)
    stages = wiring.stages_of(config)
    forecast = _checked(config, stages, start)
    bench = wiring.workbench(config, start, load_data(wiring.data_settings(config)), verbose, progress)
    for stage in stages:
        stage.check_length(bench)
    search = next((stage for stage in stages if isinstance(stage, Search)), None)
    if search and search.work_for_chief(bench, common_start=bool(config.MODEL.pretrained_model)):
        return {"stages": [], "data": bench.data.description}

    folder = bench.folder
    if folder.writes:
        folder.open(config, fresh, bench.data.digest)
    meet("the run folder is open")
    folder.follow()
    try:
        return _run_stages(config, stages, bench, forecast)
    except OSError as error:  # elsewhere than at a checkpoint
        raise TrainingError(
            f"{folder.path}: {error.filename or 'a file'} cannot be read or written ({error.strerror}); make room, or "
            "mend it, and the same command goes on"
        ) from error
    finally:
        folder.release()


def _run_stages(config: Config, stages: Sequence[Stage], bench: Workbench, forecast: str) -> dict[str, Any]:
    """Runs what is left of the stages; returns the content of `results.json`, which it writes."""
    folder, state = bench.folder, bench.folder.state
    check_order(stages, state.finished, state.position.stage if state.position else None, str(folder.path))
    if (folder.path / "results.json").is_file():
        logger.info("%s holds a finished run: what is done is not done again; --fresh starts anew", folder.path)
    elif forecast:
        logger.info("what pruning will leave:\n%s", forecast)
    if config.TRAIN.vis and folder.writes:
        write_samples(folder.path / "samples.png", bench.batches(bench.data.train, augment=True))

    for stage in stages:
        if stage.name in folder.state.finished:
            logger.info("stage %s: already done", stage.name)
            continue
        logger.info("stage %s", stage.name)
        keras.utils.set_random_seed(config.TRAIN.seed)  # the same in all processes, whichever stages they worked at
        if folder.writes or stage.shared:
            stage.run(bench)
        if folder.writes and not stage.again:
            folder.state.finished.append(stage.name)
            folder.position = None
            folder.save_state()
        meet(f"{stage.name} is done")
        folder.follow()
    if not folder.writes:
        return {"stages": [], "data": bench.data.description}
    content = results_of(
        folder, bench.data.description, bench.detection, height_px=config.COST.hin, width_px=config.COST.win
    )
    file, page = folder.path / "results.json", folder.path / PAGE
    if read_part(file) != content:
        page.unlink(missing_ok=True)  # it shows what was there before
        write_json(file, content)
    if not page.is_file():
        measured = any(stage.name == "evaluate" for stage in stages)
        report_run(folder.path, bench.data.val if measured else None, bench.detection, bench.cost_size_px)
    return content


def _checked(config: Config, stages: Sequence[Stage], start: keras.Model) -> str:
    """What pruning at the set rates will leave, as a table; "" where there is none to foretell.

    Raises:
        ToolkitError: rates, ratios, a budget or a teacher do not fit the model; now, and not after hours.

    """
    training = wiring.trainer_settings(config, start)
    planned = wiring.choice(config)(start, config.PRUNE.rate)
    if training.sparsity:
        GroupSparsity(start, training.sparsity, named_ratios(start, training.sparsity_ratios)).detach()
    if training.distillation:
        Distillation(start, training.distillation)
    for stage in stages:
        stage.check(start)
    names = [stage.name for stage in stages]
    prunes = {"soft_prune", "shrink", "finetune"}.intersection(names) and "search" not in names
    rates = config.PRUNE.rate.values() if isinstance(config.PRUNE.rate, dict) else [config.PRUNE.rate]
    if prunes and any(rates) and not any(planned.channels.values()):
        raise ConfigError(
            f"PRUNE.rate = {config.PRUNE.rate} takes no channel out of this model with PRUNE.min_channels = "
            f"{config.PRUNE.min_channels} and PRUNE.channel_divisor = {config.PRUNE.channel_divisor}; lower these, or "
            "leave the stages out that prune"
        )
    if not prunes or planned.mode != "removable" or not any(planned.channels.values()):
        return ""
    costs = CostModel(inference_model(start), config.COST.hin, config.COST.win, planned.protected)
    return removal_table(removal_report(costs, planned), most=_SHOWN_SETS)
