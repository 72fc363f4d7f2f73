import json
import multiprocessing
import os
import tomllib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lib
from lib.data.images import write_rgb
from lib.errors import DataError, ModelError, ToolkitError
from lib.evaluation import prediction_folder
from lib.evaluation.prediction_files import parse_predictions, prediction_name, read_predictions
from lib.evaluation.prediction_folder import find_images, open_result, predict, prediction_text
from lib.evaluation.shards import Shard
from lib.files import create_json
from lib.models import build, save
from tests import idle_worker
from tests.detectors import small_detector
from tests.networks import lively
from tests.shared import ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose step compiles in a second."""
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    save(lively(small_detector(), np.random.default_rng(1)), path)
    return path


@pytest.fixture(scope="module")
def eresfd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EResFD with statistics in its batch normalisation as if trained, so that rounding shows."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("eresfd") / "eresfd.keras"
    detector = build("eresfd", width_mult=1 / 64)
    detector.set_weights([weight + rng.uniform(-0.2, 0.2, weight.shape) for weight in detector.get_weights()])
    save(detector, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images of different sizes in two events."""
    rng = np.random.default_rng(0)
    root = tmp_path / "WIDER_val"
    for number in range(5):
        image = rng.integers(0, 256, (40 + 8 * number, 64, 3), np.uint8)
        write_rgb(root / "images" / f"{number % 2}--Event" / f"image_{number}.jpg", image)
    return root


THREE_TASKS: list[Any] = ["a", "b", "c"]  # for `idle_worker`, which passes the first on


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.txt")}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_text_is_in_the_official_format() -> None:
    detections = np.array([[1, 2, 3.06, 4, 0.1234], [10.25, 20, 30, 40, 0.98765]], np.float32)
    assert prediction_text("0--Parade/a.jpg", detections) == (
        "0--Parade/a.jpg\n2\n10.2 20.0 20.8 21.0 0.988\n1.0 2.0 3.1 3.0 0.123\n"
    )
    assert prediction_text("a.jpg", np.zeros((0, 5), np.float32)) == "a.jpg\n0\n"


def test_images_are_found_in_order(data: Path) -> None:
    (data / "images" / "notes.txt").write_text("no image")
    (data / "images" / "0--Event" / ".hidden.jpg").write_text("no image")
    images = find_images(data)
    assert [image.name for image in images] == [
        "0--Event/image_0.jpg",
        "0--Event/image_2.jpg",
        "0--Event/image_4.jpg",
        "1--Event/image_1.jpg",
        "1--Event/image_3.jpg",
    ]
    assert images[0].prediction == Path("0--Event/image_0.txt")
    assert all(image.path.is_file() for image in images)


def test_an_annotation_file_chooses_images_by_either_path(data: Path) -> None:
    chosen = data / "some.txt"
    chosen.write_text("1--Event/image_3.jpg| 1,2,3,4,1\nimages/0--Event/image_0.jpg|\n")
    assert [image.name for image in find_images(data, chosen)] == ["1--Event/image_3.jpg", "0--Event/image_0.jpg"]


def test_an_annotation_file_works_without_a_folder_images(data: Path) -> None:
    chosen = data / "some.txt"
    chosen.write_text("1--Event/image_3.jpg\n1\n1 2 3 4\n")
    assert [image.name for image in find_images(data / "images", chosen)] == ["1--Event/image_3.jpg"]


def test_wrong_folders_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no folder images; give the folder above it"):
        find_images(data / "images")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image in it"):
        find_images(tmp_path / "empty")


