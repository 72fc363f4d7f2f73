"""KerasTuner's oracle of the search: which plan comes next, what was tried, and how both survive a kill."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import keras_tuner
import numpy as np

from lib.arrays import FloatArray
from lib.errors import TrainingError
from lib.files import read_own, write_json
from lib.search.proposals import KINDS, Proposer, scattered
from lib.search.space import Kept, Space
from lib.search.surrogate import Surrogate

logger = logging.getLogger(__name__)

RUNNING, COMPLETED, FAILED, IDLE, STOPPED = "RUNNING", "COMPLETED", "FAILED", "IDLE", "STOPPED"
_ATTEMPTS = 200  # random directions before a target counts as exhausted
_GONE_S = 10.0  # a waiting worker asks every second; one that was silent for so long is gone

Phase = Literal["random", "probe", "guided", "long"]


@dataclass(frozen=True)
class Proposal:
    """One trial's plan.

    Attributes:
        number: of the trial, from 0.
        phase: how it was chosen; "long" trials repeat the best plans with longer training.
        target: the share of the budgeted quantity that it shall leave.
        kept: channels that stay, in the order of the space's sets.

    """

    number: int
    phase: Phase
    target: float
    kept: Kept


@dataclass(frozen=True)
class Finished:
    """A proposal and what came of it: the objective is maximised."""

    proposal: Proposal
    objective: float
    val_loss: float
    seconds: float


class SearchOracle(keras_tuner.Oracle):
    """Random plans first, then the uniform one, then those that a Gaussian process expects most of.

    Each proposal depends on the seed, its number and the trials finished before, and on nothing else; so a search
    that was killed goes on as if it had not been. Plans of the same channels are one trial. A failed trial is skipped.

    Args:
        space: the plans.
        targets: shares of the budgeted quantity to leave, served in turn; what is learned at one serves all.
        n_init_points: random plans.
        n_opt_iterations: guided plans.
        probing_offset: the probe's rate is 1 - target + this in every group where that meets the budget; otherwise it
            is the uniform rate that does.
        n_long: so many of each target's best plans are tried again at the end, with longer training.
        seed: of everything random.
        alpha, beta: see `Proposer`.
        on_finished: called with all finished trials, by number, after each one and after a reload.
        lease_s: with several workers: a trial whose worker is silent for this long, and for five times the longest
            trial, goes to another.

    """

    def __init__(
        self,
        space: Space,
        targets: Sequence[float],
        n_init_points: int,
        n_opt_iterations: int,
        *,
        probing_offset: float = 0.0,
        n_long: int = 0,
        seed: int = 0,
        alpha: float = 1e-4,
        beta: float | None = None,
        on_finished: Callable[[list[Finished]], None] | None = None,
        lease_s: float = 60.0,
    ) -> None:
        self.schedule: list[tuple[Phase, float]] = [
            *(("random", targets[i % len(targets)]) for i in range(n_init_points)),
            *(("probe", target) for target in targets),
            *(("guided", targets[i % len(targets)]) for i in range(n_opt_iterations)),
            *(("long", target) for target in targets for _ in range(n_long)),
        ]
        hyperparameters = keras_tuner.HyperParameters()
        for name in space.names:
            hyperparameters.Float(name, 0.0, 1.0)
        super().__init__(
            objective=keras_tuner.Objective("objective", "max"),
            max_trials=len(self.schedule),
            hyperparameters=hyperparameters,
            allow_new_entries=False,
            max_consecutive_failed_trials=len(self.schedule) + 1,
        )
        self.space, self.targets, self.seed = space, tuple(targets), seed
        self.alpha, self.beta = alpha, beta
        self.probing_offset, self.on_finished, self.lease_s = probing_offset, on_finished, lease_s
        self._surrogate: Surrogate | None = None
        self._proposers: dict[float, Proposer] = {}
        self._finished: dict[str, Finished] = {}  # what is finished does not change
        self._heard: dict[str, float] = {}  # worker -> when it last asked for a trial
        self.tuner_ids: set[str] = set()
        self.verbose = 0

    # --- proposals

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        number = int(trial_id)
        phase, target = self.schedule[number]
        kept = self._next(number, phase, target)
        if kept is None:
            logger.info("no further plan leaves %g; the search ends after %d trials", target, number)
            return {"status": STOPPED}
        rates = dict(zip(self.space.names, self.space.rates(kept).tolist(), strict=True))
        # The rates are for the eye: plans that differ in a channel may share them. The channels count.
        values = {**rates, "phase": phase, "target": float(target), "kept": json.dumps(kept)}
        return {"status": RUNNING, "values": values}

    def finished(self) -> list[Finished]:
        """All finished trials, by number; failed ones are left out."""
        done = [trial for _, trial in sorted(self.trials.items()) if trial.status == COMPLETED]
        for trial in done:
            if trial.trial_id not in self._finished:
                values = (float(trial.metrics.get_best_value(name)) for name in METRICS)
                self._finished[trial.trial_id] = Finished(proposal_of(trial), *values)
        return [self._finished[trial.trial_id] for trial in done]

    def expected(self) -> FloatArray:
        """What the process expected of each finished trial, as -objective, from those before it; NaN where unguided."""
        done = self.finished()
        values = -np.array([item.objective for item in done])
        expected = np.full(len(done), np.nan)
        if not done:
            return expected
        rates = self.space.rates([item.proposal.kept for item in done])
        for index, item in enumerate(done):
            if item.proposal.phase == "guided" and index >= 2:
                proposer = self._proposer(item.proposal.target)
                expected[index] = proposer.expected(rates[:index], values[:index], rates[index : index + 1])[0]
        return expected

    def _next(self, number: int, phase: Phase, target: float) -> Kept | None:
        if phase == "long":
            return self._next_long(target)
        rng = np.random.default_rng([self.seed, number])
        tried = {proposal_of(trial).kept for trial in self.trials.values()}
        if phase == "probe" and (kept := self._probe(target)) is not None and kept not in tried:
            return kept
        groups = len(self.space.names)
        directions = self._guided(target, rng) if phase == "guided" else np.zeros((0, groups))
        # One after the other of every kind; uniform directions hardly ever spare a group.
        turn = number // len(self.targets) % KINDS
        random = scattered(turn + _ATTEMPTS, self.space.may_go_whole, rng)[turn:]
        for direction in np.concatenate([directions, random]):
            kept = self.space.solve(direction, target)
            if kept is not None and kept not in tried:
                return kept
        return None

    def _probe(self, target: float) -> Kept | None:
        kept = self.space.counts(np.clip(1 - target + self.probing_offset, 0, self.space.max_rate))
        if self.probing_offset and self.space.meets(kept, target):
            return kept
        return self.space.solve(np.ones(len(self.space.names)), target, held=False)

    def _guided(self, target: float, rng: np.random.Generator) -> FloatArray:
        done, groups = self.finished(), len(self.space.names)
        if len(done) < 2:
            return np.zeros((0, groups))
        plans = [item.proposal.kept for item in done]
        running = [proposal_of(trial).kept for trial in self.ongoing_trials.values()]
        best = self._proposer(target).propose(
            self.space.rates(plans),
            -np.array([item.objective for item in done]),
            self.space.rates(running) if running else np.zeros((0, groups)),
            rng,
            eligible=np.array([item.proposal.target == target for item in done]),
        )
        return best / self.space.max_rate

    def _proposer(self, target: float) -> Proposer:
        if self._surrogate is None:
            self._surrogate = Surrogate(self.space)
        surrogate = self._surrogate
        if target not in self._proposers:
            self._proposers[target] = Proposer(
                self.space.may_go_whole, lambda points: surrogate.onto_budget(points, target), self.alpha, self.beta
            )
        return self._proposers[target]

    def _next_long(self, target: float) -> Kept | None:
        again = {item.kept for item in map(proposal_of, self.trials.values()) if item.phase == "long"}
        short = [item for item in self.finished() if item.proposal.phase != "long" and item.proposal.target == target]
        for item in sorted(short, key=lambda item: -item.objective):
            if item.proposal.kept not in again:
                return item.proposal.kept
        return None

    # --- one worker or many

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Any:
        now = monotonic()
        self._heard[tuner_id] = now
        lease = max(self.lease_s, 5 * max((item.seconds for item in self.finished()), default=float("inf")))
        for other, trial in list(self.ongoing_trials.items()):
            if other != tuner_id and now - self._heard.get(other, now) > lease:
                logger.warning("worker %s is silent for over %.0f s: trial %s goes on", other, lease, trial.trial_id)
                self.ongoing_trials.pop(other)
                self.tuner_ids.discard(other)
                self._retry_queue.append(trial.trial_id)
        others = [other for other in self.ongoing_trials if other != tuner_id]
        started = len(self.trials) >= len(self.schedule)
        waits_for_all = not started and self.schedule[len(self.trials)][0] == "long"
        if others and not self._retry_queue and tuner_id not in self.ongoing_trials and (started or waits_for_all):
            return keras_tuner.engine.trial.Trial(self.get_space(), status=IDLE)
        trial = super().create_trial(tuner_id)
        if trial.status == STOPPED:  # the chief ends when no worker is known any more
            self.tuner_ids = {other for other in self.tuner_ids if now - self._heard.get(other, -np.inf) < _GONE_S}
        return trial

    @keras_tuner.synchronized
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Any:
        if trial_id in self.end_order:  # a worker that was given up came back after all
            return self.trials[trial_id]
        return super().update_trial(trial_id, metrics, step)

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        if trial.trial_id in self.end_order:
            return
        known = self.trials[trial.trial_id]
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        trial.hyperparameters = known.hyperparameters  # the way to a worker and back rounds the rates
        super().end_trial(trial)
        if known.status == FAILED:
            logger.warning("trial %d failed and is skipped: %s", int(trial.trial_id), _last_line(trial.message))
        elif self.on_finished and known.status == COMPLETED:
            self.on_finished(self.finished())

    # --- files

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "alpha": self.alpha, "beta": self.beta}

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        write_json(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", trial.get_state())

    def reload(self) -> None:
        """Takes up the trials that are on disk; those that were running are run again.

        The trials' own files decide, because a kill may fall between their writing and the oracle's.
        """
        folder = Path(self._project_dir)
        remedy = f"restore it, or remove {folder} to search anew"
        for file in sorted(folder.glob("trial_*/trial.json")):
            content = read_own(file, dict[str, Any], TrainingError, remedy)
            try:
                trial = keras_tuner.engine.trial.Trial.from_state(content)
                proposal_of(trial)
            except Exception as error:  # KerasTuner checks nothing
                raise TrainingError(f"{file}: not as it was written ({error!r}); {remedy}") from error
            self.trials[trial.trial_id] = trial
            self._record_values(trial)
            self.start_order.append(trial.trial_id)
            if trial.status in (COMPLETED, FAILED):
                self.end_order.append(trial.trial_id)
            else:
                self._retry_queue.insert(0, trial.trial_id)  # taken from the end: the oldest first
        # A trial's number is how many came before it.
        if missing := set(range(len(self.trials))) - set(map(int, self.trials)):
            raise TrainingError(f"{folder}: trial {min(missing)} is missing; {remedy}")
        if done := self.finished():
            logger.info("the search goes on after %d finished trials", len(done))
            if self.on_finished:
                self.on_finished(done)


METRICS = ("objective", "val_loss", "seconds")


def proposal_of(trial: Any) -> Proposal:
    """What a trial stands for."""
    values: Mapping[str, Any] = trial.hyperparameters.values
    return Proposal(int(trial.trial_id), values["phase"], float(values["target"]), _channels(values["kept"]))


@lru_cache(4096)
def _channels(text: str) -> Kept:
    return tuple(json.loads(text))


def _last_line(message: str | None) -> str:
    lines = (message or "").strip().splitlines()
    return lines[-1] if lines else "no message"
