"""Damaged inputs for every door, by a seed: what a file may have become, or what somebody may take for one."""

import json
import logging
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lib.config import Config, load_config
from lib.data.annotations import read_annotations
from lib.data.fit import read_fitting
from lib.data.images import read_rgb, write_rgb
from lib.data.scenes import ensure_samples
from lib.errors import DataError, ToolkitError
from lib.evaluation.prediction_files import read_predictions
from lib.files import write_json
from lib.models.pth import read_pth
from lib.models.soundness import check_archive
from lib.runs.folder import RunFolder
from lib.runs.state import Row
from lib.training.position import Best, Position

SLOW_S = 10.0  # of computing
LONGEST_MESSAGE = 3000

_TOKENS = (
    *("0", "-1", "1e39", "nan", "inf", "1_0", "1e999", "99999999999999999999", "0x1", "", " ", "\n", "|", ",", "null"),
    *("\u0663", "\0", "\ufeff", "[]", "{}", '"', "true", "\u2028", "x" * 5000, "../../x", "[" * 3000),
)
_VALUES: tuple[Any, ...] = (None, True, -1, 0, 3.7, 1e300, 2**70, "", "x", [], {}, [[]], {"__class__": {}}, "nan")


@dataclass(frozen=True)
class Case:
    """One damaged input.

    Attributes:
        door: what it is given to.
        what: how it was made.
        attempt: gives it to the door.
        keep: a folder of somebody else beside it, which must stay as it is.

    """

    door: str
    what: str
    attempt: Callable[[], object]
    keep: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "accepted", "counted warning", "clean error" or "fault", and what was said."""

    kind: str
    said: str


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def judge(case: Case) -> Outcome:
    """Gives a case to its door, and judges what happens."""
    heard, root = _Heard(), logging.getLogger()
    before, start = _content(case.keep), time.process_time()
    root.addHandler(heard)
    try:
        case.attempt()
        outcome = Outcome("counted warning", heard.said[0]) if heard.said else Outcome("accepted", "")
    except ToolkitError as error:
        clean = len(str(error)) <= LONGEST_MESSAGE
        outcome = Outcome("clean error" if clean else "fault", str(error)[:LONGEST_MESSAGE])
    except Exception as error:
        outcome = Outcome("fault", f"{type(error).__name__}: {str(error)[:300]}")
    finally:
        root.removeHandler(heard)
    if _content(case.keep) != before:
        return Outcome("fault", "a file of somebody else is gone or changed")
    if time.process_time() - start > SLOW_S:
        return Outcome("fault", f"took {time.process_time() - start:.0f} s")
    return outcome


def _content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return {str(path): path.read_bytes() for path in files}


def cases(seed: int, count: int, folder: Path, start: int = 0) -> Iterator[Case]:
    """The cases from `start` up to `count`, in turn for all doors; each depends on the seed and its number alone.

    Each has a folder of its own below `folder`.
    """
    doors = list(_DOORS.items())
    for number in range(start, count):
        rng = np.random.default_rng([seed, number])
        door, make = doors[number % len(doors)]
        place = folder / f"{door.replace(' ', '_')}_{number}"
        keep = place / "somebody" / "thesis.txt"
        keep.parent.mkdir(parents=True)
        keep.write_text("precious")
        what, attempt = make(rng, place)
        yield Case(door, f"seed {seed}, case {number}: {what}", attempt, keep.parent)
        shutil.rmtree(place, ignore_errors=True)


# --- damage


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Bytes with one to three damages of some kind, and their names."""
    names = []
    for _ in range(rng.integers(1, 4)):
        kind = str(rng.choice(["cut", "flip", "zero", "insert", "repeat", "drop", "number", "grow"]))
        start = int(rng.integers(0, len(data) + 1))
        end = min(len(data), start + int(rng.integers(1, 64)))
        token = str(rng.choice(_TOKENS)).encode()
        if kind == "cut":
            data = data[:start]
        elif kind == "flip" and start < len(data):
            data = data[:start] + bytes([data[start] ^ 1 << int(rng.integers(8))]) + data[start + 1 :]
        elif kind == "zero":
            data = data[:start] + bytes(end - start) + data[end:]
        elif kind == "insert":
            data = data[:start] + token + data[start:]
        elif kind == "repeat":
            data = data[:end] + data[start:end] * int(rng.integers(1, 9)) + data[end:]
        elif kind == "drop":
            data = data[:start] + data[end:]
        elif kind == "number":
            value = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            data = data[:start] + struct.pack(str(rng.choice([">I", "<I"])), value) + data[start + 4 :]
        else:
            data += token * int(rng.integers(1, 9))
        names.append(f"{kind} at {start}")
    return ", ".join(names), data


