"""The face-detector pruning toolkit; one noun a module, imports one way (CONTRIBUTING.md has the order)."""

__version__ = "0.1.0"
