from collections.abc import Sequence

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.annotations import Record, read_annotations
from lib.data.images import read_rgb
from lib.data.scenes import SampleSet
from lib.data.sources import draw_readable
from lib.pruning import plan, plan_kept, repair, shrink
from lib.pruning.choice import Choice
from lib.pruning.graph.sets import Mode, channel_sets
from lib.runs.wiring import make_trainer
from lib.search.budget import Budget
from lib.search.groups import group_sets
from lib.search.oracle import Phase, Proposal
from lib.search.space import Space
from lib.search.trial_table import rates_of
from lib.search.trials import Remembered, Schooling, Trials
from lib.training.trainer import Trainer
from tests.detectors import small_detector

GROUPS: dict[Mode, dict[str, list[str]]] = {
    "removable": {"fine": ["conv1"], "coarse": ["conv3"]},
    "per_layer": {"fine": ["conv[12]"], "coarse": ["conv3"]},
}


@pytest.fixture(scope="module")
def records(samples: SampleSet) -> tuple[list[Record], list[Record]]:
    return (
        read_annotations(samples.train_annotations, samples.train_images),
        read_annotations(samples.val_annotations, samples.val_images),
    )


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size = 4
    keras.utils.set_random_seed(0)
    return make_trainer(small_detector(16), config)


@pytest.fixture(scope="module")
def space(trainer: Trainer) -> Space:
    budget = Budget("macs", trainer.model)
    return Space(budget.sets, group_sets(budget.sets, GROUPS["removable"]), budget.share, 0.02)


@pytest.fixture(scope="module")
def trials(trainer: Trainer, space: Space, records: tuple[list[Record], list[Record]]) -> Trials:
    return Trials(trainer, space, *records, schooling=Schooling(3, 5, 1e-3, 2), choice=Choice())


def _proposal(space: Space, direction: Sequence[float], phase: Phase = "random") -> Proposal:
    kept = space.solve(np.array(direction), 0.6)
    assert kept is not None
    return Proposal(0, phase, 0.6, kept)


def test_trials_repeat_and_differ_by_their_plans_alone(trials: Trials, space: Space) -> None:
    first, other = _proposal(space, [1, 1]), _proposal(space, [1, 0])
    before = trials(first)
    assert trials(other).val_loss != before.val_loss
    assert trials(first) == before


def test_the_plans_channels_stay_off(trials: Trials, trainer: Trainer, space: Space) -> None:
    proposal = _proposal(space, [0.3, 1])
    trials.restore()
    masks = plan(trainer.model, rates_of(space, proposal.kept))
    trials(proposal)
    kept = space.by_name(proposal.kept)
    for item in Budget("macs", trainer.model).sets:
        assert item.size - len(masks.channels[item.name]) == kept[item.name]
        for name in item.convolutions:
            filters = np.abs(np.asarray(trainer.model.get_layer(name).kernel)).sum(axis=(0, 1, 2))
            assert np.flatnonzero(filters == 0).tolist() == list(masks.channels[item.name])


def test_nothing_is_traced_again(trials: Trials, trainer: Trainer, space: Space) -> None:
    for direction in ([1, 1], [1, 0], [0.5, 1]):
        trials(_proposal(space, direction))
    trials(_proposal(space, [1, 1], "long"))
    assert trainer.traces == 1


