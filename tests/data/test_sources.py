from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.data.scenes import SampleSet
from lib.data.sources import DataSettings, draw_readable, load_data
from lib.errors import DataError


@pytest.fixture
def settings(samples: SampleSet) -> DataSettings:
    return DataSettings(
        train_annotations=samples.train_annotations,
        train_images=samples.train_images,
        val_annotations=samples.val_annotations,
        val_images=samples.val_images,
    )


def test_faces_to_find_are_required(settings: DataSettings, samples: SampleSet, tmp_path: Path) -> None:
    faceless = tmp_path / "val.txt"
    name = next(samples.val_images.rglob("*.jpg")).relative_to(samples.val_images)
    faceless.write_text(f"{name}\n0\n")
    with pytest.raises(DataError, match="no face in the 1 validation images"):
        load_data(replace(settings, val_annotations=faceless))


def test_subsets_are_drawn_by_the_seed(settings: DataSettings) -> None:
    settings = replace(settings, train_size=5)
    names = [record.name for record in load_data(settings).train]
    assert len(names) == 5
    assert names == [record.name for record in load_data(settings).train]
    assert names != [record.name for record in load_data(replace(settings, seed=1)).train]


def test_the_digest_is_of_the_content_wherever_it_lies(
    settings: DataSettings, samples: SampleSet, tmp_path: Path
) -> None:
    whole = load_data(settings)
    moved = tmp_path / "moved.txt"
    moved.write_text(samples.train_annotations.read_text())
    assert load_data(replace(settings, train_annotations=moved)).digest == whole.digest
    assert load_data(replace(settings, train_size=5)).digest != whole.digest
    other = replace(whole.train[0], boxes_xyxy_px=whole.train[0].boxes_xyxy_px + 1)
    assert replace(whole, train=[other, *whole.train[1:]]).digest != whole.digest
    assert replace(whole, train=whole.val, val=whole.train).digest != whole.digest
    points = np.zeros((len(whole.train[0].boxes_xyxy_px), 5, 2), np.float32)
    digests = {whole.digest}
    for landmarks in (points, points + 1, points + np.float32(np.nan)):
        marked = replace(whole.train[0], landmarks_px=landmarks)
        digests.add(replace(whole, train=[marked, *whole.train[1:]]).digest)
    assert len(digests) == 4


def test_photographs_without_labels_are_all_in_the_folder(settings: DataSettings, samples: SampleSet) -> None:
    data = load_data(replace(settings, train_annotations="", train_size=3))
    assert data.description.startswith(f"{samples.train_images} without labels and ")
    assert len(data.train) == 3
    assert not any(record.labelled or len(record.boxes_xyxy_px) for record in data.train)
    assert all(
        record.image.is_file() and record.name == str(record.image.relative_to(samples.train_images))
        for record in data.train
    )
    assert all(record.labelled for record in data.val)
    with pytest.raises(DataError, match="no such folder"):
        load_data(replace(settings, train_annotations="", train_images="nowhere"))


def test_unreadable_photographs_are_left_out(settings: DataSettings, tmp_path: Path) -> None:
    records = load_data(settings).train[:4]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    records[1] = replace(records[1], image=broken)
    drawn, unreadable = draw_readable(records, 4, seed=0)
    assert sorted(record.name for record in drawn) == sorted(r.name for r in records if r.image != broken)
    assert [str(broken) in message for message in unreadable] == [True]
    assert [r.name for r in draw_readable(records, 2, seed=0)[0]] == [r.name for r in drawn[:2]]
    with pytest.raises(DataError, match=r"none of 1 photographs can be read, the first: .*broken\.jpg: not an image"):
        draw_readable(records[1:2], 3, seed=0)
    with pytest.raises(DataError, match="none of 0 photographs"):
        draw_readable([], 3, seed=0)
