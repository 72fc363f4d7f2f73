"""The stages of a run, a class each."""