def test_missing_and_outside_images_of_an_annotation_file_are_named(data: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "some.txt"
    chosen.write_text("0--Event/image_0.jpg|\n0--Event/image_1.jpg|\n")
    with pytest.raises(DataError, match=r"some.txt:2: no image 0--Event/image_1.jpg .*\(1 images"):
        find_images(data, chosen)
    chosen.write_text("0--Event/image_0.jpg|\n" + "x" * 5000 + "|\n")
    with pytest.raises(DataError, match=r"some.txt:2: no image x+ in .*\(1 images") as error:
        find_images(data, chosen)
    assert len(str(error.value)) < 1200
    write_rgb(tmp_path / "other.jpg", np.zeros((20, 20, 3), np.uint8))
    chosen.write_text("../../other.jpg|\n")
    with pytest.raises(DataError, match=r"some.txt:1: .* lies outside"):
        find_images(data, chosen)


def test_two_images_for_one_prediction_file_are_an_error(data: Path) -> None:
    write_rgb(data / "images" / "0--Event" / "image_0.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"image_0.jpg and 0--Event/image_0.png would both"):
        find_images(data)


def test_the_manifest_says_what_made_the_files(model: Path, tmp_path: Path) -> None:
    open_result(tmp_path / "r", model, "single")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["protocol"] == "single"
    assert len(manifest["model_sha256"]) == 64
    assert manifest["version"] == lib.__version__
    assert lib.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_another_model_protocol_or_version_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "r"
    open_result(result, model, "single")
    open_result(result, model, "single")
    before = (result / "manifest.json").read_bytes()
    with pytest.raises(DataError, match=r"another protocol:(.|\n)*there single, now multiscale"):
        open_result(result, model, "multiscale")
    other = tmp_path / "other.keras"
    other.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"another model:(.|\n)*there tiny.keras, now other.keras"):
        open_result(result, other, "single")
    monkeypatch.setattr(prediction_folder, "__version__", "9.9")
    with pytest.raises(DataError, match=r"another version"):
        open_result(result, model, "single")
    assert (result / "manifest.json").read_bytes() == before


NAMELESS = json.dumps({"model_sha256": "", "protocol": "single", "version": lib.__version__})


@pytest.mark.parametrize("content", ["", "[]", "{}", NAMELESS, "[" * 100_000, "\xff"])
def test_a_damaged_manifest_is_named(model: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest.json: no manifest of a result"):
        open_result(tmp_path, model, "single")


def test_a_folder_of_other_files_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        open_result(tmp_path, model, "single")
    with pytest.raises(DataError, match=r"thesis.txt: a file"):
        open_result(tmp_path / "thesis.txt", model, "single")
    with pytest.raises(ModelError, match=r"no.keras: no such file"):
        open_result(tmp_path / "new", tmp_path / "no.keras", "single")
    assert not (tmp_path / "new").exists()


def test_every_image_gets_its_file(model: Path, data: Path, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    written, failures = predict(
        model, find_images(data), tmp_path / "r", "single", progress=lambda *done: shown.append(done)
    )
    assert (written, failures) == (5, {})
    assert shown == [(number, 5) for number in range(1, 6)]
    made = texts(tmp_path / "r")
    assert sorted(made) == sorted(str(image.prediction) for image in find_images(data))
    lines = made["0--Event/image_2.txt"].splitlines()
    assert lines[0] == "0--Event/image_2.jpg"
    assert len(lines) == 2 + int(lines[1]) > 2
    scores = [float(line.split()[4]) for line in lines[2:]]
    assert scores == sorted(scores, reverse=True)


def test_a_run_that_stopped_goes_on_with_what_is_missing(model: Path, data: Path, tmp_path: Path) -> None:
    images, result = find_images(data), tmp_path / "r"
    whole = tmp_path / "whole"
    predict(model, images, whole, "single")
    predict(model, images[:2], result, "single")
    kept = result / images[0].prediction
    kept.write_text("kept as it is\n")
    remains, being_written = (result / "0--Event" / f".image_4.{number}.part.txt" for number in (123, 124))
    for file in (remains, being_written):
        file.write_text("half a fi")
    os.utime(remains, (0, 0))
    assert predict(model, images, result, "single") == (3, {})
    assert kept.read_text() == "kept as it is\n"
    assert not remains.exists()
    being_written.unlink()  # by now perhaps another process is at it
    assert texts(result) == {**texts(whole), str(images[0].prediction): "kept as it is\n"}
    assert predict(model, images, result, "single") == (0, {})


def test_shards_together_are_the_whole(model: Path, data: Path, tmp_path: Path) -> None:
    images, whole, joined = find_images(data), tmp_path / "whole", tmp_path / "joined"
    predict(model, images, whole, "single")
    names = [prediction_name(image.name) for image in images]
    for number in (8, 3, 1, 2, 5, 6, 7):  # in any order; there are five images, so some are empty
        predict(model, images, joined, "single", shard=Shard(number, 8))
    with pytest.raises(DataError, match=r"shard 4/8 is missing.*\(1 of 5 images .*--shard 4/8"):
        read_predictions(joined, names, only_predicted=True)
    assert predict(model, images, joined, "single", shard=Shard(4, 8)) == (1, {})
    assert texts(joined) == texts(whole)
    assert len(read_predictions(joined, names)[0].scores) > 0
    assert predict(model, images, joined, "single") == (0, {})
    assert everything(joined) == everything(whole)


def test_what_shards_left_out_is_predicted_without(model: Path, data: Path, tmp_path: Path) -> None:
    images, whole, joined = find_images(data), tmp_path / "whole", tmp_path / "joined"
    predict(model, images, whole, "single")
    predict(model, images, joined, "single", shard=Shard(2, 3))
    assert predict(model, images, joined, "single") == (3, {})
    assert everything(joined) == everything(whole)


def test_two_processes_may_start_a_folder_at_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes first just before this one would write the manifest, or has not finished it yet."""
    started = open_result(tmp_path / "early", model, "single")
    (tmp_path / "early" / "manifest.json").rename(tmp_path / "early" / ".manifest.99.part.json")
    assert open_result(tmp_path / "early", model, "single") == started

    def other_first(path: Path, content: dict[str, str]) -> bool:
        create_json(path, {**content, "protocol": theirs})
        return create_json(path, content)

    monkeypatch.setattr(prediction_folder, "create_json", other_first)
    theirs = "single"
    assert open_result(tmp_path / "same", model, "single") == started
    theirs = "multiscale"
    with pytest.raises(DataError, match="there multiscale, now single"):
        open_result(tmp_path / "other", model, "single")


def test_what_was_interrupted_leaves_no_file(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        predict(model, find_images(data), tmp_path / "r", "single")
    assert texts(tmp_path / "r") == {}


def test_results_do_not_depend_on_the_images_before(eresfd: Path) -> None:
    """To the last bit, with one thread: the first image a process sees and later ones take the same computation."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 96, 3), np.uint8) for height in (64, 97)]
    rows = []
    for order in ([0, 1], [1, 0]):
        prediction_folder._detector.cache_clear()
        detector = prediction_folder._detector(str(eresfd), 750, "")
        found = {number: detector(images[number], 0.05) for number in order}
        rows.append([found[number] for number in range(2)])
    for forward, backward in zip(*rows, strict=True):
        np.testing.assert_array_equal(forward, backward)


def test_a_killed_worker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_folder, "_work", idle_worker.work)
    with pytest.raises(ToolkitError, match="ended before its time"):
        for _ in prediction_folder._outcomes(THREE_TASKS, 2):
            for process in multiprocessing.active_children():
                process.kill()
    assert not multiprocessing.active_children()


def test_an_interruption_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        for _ in prediction_folder._outcomes(THREE_TASKS, 2):
            assert multiprocessing.active_children()
            raise KeyboardInterrupt

    monkeypatch.setattr(prediction_folder, "_work", idle_worker.work)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not multiprocessing.active_children()


def test_results_do_not_depend_on_the_number_of_workers(model: Path, data: Path, tmp_path: Path) -> None:
    images = find_images(data)
    (data / "images" / "0--Event" / "image_2.jpg").write_bytes(b"no image")
    outcomes = [predict(model, images, tmp_path / str(workers), "multiscale", workers) for workers in (1, 2)]
    assert outcomes[0] == outcomes[1]
    assert texts(tmp_path / "1") == texts(tmp_path / "2")
    assert len(texts(tmp_path / "1")) == 4


def test_an_unusable_model_is_an_error_from_a_worker_too(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"nothing")
    for workers in (1, 2):
        with pytest.raises(ModelError, match=r"broken.keras: not a .keras model"):
            predict(broken, find_images(data), tmp_path / str(workers), "single", workers)


def test_a_model_that_cannot_be_opened_claims_no_folder(model: Path, data: Path, tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    save(keras.Model(image, keras.layers.ReLU()(image)), tmp_path / "other.keras")
    with pytest.raises(ModelError, match="no face detector"):
        predict(tmp_path / "other.keras", find_images(data), tmp_path / "r", "single")
    assert not (tmp_path / "r").exists()
    assert predict(model, find_images(data), tmp_path / "r", "single") == (5, {})


def test_unusable_images_are_named_and_the_run_goes_on(model: Path, data: Path, tmp_path: Path) -> None:
    cut = data / "images" / "0--Event" / "image_2.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    write_rgb(data / "images" / "0--Event" / "image_4.jpg", np.zeros((8, 40, 3), np.uint8))
    written, failures = predict(model, find_images(data), tmp_path / "r", "single")
    assert written == 3
    assert list(failures) == ["0--Event/image_2.jpg", "0--Event/image_4.jpg"]
    assert "cut short" in failures["0--Event/image_2.jpg"]
    assert "at least 16 px" in failures["0--Event/image_4.jpg"]
    assert sorted(texts(tmp_path / "r")) == ["0--Event/image_0.txt", "1--Event/image_1.txt", "1--Event/image_3.txt"]


def test_a_line_break_in_a_name_does_not_make_two_lines() -> None:
    text = prediction_text("a\nb\r\n.jpg", np.array([[1, 2, 3, 4, 0.5]]))
    assert text == "a b .jpg\n1\n1.0 2.0 3.0 3.0 0.500\n"
    parse_predictions(text.encode(), "x.txt")
