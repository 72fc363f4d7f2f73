from pathlib import Path
from typing import Any

import pytest

from lib.config import Config, load_config, stage_names
from lib.errors import ConfigError
from tests.shared import ROOT


@pytest.mark.parametrize(
    "path", ["pruned_train_config.py", *sorted(str(p) for p in Path(ROOT / "configs").glob("[!_]*.py"))]
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
        ("DISTIL.temperature=0", "greater than 0"),
        ("DISTIL.boxes=-1", "greater than or equal to 0"),
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
        "PRETRAIN.lr=1e-3,1e-4",
        "PRETRAIN.decay_step=[100]",
        "PRUNE.rate={'context*': 0.5}",
        "MODEL.model_path=007",
        "DATA.root_path=a, b=c",
        "TRAIN.pruned_ratio=0.5,0.25,0",
    ):
        config.override(override)
    assert config.TRAIN.batch_size == 4
    assert config.TRAIN.stages == ("pretrain", "evaluate")
    assert config.PRETRAIN.lr == (1e-3, 1e-4)
    assert config.PRETRAIN.decay_step == (100,)
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
        (["TRAIN.stages=pretrain,shrink,finetune,shrink"], "each once"),
        (["TRAIN.stages=pretrain,shrink,soft_prune"], "'shrink' may also come right after 'finetune'"),
        (["TRAIN.stages=pretrain,finetune,shrink,repair"], "in this order"),
        (["TRAIN.stages=pretrain,finetune,search"], "in this order"),
        (["TRAIN.stages=search"], "must name the model for 'search' to start from"),
        (["TRAIN.stages=evaluate"], "must name the model for 'evaluate' to start from"),
        (["PRUNE.mode=per_layer"], "put 'shrink' after 'finetune'"),
        (["TRAIN.stages=pretrain,search", "SEARCH.n_init_points=0", "SEARCH.n_opt_iterations=0"], "nothing would be"),
        (["DATA.train_txt_path=a.txt"], "go together"),
        (["DATA.val_txt_path=a.txt"], "go together"),
        (["DATA.val_txt_path=a.txt", "DATA.train_image_dir=b"], "with a DISTIL.teacher"),
        (
            ["DATA.val_txt_path=a.txt", "DATA.train_image_dir=b", "DISTIL.teacher=t.keras", "SEARCH.enabled=True"],
            "no search can judge by",
        ),
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
    "stages",
    [
        "pretrain,soft_prune,finetune,shrink,evaluate",
        "pretrain,search,shrink",
        "pretrain,soft_prune,shrink,repair,finetune,evaluate",
        "pretrain,finetune,shrink",
    ],
)
def test_orders_of_stages(stages: str) -> None:
    config = Config()
    config.override(f"TRAIN.stages={stages}")
    config.check()
    if "finetune" not in stages.partition("shrink")[2]:
        config.PRUNE.mode = "per_layer"
        config.check()


def test_an_enabled_search_comes_before_the_first_stage_that_prunes() -> None:
    config = Config()
    config.SEARCH.enabled = True
    assert stage_names(config) == ("pretrain", "search", "soft_prune", "shrink", "finetune", "evaluate")
    config.TRAIN.stages = ("pretrain", "finetune", "shrink")
    assert stage_names(config) == ("pretrain", "search", "finetune", "shrink")
    config.TRAIN.stages = ("pretrain", "evaluate")
    assert stage_names(config) == ("pretrain", "evaluate")
    config.TRAIN.stages, config.SEARCH.enabled = ("pretrain", "search"), False
    assert stage_names(config) == ("pretrain", "search")


def test_seed_style_lists_are_accepted() -> None:
    config = Config()
    config.PRETRAIN.lr = [0.001, 0.0001]  # type: ignore[assignment]
    assert config.PRETRAIN.lr == (0.001, 0.0001)


@pytest.mark.parametrize(("alias", "name"), Config.aliases.items())
def test_earlier_names_are_assigned_and_read(alias: str, name: str) -> None:
    config = Config()
    (old_section, old_key), (section, key) = alias.split("."), name.split(".")
    other = {"norm": "BN", "negatives_over": "batch", "score_loss": "focal"}.get(key)
    present = getattr(getattr(config, section), key)
    value = other or ((3.0, 4.0, 5.0) if "PIXEL" in key else not present if isinstance(present, bool) else (2,))
    config.override(f"{alias}={value if isinstance(value, str | bool) or len(value) > 1 else value[0]}")
    changed = getattr(getattr(config, section), key)
    assert changed != present
    assert getattr(getattr(config, old_section), old_key) == changed
    assert alias not in config.immaterial(())


