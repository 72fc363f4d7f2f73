import json
from pathlib import Path

import pytest

from lib.config import Config, load_config
from lib.errors import ConfigError
from tests.shared import ROOT


@pytest.mark.parametrize(
    "path", ["pruned_train_config.py", *sorted(str(p) for p in Path(ROOT / "configs").glob("*.py"))]
)
def test_shipped_configs_are_sound(path: str) -> None:
    load_config(ROOT / path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.epohc=3", "did you mean epoch"),
        ("TRIAN.epoch=3", "did you mean TRAIN"),
        ("TRAIN.epoch=many", "valid integer; got 'many'"),
        ("TRAIN.epoch=2.5", "valid integer; got 2.5"),
        ("TRAIN.epoch=True", "valid integer; got True"),
        ("TRAIN.epoch=0", "greater than 0"),
        ("TRAIN.stages=pretrain,fly", "'finetune' or 'evaluate'"),
        ("PRUNE.rate=1.5", "less than or equal to 1"),
        ("PRUNE.schedule=linear", "'constant' or 'polynomial'"),
        ("TRAIN.pruned_alpha=-1", "greater than or equal to 0"),
        ("TRAIN.pruned_ratio=1.5", "less than or equal to 1"),
        ("TRAIN.pruned_ratio={'conv1': -0.1}", "greater than or equal to 0"),
        ("PRUNE.rate={'conv1': -0.1}", "greater than or equal to 0"),
        ("MODEL.net_structure=vgg", "'eresfd'"),
        ("TRAIN.lr_value_every_step=a,b", "valid number"),
        ("epoch=3", "SECTION.key=value"),
        ("TRAIN.epoch", "SECTION.key=value"),
    ],
)
def test_bad_overrides_say_what_is_wrong(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config().override(override)
    assert message in str(error.value)
    assert override.split("=")[0] in str(error.value)


def test_overrides_take_numbers_lists_mappings_and_text() -> None:
    config = Config()
    for override in (
        "TRAIN.batch_size=4",
        "TRAIN.stages=pretrain,evaluate",
        "TRAIN.lr_value_every_step=1e-3,1e-4",
        "TRAIN.lr_decay_every_step=[100]",
        "PRUNE.rate={'context*': 0.5}",
        "MODEL.model_path=007",
        "DATA.root_path=a, b=c",
        "TRAIN.pruned_ratio=0.5,0.25,0",
    ):
        config.override(override)
    assert config.TRAIN.batch_size == 4
    assert config.TRAIN.stages == ("pretrain", "evaluate")
    assert config.TRAIN.lr_value_every_step == (1e-3, 1e-4)
    assert config.TRAIN.lr_decay_every_step == (100,)
    assert config.PRUNE.rate == {"context*": 0.5}
    assert config.MODEL.model_path == "007"
    assert config.DATA.root_path == "a, b=c"
    assert config.TRAIN.pruned_ratio == (0.5, 0.25, 0)
    for ratio in (0.5, [0.5, 0.25], {"conv*": 0.5, "*": 0}):
        config.TRAIN.pruned_ratio = ratio
        assert config.TRAIN.pruned_ratio == ratio


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TRAIN.lr_decay_every_step=100"], "one value more"),
        (["TRAIN.lr_value_every_step=1,1,1", "TRAIN.lr_decay_every_step=9,5"], "must increase"),
        (["TRAIN.stages=evaluate,pretrain"], "in this order"),
        (["DATA.train_txt_path=a.txt"], "go together"),
        (["TRAIN.stages=finetune"], "MODEL.pretrained_model"),
        (["ANCHOR.second_stage_thresh=0.4"], "below"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, overrides: list[str], message: str) -> None:
    file = tmp_path / "c.py"
    file.write_text("from lib.config import Config\nconfig = Config()\n")
    with pytest.raises(ConfigError, match=message):
        load_config(file, overrides)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.TRAIN.epohc = 3", "did you mean epoch"),
        ("config.TRIAN.epoch = 3", "did you mean TRAIN"),
        ("config.TRAIN.epoch = '3x'", "valid integer"),
        ("config.TRAIN.epoch = 1 / 0", "ZeroDivisionError"),
        ("config.TRAIN.epoch = (", "SyntaxError"),
    ],
)
def test_errors_in_a_config_file_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "my_config.py"
    file.write_text(f"from lib.config import Config\nconfig = Config()\n{line}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert f"{file}:3: " in str(error.value)
    assert message in str(error.value)


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


def test_seed_style_lists_are_accepted() -> None:
    config = Config()
    config.TRAIN.lr_value_every_step = [0.001, 0.0001]  # type: ignore[assignment]
    assert config.TRAIN.lr_value_every_step == (0.001, 0.0001)


@pytest.mark.parametrize("scales", [(320, 320), (640, 320), (300, 640)])
def test_scales_of_multi_scale_training(scales: tuple[int, int]) -> None:
    config = Config()
    config.DATA.scales = scales
    config.check()  # without DATA.mutiscale they mean nothing
    config.DATA.mutiscale = True
    with pytest.raises(ConfigError, match=r"DATA\.scales must be two multiples of 32"):
        config.check()
