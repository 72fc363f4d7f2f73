from pathlib import Path

import numpy as np

from lib.data.annotations import Record
from lib.data.images import write_rgb
from lib.runs.usable import first_usable


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    records = []
    for number, (height, width, right) in enumerate([(12, 40, 9), (16, 40, 99), (16, 40, 9), (20, 16, 9), (32, 32, 9)]):
        file = tmp_path / f"{number}.png"
        write_rgb(file, np.zeros((height, width, 3), np.uint8))
        records.append(Record(file.name, file, np.array([[1, 1, right, 9]], np.float32), "here"))
    (tmp_path / "3.png").write_bytes(b"no image")
    images, faces = first_usable(records, 3)
    assert [image.shape for image in images] == [(16, 40, 3), (32, 32, 3)], "small, misfit and broken ones are not"
    assert [boxes.shape for boxes in faces] == [(1, 4)] * 2
    assert len(first_usable(records, 1)[0]) == 1
    assert first_usable(records[:2], 3) == ([], [])
