"""Pruning of any functional Keras model of the supported layers: which channels, by what score, held how."""

from lib.pruning.channels import ChannelSet, channel_sets
from lib.pruning.masks import HeldMasks, Masks, apply_masks, plan, zero_filters
from lib.pruning.soft import SoftPruning

__all__ = ["ChannelSet", "HeldMasks", "Masks", "SoftPruning", "apply_masks", "channel_sets", "plan", "zero_filters"]
