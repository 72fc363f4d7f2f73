import pytest

from lib.errors import TrainingError
from lib.runs.stages.base import Stage, check_order
from lib.runs.workbench import Workbench


def _stages(*names: str) -> list[Stage]:
    class Any(Stage):
        needs = ()

        def run(self, bench: Workbench) -> None:
            raise AssertionError

    return [type(name, (Any,), {"name": name})() for name in names]


def _check(names: str, finished: str = "", begun: str | None = None) -> None:
    check_order(_stages(*names.split()), finished.split(), begun, "runs/a")


@pytest.mark.parametrize(
    ("names", "finished", "begun"),
    [
        ("pretrain soft_prune shrink finetune", "", None),
        ("pretrain soft_prune shrink finetune", "pretrain soft_prune", "shrink"),
        ("pretrain evaluate", "pretrain soft_prune finetune", None),
        ("pretrain finetune shrink", "pretrain finetune", None),
        ("pretrain shrink", "pretrain finetune", None),
    ],
)
def test_stages_can_be_added_behind_those_that_are_done(names: str, finished: str, begun: str | None) -> None:
    _check(names, finished, begun)


@pytest.mark.parametrize(
    ("names", "finished"),
    [
        ("pretrain soft_prune finetune shrink", "pretrain soft_prune shrink finetune"),
        ("pretrain soft_prune finetune", "pretrain finetune"),
        ("pretrain soft_prune", "pretrain shrink"),
        ("pretrain search", "pretrain soft_prune"),
    ],
)
def test_another_order_than_what_is_done_is_refused(names: str, finished: str) -> None:
    with pytest.raises(TrainingError, match=rf"runs/a: {', '.join(finished.split())} are done.*--fresh"):
        _check(names, finished)


def test_a_stage_that_was_begun_comes_next() -> None:
    with pytest.raises(TrainingError, match=r"in the middle of 'soft_prune', but TRAIN\.stages goes on with 'fin"):
        _check("pretrain finetune", "pretrain", "soft_prune")
    with pytest.raises(TrainingError, match="goes on with 'nothing'"):
        _check("pretrain", "pretrain", "soft_prune")


def test_what_a_stage_needs_is_named() -> None:
    (stage,) = _stages("evaluate")
    type(stage).needs = ("model",)
    with pytest.raises(TrainingError, match="the stage 'evaluate' needs model of an earlier stage"):
        check_order([stage], [], None, "runs/a")
