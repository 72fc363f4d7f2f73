"""The job: its stages, its folder, its results."""
