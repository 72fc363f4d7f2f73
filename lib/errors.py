"""Errors whose message is meant for the person at the keyboard.

Entry points print the message of a `ToolkitError` without a traceback and exit with 2. Every message says what was
expected, what was received, where (file and line) and what to do about it.
"""


class ToolkitError(Exception):
    """Base of all errors that the user, not the programmer, can mend."""


class ConfigError(ToolkitError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ToolkitError):
    """An annotation file, an image or a data folder cannot be used."""


class ModelError(ToolkitError):
    """A model or weights file cannot be used."""


class TrainingError(ToolkitError):
    """Training cannot go on (a non-finite loss, a run folder of other settings)."""
