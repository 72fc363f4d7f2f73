from pathlib import Path

import pytest

from lib.config import Config
from lib.data.scenes import SampleSet
from lib.data.sources import load_data
from lib.errors import DataError


@pytest.fixture
def config(samples: SampleSet) -> Config:
    config = Config()
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    return config


def test_faces_to_find_are_required(config: Config, samples: SampleSet, tmp_path: Path) -> None:
    faceless = tmp_path / "val.txt"
    name = next(samples.val_images.rglob("*.jpg")).relative_to(samples.val_images)
    faceless.write_text(f"{name}\n0\n")
    config.DATA.val_txt_path = str(faceless)
    with pytest.raises(DataError, match="no face in the 1 validation images"):
        load_data(config)


def test_subsets_are_drawn_by_the_seed(config: Config) -> None:
    config.TRAIN.train_set_size = 5
    names = [record.name for record in load_data(config).train]
    assert len(names) == 5
    assert names == [record.name for record in load_data(config).train]
    config.TRAIN.seed = 1
    assert names != [record.name for record in load_data(config).train]
