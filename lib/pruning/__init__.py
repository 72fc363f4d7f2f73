"""Pruning of any functional Keras model of the supported layers: which channels, by what score, held how."""

from lib.pruning.cost_model import Cost, CostModel, removal_report
from lib.pruning.dead import combine, dead_channels
from lib.pruning.explain import Explanation, explain
from lib.pruning.graph.kinds import register
from lib.pruning.graph.sets import ChannelSet, channel_sets
from lib.pruning.masks import HeldMasks, Masks, apply_masks, zero_softly
from lib.pruning.plan import plan, plan_kept, scores
from lib.pruning.repair import RepairReport, recalibrate, repair
from lib.pruning.schedule import pruning_schedule
from lib.pruning.shrink import largest_difference, shrink
from lib.pruning.soft import SoftPruning
from lib.pruning.sparsity import GroupSparsity, endpoints
from lib.pruning.stepwise import prune_stepwise
from lib.pruning.zeros import RemovablePart, removable_part

__all__ = [
    "ChannelSet",
    "Cost",
    "CostModel",
    "Explanation",
    "GroupSparsity",
    "HeldMasks",
    "Masks",
    "RemovablePart",
    "RepairReport",
    "SoftPruning",
    "apply_masks",
    "channel_sets",
    "combine",
    "dead_channels",
    "endpoints",
    "explain",
    "largest_difference",
    "plan",
    "plan_kept",
    "prune_stepwise",
    "pruning_schedule",
    "recalibrate",
    "register",
    "removable_part",
    "removal_report",
    "repair",
    "scores",
    "shrink",
    "zero_softly",
]
