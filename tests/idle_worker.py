"""A worker process that starts in no time: it imports nothing of the toolkit."""

import time
from multiprocessing.connection import Connection
from typing import Any


def work(tasks: list[Any], _workers: int, sender: "Connection[Any, Any]") -> None:
    """Sends the outcome of its first task and then does nothing until it is ended."""
    sender.send((tasks[0], None))
    time.sleep(3600)