def test_a_trial_starts_from_the_repaired_weights(
    trials: Trials, trainer: Trainer, space: Space, records: tuple[list[Record], list[Record]]
) -> None:
    trials.restore()
    plain, mended = (
        Trials(trainer, space, *records, schooling=Schooling(1, 1, 1e-9, 0, images), choice=Choice(), seed=1)
        for images in (0, 4)
    )
    proposal = _proposal(space, [1, 1])
    masks = plan_kept(trainer.model, space.by_name(proposal.kept))
    first = mended(proposal)
    small = shrink(trainer.model, masks)
    assert first != plain(proposal)
    plain.restore()
    own = shrink(trainer.model, masks)
    photographs = draw_readable(records[0], 4, 1)[0]
    images, boxes = [read_rgb(one.image) for one in photographs], [one.boxes_xyxy_px for one in photographs]
    repair(trainer.model, own, masks, images, boxes, seed=1)
    for mine, theirs in zip(small.trainable_weights, own.trainable_weights, strict=True):  # statistics have moved on
        np.testing.assert_allclose(mine, theirs, atol=1e-8 + 1e-4 * np.abs(theirs).max())
    mended.restore()
    assert mended(proposal) == first
    assert trainer.traces == 1


def test_restore_brings_the_snapshot_back(trials: Trials, trainer: Trainer, space: Space) -> None:
    trials.restore()
    before = trainer.model.get_weights()
    trials(_proposal(space, [1, 1]))
    trials.restore()
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        assert np.array_equal(a, b)
    trainer.train_steps(trials._train.dataset, 0, 1, 1e-3)
    for item in Budget("macs", trainer.model).sets:
        kernel = np.asarray(trainer.model.get_layer(item.name).kernel)
        assert np.abs(kernel).sum(axis=(0, 1, 2)).all(), "a mask is still held"


def test_longer_trials_train_longer(trials: Trials, space: Space) -> None:
    short, longer = (trials(_proposal(space, [1, 1], phase)) for phase in ("guided", "long"))
    assert short.val_loss != longer.val_loss


def test_average_precision_is_measured_on_the_trained_model(
    trainer: Trainer, space: Space, records: tuple[list[Record], list[Record]], trials: Trials
) -> None:
    trials.restore()
    seen: list[keras.Model] = []

    def measure(model: keras.Model) -> float:
        seen.append(model)
        return 0.25

    schooling = Schooling(1, 1, 1e-3, 0)
    judged = Trials(trainer, space, *records, schooling=schooling, choice=Choice(), average_precision=measure)
    found = judged(_proposal(space, [1, 1]))
    assert found.average_precision == 0.25
    assert seen == [trainer.model]


@pytest.mark.parametrize("mode", ["removable", "per_layer"])
def test_the_seed_of_a_random_choice_reaches_the_trials(
    trainer: Trainer, space: Space, records: tuple[list[Record], list[Record]], trials: Trials, mode: Mode
) -> None:
    trials.restore()
    if mode == "per_layer":
        sets = channel_sets(trainer.model, mode)
        space = Space(sets, group_sets(sets, GROUPS[mode]), lambda _: 0.6, 0.02)
        kept = tuple(item.size // 2 for item in sets)
    else:
        kept = _proposal(space, [1, 1]).kept
    proposal = Proposal(0, "random", 0.6, kept)
    masks = []
    for seed in (1, 2):
        choice = Choice("random", mode, seed=seed)
        other = Trials(trainer, space, *records, schooling=trials.schooling, choice=choice)
        masks.append(other._masks(proposal))
    assert masks[0] != masks[1]
    if mode == "removable":
        assert masks[1] == plan_kept(trainer.model, space.by_name(kept), "random", seed=2)
    else:
        assert masks[1] == plan(trainer.model, rates_of(space, kept), "random", mode, seed=2)


def test_remembered_batches_are_the_same(trainer: Trainer, records: tuple[list[Record], list[Record]]) -> None:
    plain = trainer.dataset(records[0], augment=True)
    kept = Remembered(trainer.dataset(records[0], augment=True))
    assert len(kept) == len(plain)
    for epoch in (0, 1):
        plain.epoch = kept.epoch = epoch
        for _ in range(2):
            assert np.array_equal(plain[1][0], kept[1][0])
    assert kept[1][0] is kept[1][0]
    forgetful = Remembered(trainer.dataset(records[0], augment=True), limit_bytes=0)
    assert forgetful[1][0] is not forgetful[1][0]
