"""The search for pruning rates: groups of channel sets, plans that meet a budget, and a tuner that tries them."""
