import copy
import json
from pathlib import Path
from typing import Annotated

import pytest

from lib.config import Config, load_config
from lib.errors import ConfigError
from lib.settings import Immaterial, Section, Settings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.TRAIN.epohc = 3", "did you mean epoch"),
        ("config.TRIAN.epoch = 3", "did you mean TRAIN"),
        ("config.TRAIN.epoch = '3x'", "valid integer"),
        ("config.TRAIN.epoch = 1 / 0", "ZeroDivisionError"),
        ("config.TRAIN.epoch = (", "SyntaxError"),
        ("config.TRAIN = {'epoch': 3}", "config.TRAIN is a section; assign its settings one by one"),
        ("config.TRAIN = 5", "config.TRAIN.key = value"),
        ("config.TRIAN = {'epoch': 3}", "config.TRIAN is no section; did you mean TRAIN"),
    ],
)
def test_errors_in_a_config_file_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "my_config.py"
    file.write_text(f"from lib.config import Config\nconfig = Config()\n{line}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert f"{file}:3: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("PRUNE.rate", "{{}: 1}"),
        ("PRUNE.rate", "{[1]: 2}"),
        ("DATA.scales", "{{}}"),
        ("TRAIN.batch_size", "-" * 20_000),
        ("TRAIN.batch_size", "1" + "+1" * 3000),
    ],
)
def test_a_value_that_python_cannot_read_is_unfit(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}: .*; got ") as error:
        Config().override(f"{setting}={value}")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["TRAIN.{}", "{}.epoch"])
def test_long_names_are_cut_in_messages(tmp_path: Path, name: str) -> None:
    section, _, key = name.format("x" * 10_000).partition(".")
    (tmp_path / "config.json").write_text(json.dumps({section: {key: 1}}))
    with pytest.raises(ConfigError, match="is no s") as error:
        load_config(tmp_path / "config.json")
    assert len(str(error.value)) < 2000


def test_file_without_a_config(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"expected `config = Config\(\)`"):
        load_config(file)
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "absent.py")


def test_a_runs_config_json_can_be_used_again(tmp_path: Path) -> None:
    config = Config()
    config.TRAIN.stages = ("pretrain",)
    config.PRUNE.rate = {"context*": 0.25}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": config.model_dump(mode="json"), "commit": None}))
    assert load_config(file) == config
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"config.json:1"):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "twice"),
    [
        ('{"TRAIN": {"epoch": 3}, "TRAIN": {"batch_size": 4}}', "TRAIN"),
        ('{"config": {"TRAIN": {"epoch": 3, "batch_size": 4, "epoch": 4}}}', "epoch"),
        ('{"PRUNE": {"rate": {"conv1": 0.5, "conv1": 0.25}}}', "conv1"),
    ],
)
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, content: str, twice: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"config\.json: .*'{twice}' stands in one object twice"):
        load_config(file)


def test_old_names_in_a_runs_config_json(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"TRAIN": {"epoch": 3, "lr_value_every_step": [1e-3]}, "DATA": {"num_category": 1}}))
    config = load_config(file)
    assert (config.PRETRAIN.epoch, config.PRETRAIN.lr) == (3, (1e-3,))


def test_a_copys_aliases_are_its_own() -> None:
    config = Config()
    copied = copy.deepcopy(config)
    copied.override("TRAIN.epoch=7")
    assert (config.PRETRAIN.epoch, copied.PRETRAIN.epoch) == (30, 7)
    assert config != copied
    assert config == Config()


class Oven(Section):
    concerns = ("bake",)
    degrees: int = 180
    light: Annotated[bool, Immaterial()] = True
    clock: Annotated[bool, Immaterial(unless=("OVEN.light", False))] = True


class Kitchen(Settings):
    OVEN: Oven = Oven()


def test_what_does_not_matter_is_said_at_the_setting() -> None:
    kitchen = Kitchen()
    assert kitchen.immaterial(["bake"]) == {"OVEN.light", "OVEN.clock"}
    kitchen.OVEN.light = False
    assert kitchen.immaterial(["knead", "bake"]) == {"OVEN.light"}
    assert kitchen.immaterial(["knead"]) == {"OVEN.light", "OVEN.clock", "OVEN.degrees"}


@pytest.mark.parametrize(
    "content",
    [
        '{"config": {"__class__": {"TRAIN": 1}}}',
        '{"__class__": {"model_fields": {}}}',
        '{"TRAIN": {"__class__": {}}}',
        '{"TRAIN": {"__dict__": {}}}',
        '{"TRAIN": 3}',
        '{"config": 3}',
        "[]",
        "3",
        "[" * 100_000,
    ],
)
def test_a_json_config_can_set_settings_and_nothing_else(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    before = Config().model_dump()
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_config(file)
    assert Config().model_dump() == before
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_config(file)