def test_constants_may_be_named_but_not_changed() -> None:
    config = Config()
    config.override("DATA.num_category=1")
    config.override("ANCHOR.ANCHOR_STRIDES=4,8,16,32,64,128")
    with pytest.raises(ConfigError, match=r"DATA\.num_category is always 1, and cannot be '2'"):
        config.override("DATA.num_category=2")
    with pytest.raises(ConfigError, match=r"ANCHOR\.ANCHOR_STRIDES is always \(4, 8, "):
        config.override("ANCHOR.ANCHOR_STRIDES=4,8")


def test_only_stages_that_run_are_checked() -> None:
    config = Config()
    config.FINETUNE.decay_epoch = (6, 3)
    with pytest.raises(ConfigError, match=r"FINETUNE\.decay_epoch must increase"):
        config.check()
    config.TRAIN.stages = ("pretrain", "evaluate")
    config.check()
    config.PRETRAIN.decay_step, config.PRETRAIN.decay_epoch = (1,), (1,)
    with pytest.raises(ConfigError, match=r"PRETRAIN\.decay_step or PRETRAIN\.decay_epoch, not both"):
        config.check()
    config.MODEL.pretrained_model = "m.keras"
    config.check()


@pytest.mark.parametrize("scales", [(320, 320), (640, 320), (300, 640)])
def test_scales_of_multi_scale_training(scales: tuple[int, int]) -> None:
    config = Config()
    config.DATA.scales = scales
    config.check()  # without DATA.multiscale they mean nothing
    config.DATA.multiscale = True
    with pytest.raises(ConfigError, match=r"DATA\.scales must be two multiples of 32"):
        config.check()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", [0.5, 0.5], r"SEARCH\.target needs one share, or several different ones"),
        ("target", [], r"SEARCH\.target needs one share"),
        ("n_long", 3, r"SEARCH\.long_steps does not say how long"),
    ],
)
def test_unfit_searches(key: str, value: object, message: str) -> None:
    config = Config()
    config.SEARCH.enabled = True
    config.check()
    setattr(config.SEARCH, key, value)
    with pytest.raises(ConfigError, match=message):
        config.check()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.seed=4294967296", "less than 4294967296"),
        ("TRAIN.weight_decay_factor=1e999", "finite"),
        ("PRUNE.rate={}", "PRUNE.rate"),
        ("TEST.max_detect=2147483648", "less than 2147483648"),
        ("MODEL.width_mult=16", "less than or equal to 4"),
        ("DATA.root_path=photographs", "the built-in sample set would be taken"),
        ("DATA.cover_small_face=1e9", "would cover every face"),
    ],
)
def test_settings_that_train_nothing_or_break_later_are_refused_at_once(override: str, message: str) -> None:
    config = Config()
    with pytest.raises(ConfigError, match=message):
        config.override(override)
        config.check()


def test_a_search_that_nothing_prunes_by_is_refused() -> None:
    config = Config()
    config.SEARCH.enabled = True
    config.TRAIN.stages = ("pretrain", "evaluate")
    with pytest.raises(ConfigError, match="no stage prunes at them"):
        config.check()


@pytest.mark.parametrize(
    "changes",
    [{"stages": ("pretrain", "search")}, {"ap_every_epoch": 1}, {"num_gpu": 2}],
)
def test_what_processes_cannot_share_is_refused(changes: dict[str, Any]) -> None:
    config = Config()
    config.TRAIN.stages, config.TRAIN.distribution = ("pretrain", "shrink", "finetune"), "data_parallel"
    config.check()
    for name, value in changes.items():
        setattr(config.TRAIN, name, value)
    with pytest.raises(ConfigError, match=f"not .*{'search' if 'stages' in changes else next(iter(changes))}; run"):
        config.check()


def test_processes_cannot_share_a_removal_in_steps() -> None:
    config = Config()
    config.TRAIN.stages = ("pretrain", "shrink", "repair", "finetune")
    config.TRAIN.distribution, config.PRUNE.steps = "data_parallel", 2
    with pytest.raises(ConfigError, match=r"not PRUNE\.steps; run"):
        config.check()
