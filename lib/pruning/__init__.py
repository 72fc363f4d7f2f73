"""Pruning of any functional Keras model of the supported layers: which channels, by what score, held how."""

from lib.pruning.channels import ChannelSet, channel_sets
from lib.pruning.dead import combine, dead_channels
from lib.pruning.masks import HeldMasks, Masks, apply_masks, plan, zero_softly
from lib.pruning.prediction import Cost, CostModel
from lib.pruning.schedule import pruning_schedule
from lib.pruning.soft import SoftPruning
from lib.pruning.sparsity import GroupSparsity, endpoints

__all__ = [
    "ChannelSet",
    "Cost",
    "CostModel",
    "GroupSparsity",
    "HeldMasks",
    "Masks",
    "SoftPruning",
    "apply_masks",
    "channel_sets",
    "combine",
    "dead_channels",
    "endpoints",
    "plan",
    "pruning_schedule",
    "zero_softly",
]
