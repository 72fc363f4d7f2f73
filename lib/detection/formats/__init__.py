"""The formats that a detector is written in and read from, a module each."""
