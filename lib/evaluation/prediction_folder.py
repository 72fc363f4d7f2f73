"""A detector over a folder of images -> one text file an image, in WIDER FACE's layout.

A result folder holds `<event>/<image>.txt` for `<event>/<image>.jpg` and `manifest.json`, which says what made them. A
run that stopped goes on with the images that have no file yet, and only with the same model, protocol and version.
Several processes may work in one folder, also from several machines: files are whole or absent, and each has its shard.
"""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from lib import __version__
from lib.arrays import FloatArray
from lib.data.annotations import is_file, read_annotations
from lib.data.images import image_files, read_rgb
from lib.detection.detector import FaceDetector, as_rgb
from lib.detection.formats import content_file
from lib.detection.protocols import PROTOCOLS
from lib.errors import DataError, ToolkitError
from lib.evaluation.prediction_files import prediction_name
from lib.evaluation.shards import Shard
from lib.files import create_json, is_left_half_written, read_json, sha256, write_text
from lib.geometry.suppression import best_first

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# What has to be the same for files of an earlier run to stay.
_IDENTITY = ("model_sha256", "protocol", "version")
# Writing a file takes milliseconds: one that is half written for so long is nobody's, whatever the clocks say.
_ABANDONED_S = 3600
_SHOWN_NAME = 500  # characters of an image's, which may be a line of anything


@dataclass(frozen=True)
class ImageFile:
    """One image to run on.

    Attributes:
        name: `<event>/<image>.jpg`, relative to the folder of images.
        path: where it is.

    """

    name: str
    path: Path

    @property
    def prediction(self) -> Path:
        """Where its predictions belong, relative to the result folder."""
        return Path(f"{prediction_name(self.name)}.txt")


def find_images(data_dir: str | os.PathLike[str], annotation: str | os.PathLike[str] | None = None) -> list[ImageFile]:
    """The images under `data_dir/images`, sorted by name, or those that an annotation file names, in its order.

    Args:
        data_dir: e.g. WIDER_val, with `images/<event>/<image>.jpg` in it.
        annotation: a file that `read_annotations` reads; its paths are relative to `data_dir/images` or to `data_dir`.

    Raises:
        DataError: there is no such folder, no image in it, an image of the annotation file is missing or outside of
            `data_dir`, or two images would share a prediction file.

    """
    data, root = Path(data_dir), Path(data_dir) / "images"
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; expected one with images/<event>/<image>.jpg in it, like WIDER_val")
    if annotation is not None:
        images = _annotated(data, root, annotation)
    elif not root.is_dir():
        raise DataError(
            f"{data}: has no folder images; give the folder above it (WIDER_val, not WIDER_val/images), or --annotation"
        )
    else:
        images = [ImageFile(path.relative_to(root).as_posix(), path) for path in image_files(root)]
    owner: dict[Path, str] = {}
    for image in images:
        other = owner.setdefault(image.prediction, image.name)
        if other != image.name:
            raise DataError(f"{other} and {image.name} would both be predicted into {image.prediction}; rename one")
    return images


def _annotated(data: Path, root: Path, annotation: str | os.PathLike[str]) -> list[ImageFile]:
    images, missing = {}, []
    for record in read_annotations(annotation, root, check_images=False):
        found = [(folder, folder / record.name) for folder in (root, data) if is_file(folder / record.name)]
        if not found:
            missing.append(record)
            continue
        folder, path = found[0]
        inside = [base for base in (root, folder) if path.resolve().is_relative_to(base.resolve())]
        if not inside:
            raise DataError(f"{record.origin}: {record.name} lies outside of {folder}; set --data_dir to its folder")
        name = path.resolve().relative_to(inside[0].resolve()).as_posix()
        images[name] = ImageFile(name, path)
    if missing:
        raise DataError(
            f"{missing[0].origin}: no image {missing[0].name[:_SHOWN_NAME]} in {root} or {data} ({len(missing)} "
            f"images of {annotation} are missing); check --data_dir, or remove these lines"
        )
    return list(images.values())


def prediction_text(name: str, detections: FloatArray) -> str:
    """WIDER FACE's text for one image: its name, the number of boxes, then `x y w h score` by descending score.

    Args:
        name: the first line; a line break in it becomes a space.
        detections: [n, 5] x1, y1, x2, y2 in pixels and score. Widths and heights are written as x2 - x1 + 1.

    """
    lines = [" ".join(name.splitlines()), str(len(detections))]
    for x1, y1, x2, y2, score in detections[best_first(detections[:, 4])].tolist():
        lines.append(f"{x1:.1f} {y1:.1f} {x2 - x1 + 1:.1f} {y2 - y1 + 1:.1f} {score:.3f}")
    return "\n".join(lines) + "\n"


def open_result(folder: str | os.PathLike[str], model: str | os.PathLike[str], protocol: str) -> str:
    """Starts a result folder, or goes on with one of the same model, protocol and version.

    A folder is started only for a model that could be opened, and thereby run: no other may use it from then on.

    Returns:
        SHA-256 of the model file.

    Raises:
        ModelError: there is no such model file, or it is no detector.
        DataError: the folder holds a result of something else, or other files.

    """
    result, model = Path(folder), Path(model)
    content = content_file(model)
    if result.exists() and not result.is_dir():
        raise DataError(f"{result}: a file; --result names a folder")
    ours = {"model": model.name, "model_sha256": sha256(content), "protocol": protocol, "version": __version__}
    manifest = result / MANIFEST
    if not manifest.exists():
        if _holds_something(result) and not manifest.exists():
            raise DataError(f"{result}: not empty, and no {MANIFEST} says what made its files; choose another --result")
        _detector(str(model), PROTOCOLS[protocol].max_detections, ours["model_sha256"])
        if create_json(manifest, ours):
            return ours["model_sha256"]
    try:
        content = read_json(manifest)
        theirs = {key: content[key] for key in ours}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{manifest}: no manifest of a result ({error!r}); choose another --result") from error
    differing = [key for key in _IDENTITY if theirs[key] != ours[key]]
    if differing:
        changes = "".join(f"\n  {key}: there {theirs[key]}, now {ours[key]}" for key in ["model", *differing])
        raise DataError(
            f"{result}: holds predictions of another {' and '.join(key.split('_')[0] for key in differing)}:{changes}\n"
            "Choose another --result, or remove this folder to start anew."
        )
    _remove_leftovers(result)
    return ours["model_sha256"]


