"""The stage that looks for rates under a budget."""

import logging

import keras

from lib.errors import ConfigError
from lib.runs.stages.base import Stage
from lib.runs.workbench import Workbench
from lib.search.run import Search as RateSearch
from lib.search.run import SearchSettings, check_search, found_rates, rates_file
from lib.search.tuner import role_from_environment

logger = logging.getLogger(__name__)


class Search(Stage):
    """Searches from the latest model; the stages after it prune at the rates found for the first target."""

    name = "search"
    leaves = ("rates",)

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings

    def check(self, start: keras.Model) -> None:
        check_search(self.settings, start)

    def run(self, bench: Workbench) -> None:
        trainer, folder = bench.trainer(), bench.folder.path
        trainer.held.release()
        found_rates(self.settings, trainer, bench.data.train, folder, bench.average_precision)
        bench.folder.state.rates = rates_file(folder, self.settings.targets[0]).name

    def work_for_chief(self, bench: Workbench, common_start: bool) -> bool:
        """Runs the search's trials for a chief elsewhere if the environment says so; False if it does not.

        Args:
            common_start: whether the first model is the same in every process.

        Raises:
            ConfigError: the processes of a search on many machines have no common weights to start from.

        """
        role = role_from_environment()
        if role != "alone" and not common_start:
            raise ConfigError("a search on many machines starts from MODEL.pretrained_model, the same in every process")
        if role != "worker":
            return False
        measure = bench.average_precision
        RateSearch(self.settings, bench.trainer(), bench.data.train, bench.folder.path, average_precision=measure).run()
        return True
