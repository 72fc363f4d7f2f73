import copy
import shutil
import zipfile
from pathlib import Path

import pytest

from lib.config import Config
from lib.errors import ModelError, TrainingError
from lib.files import read_json, write_json
from lib.runs.folder import RunFolder, model_file
from lib.runs.state import Row
from lib.training.position import Best, Position


def test_a_new_folder_holds_settings_versions_and_commit(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    content = read_json(tmp_path / "run" / "config.json")
    assert content["config"] == Config().model_dump(mode="json")
    assert {"python", "keras", "numpy"} <= content["versions"].keys()
    assert "commit" in content


def test_state_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    folder.state.finished, folder.state.rows = ["pretrain"], [Row("pretrain", 0.0, 1, 1)]
    folder.position = Position("soft_prune", 3)
    folder.save_state()
    again = RunFolder(tmp_path / "run")
    again.open(Config())
    assert again.state == folder.state


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    config = Config()
    config.PRETRAIN.epoch = 7
    with pytest.raises(TrainingError) as error:
        RunFolder(tmp_path / "run").open(config)
    message = str(error.value)
    assert "- PRETRAIN.epoch = 30" in message
    assert "+ PRETRAIN.epoch = 7" in message
    assert "--fresh" in message
    assert "batch_size" not in message


@pytest.mark.parametrize(
    "override",
    [
        "TRAIN.process_num=5",
        "TRAIN.stages=pretrain",
        "TRAIN.checkpoint_every_step=7",
        "TRAIN.log_interval=1",
        "TRAIN.vis=True",
        "TRAIN.prefetch_size=2",
        "TRAIN.keep_checkpoints=3",
        "TRAIN.ap_every_epoch=2",
        "TRAIN.ap_images=7",
        "DATA.root_path=moved",
        "DATA.train_txt_path=moved.txt",
        "DATA.val_image_dir=moved",
        "DATA.sample_path=moved",
        "TEST.latency_rounds=1",
        "TEST.score_thres=0.1",
        "TEST.iou_thres=0.4",
        "TEST.max_detect=10",
    ],
)
def test_settings_that_change_no_weight_and_no_recorded_figure_may_change(tmp_path: Path, override: str) -> None:
    RunFolder(tmp_path / "run").open(Config())
    config = Config()
    config.override(override)
    RunFolder(tmp_path / "run").open(config)


def test_what_concerns_stages_that_have_not_begun_may_change(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path / "run"), Config()
    folder.open(config)  # the first stage may be in the middle of its first epoch
    config.FINETUNE.epoch, config.PRUNE.rate = 7, 0.4
    RunFolder(tmp_path / "run").open(config)
    with pytest.raises(TrainingError, match=r"- PRETRAIN\.epoch = 30"):
        RunFolder(tmp_path / "run").open(changed(config, "PRETRAIN.epoch=7"))

    folder.state.finished, folder.state.rows = ["pretrain"], [Row("pretrain", 0.0, 1, 1)]
    folder.save_state()
    RunFolder(tmp_path / "run").open(changed(config, "FINETUNE.epoch=8"))
    for override in ("PRETRAIN.epoch=7", "PRUNE.rate=0.5", "SOFT_PRUNE.epoch=7"):
        with pytest.raises(TrainingError, match=override.split("=")[0]):
            RunFolder(tmp_path / "run").open(changed(config, "FINETUNE.epoch=8", override))
    folder.position = Position("finetune", 3)
    folder.save_state()
    with pytest.raises(TrainingError, match=r"- FINETUNE\.epoch = 8\n.*\+ FINETUNE\.epoch = 7"):
        RunFolder(tmp_path / "run").open(config)


def changed(config: Config, *overrides: str) -> Config:
    config = copy.deepcopy(config)
    for override in overrides:
        config.override(override)
    return config


def test_data_may_move_but_not_change(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config(), digest="ab")
    RunFolder(tmp_path / "run").open(Config(), digest="ab")
    with pytest.raises(TrainingError, match=r"holds a run with other data.*--fresh"):
        RunFolder(tmp_path / "run").open(Config(), digest="cd")


def test_a_setting_that_is_gone_is_of_another_version(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "config.json", {"config": {"TRAIN": {"gone": 1}}})
    with pytest.raises(TrainingError, match=r"written by another version \(TRAIN\.gone is no setting"):
        RunFolder(tmp_path / "run").open(Config())


def test_a_search_by_ap_depends_on_how_it_is_measured(tmp_path: Path) -> None:
    config = Config()
    config.SEARCH.objective = "ap"
    RunFolder(tmp_path / "run").open(config)
    config.TEST.score_thres = 0.1
    with pytest.raises(TrainingError, match=r"- TEST\.score_thres = 0\.05"):
        RunFolder(tmp_path / "run").open(config)


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    write_json(tmp_path / "run" / "state.json", {"stages": [], "progress": None, "history": []})
    with pytest.raises(TrainingError, match=r"state\.json: written by another version"):
        RunFolder(tmp_path / "run").open(Config())
    with pytest.raises(TrainingError, match=r"optimized/STAGE\.keras"):
        model_file(tmp_path / "run")


def test_a_run_made_before_a_setting_existed_had_its_default(tmp_path: Path) -> None:
    settings = Config().model_dump(mode="json")
    del settings["TRAIN"]["ema"]
    write_json(tmp_path / "run" / "config.json", {"config": settings})
    RunFolder(tmp_path / "run").open(Config())
    config = Config()
    config.TRAIN.ema = 0.9
    with pytest.raises(TrainingError, match=r"- TRAIN\.ema = 0\.0"):
        RunFolder(tmp_path / "run").open(config)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    half = [tmp_path / "run" / ".epoch_3.17.part.keras", tmp_path / "run" / "optimized" / ".pretrain.17.part.keras"]
    mine = tmp_path / "run" / ".notes.17.part.txt"
    mine.touch()
    for file in half:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    RunFolder(tmp_path / "run").open(Config())
    assert not any(file.exists() for file in half)
    assert mine.is_file()

    (tmp_path / "killed_at_once").mkdir()  # before its settings were whole
    (tmp_path / "killed_at_once" / ".config.17.part.json").touch()
    RunFolder(tmp_path / "killed_at_once").open(Config())
    assert (tmp_path / "killed_at_once" / "config.json").is_file()


def test_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_checkpoint() is None
    folder.position = Position("pretrain", 3)
    assert folder.last_checkpoint() == tmp_path / "epoch_3.keras"
    folder.position = Position("pretrain", 3, 20)
    assert folder.last_checkpoint() == tmp_path / "epoch_3_batch_20.keras"


def test_a_failure_to_write_says_what_is_left(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.position = Position("pretrain", 3)
    with pytest.raises(TrainingError, match=r"No space.*epoch_3\.keras.*Make room"), folder.writing():
        raise OSError(28, "No space left on device")


def test_fresh_keeps_the_earlier_runs_aside(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()  # an empty folder is no run to keep
    for _ in range(3):
        RunFolder(tmp_path / "run").open(Config(), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="choose another"):
        RunFolder(tmp_path).open(Config())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {".x.part.y": "mine"},
        {".config.part.json": "mine"},
        {"config.json": '{"config": {"theme": {}}}', ".epoch_1.17.part.keras": "mine"},
        {"config.json": "[]", ".epoch_1.17.part.keras": "mine"},
        {"config.json": '{"config": {}}'},
        {"config.json": "cut sho", "optimized/.shrunk.17.part.keras": "mine"},
        {"state.json": "{}"},
        pytest.param({"config.json": "[" * 100_000}, id="nested too deeply"),
    ],
    ids=str,
)
def test_a_foreign_folder_is_left_as_it_is(tmp_path: Path, files: dict[str, str], fresh: bool) -> None:
    (tmp_path / "theirs" / "optimized").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "theirs" / name).write_text(text)
    with pytest.raises(TrainingError, match=r"no run of this program.*choose another MODEL\.model_path"):
        RunFolder(tmp_path / "theirs").open(Config(), fresh)
    assert content(tmp_path) == {f"theirs/{name}": text.encode() for name, text in files.items()}


