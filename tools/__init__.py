"""The command-line tools; each is run as `python tools/NAME.py`."""