def _holds_something(result: Path) -> bool:
    """Whether there is more in a folder than what another process, which starts it just now, writes first."""
    return result.exists() and any(not is_left_half_written(file.name, r"manifest\.json") for file in result.iterdir())


def _remove_leftovers(result: Path) -> None:
    """Removes what runs that were killed while writing left; not what another process is writing now."""
    for file in result.rglob(".*.part.*"):
        with suppress(FileNotFoundError):
            old = time.time() - file.stat().st_mtime > _ABANDONED_S
            if old and is_left_half_written(file.name, r".+\.(txt|json)"):
                file.unlink()


def predict(
    model: str | os.PathLike[str],
    images: Sequence[ImageFile],
    folder: str | os.PathLike[str],
    protocol: str,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    shard: Shard = Shard(),  # noqa: B008  (it cannot be changed)
) -> tuple[int, dict[str, str]]:
    """Writes the predictions of every image that has none yet in the result folder; see `open_result`.

    Args:
        model: a file that `FaceDetector` loads.
        protocol: a name in `PROTOCOLS`.
        workers: so many processes, each with a model of its own; the results are the same for any number.
        progress: called with (images done, images to do), those that were there already not counted.
        shard: only these of the images; others may be predicted at the same time, here or elsewhere.

    Returns:
        How many files were written, and for each image that could not be used the reason; it gets no file.

    Raises:
        ToolkitError: the model or the result folder cannot be used, or a worker was killed.

    """
    model_sha256 = open_result(folder, model, protocol)
    names = [image.name for image in images]
    shard.begin(folder, names)
    images = shard.of(images)
    pending = [image for image in images if not (Path(folder) / image.prediction).is_file()]
    if len(pending) < len(images):
        logger.info("%s: %d of %d images are there already", folder, len(images) - len(pending), len(images))
    tasks = [(str(model), model_sha256, protocol, image, Path(folder)) for image in pending]
    failures = {}
    for done, (name, failure) in enumerate(_outcomes(tasks, min(workers, len(tasks))), start=1):
        if failure is not None:
            failures[name] = failure
        if progress is not None:
            progress(done, len(pending))
    shard.end(folder, names)
    return len(pending) - len(failures), dict(sorted(failures.items()))


# Model file, its SHA-256, protocol, image, result folder.
Task = tuple[str, str, str, ImageFile, Path]
# An image's name, and why it cannot be used.
Outcome = tuple[str, str | None]


def _outcomes(tasks: list[Task], workers: int) -> Iterator[Outcome]:
    """Does all tasks and yields each one's outcome, in the order in which they end."""
    if workers <= 1:
        yield from map(_predict_one, tasks)
        return
    # Processes, because threads wait for each other in NMS and voting; spawned, because TensorFlow cannot be forked;
    # without an executor, because its shutdown can wait for ever after an interruption. Files are whole or absent, so
    # a worker may be ended at any time.
    context = multiprocessing.get_context("spawn")
    processes, open_pipes = [], []
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(tasks[number::workers], workers, sender), daemon=True)
            process.start()
            sender.close()
            processes.append(process)
            open_pipes.append(receiver)
        while open_pipes:
            for pipe in wait(open_pipes):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except EOFError:
                    raise ToolkitError(
                        "a worker process ended before its time, perhaps for want of memory; the same command goes on "
                        "from here, and fewer --workers need less memory"
                    ) from None
                if message is None:
                    open_pipes.remove(pipe)
                elif isinstance(message, ToolkitError):
                    raise message
                else:
                    yield message
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(tasks: list[Task], workers: int, sender: "Connection[Any, Any]") -> None:
    """A worker process: sends the outcome of each task, or the error that ended it, and at the end None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone answers an interruption
    # TensorFlow would start a thread a core in every process.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        for task in tasks:
            sender.send(_predict_one(task))
    except ToolkitError as error:
        sender.send(error)
        return
    sender.send(None)


def _predict_one(task: Task) -> Outcome:
    """Writes one image's predictions, unless it cannot be used."""
    model, model_sha256, protocol, image, folder = task
    detector = _detector(model, PROTOCOLS[protocol].max_detections, model_sha256)
    try:
        image_rgb = as_rgb(read_rgb(image.path))
    except (DataError, ValueError) as error:
        return image.name, str(error)
    detections = PROTOCOLS[protocol](detector, image_rgb)
    write_text(folder / image.prediction, prediction_text(image.name, detections))
    return image.name, None


@lru_cache(maxsize=1)
def _detector(model: str, max_detections: int, _model_sha256: str) -> FaceDetector:
    """The detector of this process; the hash tells a changed file from the one loaded."""
    detector = FaceDetector(model, max_detections=max_detections)
    # TensorFlow compiles for the first shape that it sees, for any shape from the second on, and the two round
    # differently. Two images that every process sees first make results independent of the order of the others.
    for height, width in ((16, 16), (24, 40)):
        detector(np.zeros((height, width, 3), np.uint8))
    return detector