def test_fresh_moves_nothing_but_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder(tmp_path / "run").open(Config())
    (tmp_path / "run" / "thesis.txt").touch()
    with pytest.raises(TrainingError, match=r"holds thesis\.txt, which no run writes"):
        RunFolder(tmp_path / "run").open(Config(), fresh=True)
    (tmp_path / "run" / "thesis.txt").unlink()
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file: not empty and no run"):
        RunFolder(tmp_path / "file").open(Config(), fresh=True)
    monkeypatch.chdir(tmp_path / "run")
    for path in (".", "../run", str(tmp_path / "run")):
        with pytest.raises(TrainingError, match=r"--fresh cannot move the folder that it is called in"):
            RunFolder(path).open(Config(), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_fresh_keeps_what_a_whole_run_left(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    names = "epoch_3.keras epoch_3_batch_2.keras optimized/shrunk.keras optimized/shrunk.pb rates_0.5.json search.csv"
    names += " tensorboard/events.out.tfevents.17 search/oracle.json search/trial_0/trial.json search_rates.png"
    for name in [*names.split(), ".epoch_4.17.part.keras"]:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    RunFolder(tmp_path / "run").open(Config(), fresh=True)
    assert set(names.split()) <= set(content(tmp_path / "run.1"))


def _begun(path: Path) -> RunFolder:
    """A run in the middle of fine-tuning, its models stand-ins."""
    folder = RunFolder(path)
    folder.open(Config())
    for name in ("epoch_2", "epoch_3", "optimized/soft_prune"):
        (path / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path / f"{name}.keras", "w") as archive:
            archive.writestr("metadata.json", name)  # with a date, in a real one
            archive.writestr("model.weights.h5", f"weights of {name}")
    write_json(path / "masks.json", {"mode": "removable", "channels": {"conv1": [0, 2]}, "protected": []})
    folder.state.finished = ["pretrain", "soft_prune"]
    folder.state.rows = [Row("soft_prune", 0.1, 1, 1)]
    folder.history = [{"epoch": epoch, "stage": "finetune", "val_loss": 0.5} for epoch in (1, 2, 3)]
    folder.position = Position("finetune", 3, 0, Best(2, 0.5))
    folder.save_state()
    return folder


def test_a_state_knows_the_files_that_it_refers_to(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    assert sorted(folder.state.files) == ["epoch_2.keras", "epoch_3.keras", "masks.json", "optimized/soft_prune.keras"]
    again = RunFolder(tmp_path / "run")
    again.open(Config())
    assert again.state == folder.state


@pytest.mark.parametrize("name", ["epoch_2.keras", "epoch_3.keras", "masks.json", "optimized/soft_prune.keras"])
@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_file_that_is_not_the_runs_own_stops_it(tmp_path: Path, name: str, change: str) -> None:
    _begun(tmp_path / "run")
    file = tmp_path / "run" / name
    if change == "removed":
        file.unlink()
    else:
        file.write_text(file.read_text(errors="replace").replace("weights", "Weights").replace("[", "[1, "))
    message = "missing, and the run goes on from it" if change == "removed" else "not the file that the run wrote"
    with pytest.raises(TrainingError, match=rf"{name}: {message}.*--fresh"):
        RunFolder(tmp_path / "run").open(Config())
    RunFolder(tmp_path / "run").open(Config(), fresh=True)


def test_a_state_that_is_old_or_gone_stops_the_run(tmp_path: Path) -> None:
    _begun(tmp_path / "run")
    state = tmp_path / "run" / "state.json"
    shutil.copy(tmp_path / "run" / "epoch_3.keras", tmp_path / "run" / "epoch_4.keras")  # a kill before its state
    RunFolder(tmp_path / "run").open(Config())
    shutil.copy(tmp_path / "run" / "epoch_3.keras", tmp_path / "run" / "epoch_5.keras")
    with pytest.raises(TrainingError, match=r"state\.json: of an older epoch than epoch_5\.keras"):
        RunFolder(tmp_path / "run").open(Config())
    state.unlink()
    with pytest.raises(TrainingError, match=r"state\.json: missing beside epoch_5\.keras"):
        RunFolder(tmp_path / "run").open(Config())
    for file in (tmp_path / "run").glob("epoch_*.keras"):
        file.unlink()
    with pytest.raises(TrainingError, match=r"state\.json: missing beside its results"):
        RunFolder(tmp_path / "run").open(Config())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "cut sho",
        "[]",
        "null",
        "{}",
        '{"format": 2}',
        '{"format": 2, "finished": "abc", "rows": [], "position": null, "history": [], "rates": "", "removal": null}',
        '{"format": 2, "finished": [], "rows": [3], "position": null, "history": [], "rates": "", "removal": null}',
        '{"format": 2, "finished": [], "rows": [], "position": {}, "history": [], "rates": "", "removal": null}',
        '{"format": 2, "finished": [], "rows": [], "position": null, "history": [{}], "rates": "", "removal": null}',
        '{"format": 2, "finished": [], "rows": [], "position": null, "history": [], "rates": 3, "removal": null}',
    ],
)
def test_a_damaged_state_is_named_with_the_way(tmp_path: Path, content: str) -> None:
    RunFolder(tmp_path / "run").open(Config())
    (tmp_path / "run" / "state.json").write_text(content)
    for door in (lambda: RunFolder(tmp_path / "run").open(Config()), lambda: model_file(tmp_path / "run")):
        with pytest.raises(TrainingError, match=r"state\.json: (not as it was written|written by another).*--fresh"):
            door()


def test_a_checkpoint_that_a_kill_left_behind_is_removed(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    folder.position = Position("finetune", 3, 20, Best(2, 0.5))
    for batch in (10, 20):
        shutil.copy(tmp_path / "run" / "epoch_3.keras", folder.checkpoint(3, batch))
    folder.save_state()
    RunFolder(tmp_path / "run").open(Config())
    assert sorted(path.name for path in (tmp_path / "run").glob("epoch_*_batch_*")) == ["epoch_3_batch_20.keras"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file/run: cannot be written"):
        RunFolder(tmp_path / "file" / "run").open(Config())


def run_folder(path: Path, left: list[str]) -> Path:
    folder = RunFolder(path)
    folder.state.rows = [Row(stage, 0.0, 1, 1) for stage in left]
    folder.save_state()
    return path


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["pretrain"], "pretrain"),
        (["pretrain", "soft_prune"], "soft_prune"),
        (["pretrain", "finetune"], "finetune"),
        (["pretrain", "finetune", "shrunk"], "shrunk"),
        (["imported", "soft_prune", "shrunk", "finetune"], "finetune"),
    ],
)
def test_run_folder_means_its_last_model(tmp_path: Path, left: list[str], expected: str) -> None:
    run = run_folder(tmp_path / "run", left)
    assert model_file(run) == run / "optimized" / f"{expected}.keras"


def test_file_means_itself(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()
    assert model_file(tmp_path / "model.keras") == tmp_path / "model.keras"


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing: no such file or folder"):
        model_file(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"no run folder"):
        model_file(tmp_path)
    with pytest.raises(ModelError, match=r"no stage of this run is finished"):
        model_file(run_folder(tmp_path / "run", []))
