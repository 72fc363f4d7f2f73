"""Boxes and anchors as plain arrays."""
