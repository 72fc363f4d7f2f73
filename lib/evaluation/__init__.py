"""Boxes become average precision; two models are compared."""