def damaged_text(text: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Text with a number or a line changed, or damaged as bytes."""
    if rng.random() < 0.3:
        return damaged(text.encode(), rng)
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    kind = str(rng.choice(["word", "drop line", "double line", "swap lines", "scale"]))
    if kind == "word":
        words = lines[at].split(" ")
        words[int(rng.integers(len(words)))] = str(rng.choice(_TOKENS))
        lines[at] = " ".join(words)
    elif kind == "drop line":
        del lines[at]
    elif kind == "double line":
        lines.insert(at, lines[at])
    elif kind == "swap lines":
        other = int(rng.integers(len(lines)))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        factor = float(rng.choice([1 / 640, 8, -1, 1e30]))
        lines = [_scaled(line, factor) for line in lines]
    return f"{kind} {at}", "\n".join(lines).encode()


def _scaled(line: str, factor: float) -> str:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return line
    return " ".join(f"{number * factor:g}" for number in numbers) if len(numbers) > 3 else line


def damaged_json(content: Any, rng: np.random.Generator) -> tuple[str, bytes]:
    """JSON with one part of another type, or without it, or damaged as text."""
    if rng.random() < 0.3:
        return damaged(json.dumps(content).encode(), rng)
    content = json.loads(json.dumps(content))
    place, path = content, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(rng.integers(len(keys)))]
        path.append(str(key))
        if not (isinstance(place[key], dict | list) and place[key]) or rng.random() < 0.2:
            break
        place = place[key]
    if rng.random() < 0.25:
        del place[key]
        return f"without {'.'.join(path)}", json.dumps(content).encode()
    value = _VALUES[int(rng.integers(len(_VALUES)))]
    place[key] = value
    return f"{'.'.join(path)} = {value!r}", json.dumps(content).encode()


# --- doors


Made = tuple[str, Callable[[], object]]


def _scene(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (int(rng.integers(16, 90)), int(rng.integers(16, 90)), 3), dtype=np.uint8)


def _image(rng: np.random.Generator, place: Path) -> Made:
    suffix = str(rng.choice([".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".ppm"]))
    done, data = cv2.imencode(suffix if suffix != ".gif" else ".png", _scene(rng))
    assert done
    what, content = damaged(data.tobytes(), rng)
    (place / f"a{suffix}").write_bytes(content)
    return f"{suffix}: {what}", lambda: read_rgb(place / f"a{suffix}")


_OFFICIAL = "a.png\n2\n10 12 20 24 0 0 0 0 0 0\n1 2 9.5 8 0 0 0 1 0 0\nb.png\n0\n0 0 0 0 0 0 0 0 0 0\n"
_LINES = "a.png| 10,12,30,36,1 1,2,10,10,1\nb.png|\n"
_RETINAFACE = f"# a.png\n10 12 20 24 15 20 0 25 21 1 20 25 0 16 30 0 24 31 0 0.8\n1 2 9.5 8{' -1' * 15} 0.1\n# b.png\n"


def _annotations(rng: np.random.Generator, place: Path) -> Made:
    texts = {"official": _OFFICIAL, "lines": _LINES, "retinaface": _RETINAFACE}
    kind = str(rng.choice(list(texts)))
    what, content = damaged_text(texts[kind], rng)
    (place / "gt.txt").write_bytes(content)
    write_rgb(place / "a.png", np.zeros((48, 64, 3), np.uint8))
    write_rgb(place / "b.png", np.zeros((48, 64, 3), np.uint8))

    def read() -> None:
        for record in read_annotations(place / "gt.txt", place):
            boxes = record.boxes_xyxy_px
            if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
                raise RuntimeError(f"boxes {boxes.tolist()}")
            points = record.landmarks_px
            if points is not None and (
                points.shape != (len(boxes), 5, 2) or (np.isnan(points) != np.isnan(points[:, :1, :1])).any()
            ):
                raise RuntimeError(f"landmarks {points.tolist()}")
            read_fitting(record)

    return f"{kind}: {what}", read


def _predictions(rng: np.random.Generator, place: Path) -> Made:
    files = {f"e/{name}.txt": f"{name}\n2\n10 12 20 24 0.9\n1.5 2 9 8 0.1\n" for name in ("a", "b")}
    name = str(rng.choice(list(files)))
    what, content = damaged_text(files[name], rng)
    data = {key: text.encode() for key, text in files.items()} | {name: content}
    zipped = bool(rng.integers(2))
    if zipped:
        with zipfile.ZipFile(place / "r.zip", "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as made:
            for key, text in data.items():
                made.writestr(key, text)
        if rng.random() < 0.7:
            what, packed = damaged((place / "r.zip").read_bytes(), rng)
            (place / "r.zip").write_bytes(packed)
    else:
        (place / "e").mkdir()
        for key, text in data.items():
            (place / key).write_bytes(text)

    def read() -> None:
        found, _ = read_predictions(place / "r.zip" if zipped else place, ["e/a", "e/b"])
        if not np.isfinite(found.boxes_xyxy_px).all() or not np.isfinite(found.scores).all():
            raise RuntimeError(f"detections {found.boxes_xyxy_px.tolist()}")

    return f"{'zip' if zipped else 'folder'}: {what}", read


def _config(rng: np.random.Generator, place: Path) -> Made:
    settings = Config().model_dump(mode="json")
    if rng.random() < 0.5:
        what, content = damaged_json({"config": settings}, rng)
        (place / "config.json").write_bytes(content)
        return what, lambda: load_config(place / "config.json")
    section = str(rng.choice(list(settings)))
    key = str(rng.choice(list(settings[section])))
    override = f"{section}.{key}={rng.choice(_TOKENS)}"
    write_json(place / "config.json", settings)
    return override[:60], lambda: load_config(place / "config.json", [override])


def _pth(rng: np.random.Generator, place: Path) -> Made:
    pickle = b"\x80\x02}q\x00X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
    pickle += b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89}tRs."
    what = "whole"
    if rng.random() < 0.6:
        what, pickle = damaged(pickle, rng)
    with zipfile.ZipFile(place / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    if what == "whole":
        what, content = damaged((place / "w.pth").read_bytes(), rng)
        (place / "w.pth").write_bytes(content)
    return what, lambda: read_pth(place / "w.pth")


def _keras_archive(rng: np.random.Generator, place: Path) -> Made:
    import h5py

    with h5py.File(place / "w.h5", "w") as weights:
        weights["layers/conv/vars/0"] = np.ones((3, 3, 3, 4), np.float32)
    config = {"class_name": "Functional", "config": {"layers": [{"name": "conv", "config": {"filters": 4}}]}}
    what, content = damaged_json(config, rng)
    packed = (place / "w.h5").read_bytes()
    if rng.random() < 0.5:
        what, packed = damaged(packed, rng)
        content = json.dumps(config).encode()
    with zipfile.ZipFile(place / "m.keras", "w") as archive:
        archive.writestr("config.json", content)
        archive.writestr("model.weights.h5", packed)
    return what, lambda: check_archive(place / "m.keras")


def _run_folder(rng: np.random.Generator, place: Path) -> Made:
    run, config = place / "run", Config()
    folder = RunFolder(run)
    folder.open(config)
    for name in ("epoch_1.keras", "optimized/pretrain.keras", "masks.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(f'{{"mode": "removable", "channels": {{"{name}": [1]}}, "protected": []}}')
    folder.state.finished, folder.state.rows = ["pretrain"], [Row("pretrain", 0.1, 1, 1)]
    folder.history = [{"epoch": 1, "stage": "finetune", "val_loss": 0.5}]
    folder.position = Position("finetune", 1, 0, Best(1, 0.5))
    folder.save_state()
    folder.release()
    name = str(rng.choice(["state.json", "config.json", "masks.json", "epoch_1.keras"]))
    if name.endswith("json") and name != "masks.json":
        what, content = damaged_json(json.loads((run / name).read_text()), rng)
    else:
        what, content = damaged((run / name).read_bytes(), rng)
    changed = content != (run / name).read_bytes()
    (run / name).write_bytes(content)
    if rng.random() < 0.2:
        shutil.copytree(place / "somebody", run / "somebody")
    fresh = bool(rng.random() < 0.3)

    def go_on() -> None:
        again = RunFolder(run)
        again.open(config, fresh)
        again.release()
        if changed and not fresh and name in ("masks.json", "epoch_1.keras"):
            raise RuntimeError(f"goes on with another {name}")

    return f"{name}{' --fresh' if fresh else ''}: {what}", go_on


def _foreign_folder(rng: np.random.Generator, place: Path) -> Made:
    """Somebody's folder that looks like one of ours in some file; nothing in it may change."""
    folder = place / "somebody"
    names = ["manifest.json", "config.json", "state.json", ".x.part.y", ".epoch_1.7.part.keras", "epoch_3.keras"]
    contents = [
        "",
        "{}",
        '{"config": {}}',
        '{"version": 1, "seed": 0}',
        '{"model": "m", "protocol": "single"}',
        "cut sho",
    ]
    for name in rng.choice(names, int(rng.integers(1, 4)), replace=False):
        (folder / str(name)).write_text(str(rng.choice(contents)))
    if rng.integers(2):
        return "as samples", lambda: _refused(lambda: ensure_samples(folder, 0, 1, 1))
    fresh = bool(rng.integers(2))
    return f"as a run, fresh {fresh}", lambda: _refused(lambda: RunFolder(folder).open(Config(), fresh))


def _refused(attempt: Callable[[], object]) -> None:
    attempt()
    raise RuntimeError("a foreign folder is taken")


def _samples(rng: np.random.Generator, place: Path) -> Made:
    """A sample set in which a file is damaged is never replaced."""
    folder = place / "samples"
    ensure_samples(folder, 0, 1, 1)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[int(rng.integers(len(files)))]
    what, content = damaged(file.read_bytes(), rng)
    same = content == file.read_bytes()
    file.write_bytes(content)

    def ask_for_another() -> None:
        try:
            ensure_samples(folder, 1, 1, 1)
        except DataError:
            if file.read_bytes() != content:
                raise RuntimeError("a changed set is touched") from None
            raise
        if not same:
            raise RuntimeError("a changed set is replaced")

    return f"{file.name}: {what}", ask_for_another


_DOORS: dict[str, Callable[[np.random.Generator, Path], Made]] = {
    "image": _image,
    "annotations": _annotations,
    "predictions": _predictions,
    "config": _config,
    "pth": _pth,
    "keras archive": _keras_archive,
    "run folder": _run_folder,
    "foreign folder": _foreign_folder,
    "sample set": _samples,
}
