from pathlib import Path

import numpy as np
import pytest

from lib.models import load, save
from tests.detectors import small_detector
from tools.average import main


def test_writes_the_mean_and_says_of_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{seed}.keras" for seed in range(2)]
    for seed, file in enumerate(files):
        save(small_detector(seed=seed), file)
    assert main(["--models", *map(str, files), "--shares", "1", "3", f"--output={tmp_path}/mean.keras"]) == 0
    printed = capsys.readouterr().out
    assert f"0.250 of {files[0]}" in printed
    assert f"0.750 of {files[1]}" in printed
    kernels = [np.asarray(load(file).get_layer("conv2").kernel) for file in (*files, tmp_path / "mean.keras")]
    np.testing.assert_allclose(kernels[2], 0.25 * kernels[0] + 0.75 * kernels[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("models", "output", "message"),
    [
        (["a.keras", "absent.keras"], "mean.keras", "no such file"),
        (["a.keras", "b.keras"], "mean.pb", "expected a name ending in .keras"),
        (["a.keras", "b.keras"], "a.keras", "would replace"),
        (["a.keras", "b.keras"], "mean.keras", "is another network than the last"),
        (["a.keras"], "mean.keras", "two models or more"),
    ],
)
def test_what_has_no_mean_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: list[str], output: str, message: str
) -> None:
    save(small_detector(4), tmp_path / "a.keras")
    save(small_detector(8), tmp_path / "b.keras")
    with pytest.raises(SystemExit) as stopped:
        main(["--models", *(str(tmp_path / name) for name in models), f"--output={tmp_path / output}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / output).exists() == (output in models)
