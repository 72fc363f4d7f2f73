"""Several processes, on one machine or on many, that train one model by `keras.distribution`; JAX only.

Every process computes the same stages, each with its rows of every batch; the first one alone writes.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras

from lib.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20  # a process that is silent for so long is gone; JAX then ends the others
_LONGEST_STAGE_S = 7 * 24 * 3600  # of those that the first process works at alone
_GONE = ("gloo", "nccl", "coordination", "heartbeat", "connection", "unavailable:", "barrier")


@dataclass(frozen=True)
class Processes:
    """How many share the training, and which of them this is, from 0."""

    count: int = 1
    index: int = 0

    @property
    def first(self) -> bool:
        return self.index == 0


@dataclass
class _Present:
    """What this process is part of: one cannot leave and join another."""

    processes: Processes = Processes()
    distribution: Any = None


_present = _Present()


def present() -> Processes:
    """The processes that this one has joined; alone without `join`."""
    return _present.processes


def join(address: str = "", count: int = 0, index: int = -1) -> Processes:
    """Joins the processes that train together, and shares batches over all of their devices from now on.

    To be called before anything is computed. One process with several devices needs no address.

    Args:
        address: HOST:PORT of the first process; "": KERAS_DISTRIBUTION_JOB_ADDRESSES, or what Slurm or Open MPI says.
        count: of processes; 0: KERAS_DISTRIBUTION_NUM_PROCESSES, or the same.
        index: of this one, from 0; -1: KERAS_DISTRIBUTION_PROCESS_ID, or the same.

    Raises:
        ConfigError: the backend is another, or the three do not go together.
        TrainingError: the others do not answer.

    """
    if _present.distribution is not None:
        return _present.processes
    if keras.backend.backend() != "jax":
        raise ConfigError(
            f"TRAIN.distribution = 'data_parallel' needs KERAS_BACKEND=jax, this is {keras.backend.backend()}; on "
            "TensorFlow, TRAIN.num_gpu shares batches over the GPUs of one machine"
        )
    names = ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_NUM_PROCESSES", "KERAS_DISTRIBUTION_PROCESS_ID")
    values = [os.environ.get(name, "") for name in names]
    address = (address or values[0]).split(",")[0]
    count = count or _number(names[1], values[1], 0)
    index = index if index >= 0 else _number(names[2], values[2], -1)
    if count != 1 and (address or count or index >= 0 or "SLURM_JOB_ID" in os.environ):
        if address and (count < 1 or not 0 <= index < count):
            raise ConfigError(
                f"{count} processes and the index {index} do not go together: set TRAIN.processes and "
                f"TRAIN.process_index, or {names[1]} and {names[2]} (from 0), in every process"
            )
        _initialize(address or None, count or None, index if index >= 0 else None)
    jax = import_module("jax")
    _present.distribution = _data_parallel()
    _present.processes = Processes(jax.process_count(), jax.process_index())
    logger.info("process %d of %d, %d devices in all", jax.process_index() + 1, jax.process_count(), jax.device_count())
    return _present.processes


def _number(name: str, text: str, otherwise: int) -> int:
    if text and not text.isdigit():
        raise ConfigError(f"{name} = {text!r}: expected a number")
    return int(text) if text else otherwise


def _initialize(address: str | None, count: int | None, index: int | None) -> None:
    jax = import_module("jax")
    # Between processes JAX's CPU devices need an implementation; GPUs have theirs.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Gloo confuses what a step exchanges with what is sent meanwhile, and ends the process: one thing at a time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        # What keras.distribution.initialize calls; that has no argument for the heartbeat, whose default is 100 s.
        jax.distributed.initialize(
            address,
            count,
            index,
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=HEARTBEAT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {index} of {count} cannot join the others at {address} ({str(error).splitlines()[0]}); is the "
            "first one running, and can its port be reached? Names: TRAIN.process_address, TRAIN.processes and "
            "TRAIN.process_index"
        ) from error


def _data_parallel() -> Any:
    class DataParallel(keras.distribution.DataParallel):
        """Shares batches over all devices, or, where `whole` is set, gives every device all of them."""

        whole = False

        def get_data_layout(self, data_shape: Any) -> Any:
            if self.whole:
                return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
            return super().get_data_layout(data_shape)

    return DataParallel(auto_shard_dataset=False)


def distributed() -> AbstractContextManager[None]:
    """Inside, models and optimisers are made, and steps taken, on all devices of all processes."""
    return _present.distribution.scope() if _present.distribution is not None else nullcontext()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process computes for itself, as where it writes a file: what it makes is on its own device."""
    before = keras.distribution.distribution() if _present.distribution is not None else None
    if before is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


@contextmanager
def whole_batches() -> Iterator[None]:
    """`distributed`, with all images on every device: for batches of any size, which cannot be shared evenly."""
    with distributed():
        if _present.distribution is None:
            yield
            return
        _present.distribution.whole = True
        try:
            yield
        finally:
            _present.distribution.whole = False


def share_of(batch_size: int) -> tuple[int, int]:
    """First row, and the one after the last, that this process loads of every batch.

    Raises:
        ConfigError: the devices cannot share a batch evenly.

    """
    if _present.distribution is None:
        return 0, batch_size
    devices = _present.distribution.num_model_replicas
    if batch_size % devices:
        raise ConfigError(
            f"batches of {batch_size} images cannot be shared by {devices} devices; set TRAIN.batch_size to a multiple"
        )
    rows = batch_size // present().count
    return present().index * rows, (present().index + 1) * rows


def meet(place: str) -> None:
    """Waits for all processes to come here.

    Raises:
        TrainingError: one of them has ended.

    """
    if present().count > 1:
        # multihost_utils.sync_global_devices waits in a collective, which gloo gives up after 30 s.
        client = import_module("jax._src.distributed").global_state.client
        with others_there():
            client.wait_at_barrier(place, _LONGEST_STAGE_S * 1000)


@contextmanager
def others_there() -> Iterator[None]:
    """Turns what JAX raises when another process has ended into a TrainingError."""
    try:
        yield
    except Exception as error:
        text = str(error).lower()
        if present().count == 1 or isinstance(error, TrainingError) or not any(word in text for word in _GONE):
            raise
        raise TrainingError(
            f"process {present().index} of {present().count}: another process of this training has ended, or cannot "
            f"be reached ({str(error).splitlines()[0][:200]}); start the same command in all of them again: it goes on "
            "from the last checkpoint"
        ) from error
