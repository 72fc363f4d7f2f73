from pathlib import Path

import pytest

from lib.models import anchors_of, load
from tests.shared import shared
from tools.import_weights import main


@pytest.mark.parametrize(
    ("weights", "option", "ratio", "ignored"),
    [("weights/eresfd/eresfd_16.pth.base.pth", [], 1.25, 75), ("weights/bfpgm/EResFD-50-pruned.pth", [], 1.0, 520),
     ("weights/bfpgm/EResFD-original.pth", ["--anchor_ratio", "1.25"], 1.25, 520)],
)  # fmt: skip
def test_published_weights(
    weights: str, option: list[str], ratio: float, ignored: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.keras"
    assert main(["--weights", str(shared(weights)), "--output", str(output), *option]) == 0
    assert anchors_of(load(output)).ratio == ratio
    printed = capsys.readouterr().out
    assert f"none missing, {ignored} tensors ignored" in printed
    assert "used     base.conv1.0.weight -> conv1/kernel" in printed


@pytest.mark.parametrize("weights", ["yunet_n.pth", "yunet_s.pth", "yunet_n_dynamic.onnx"])
def test_published_yunet(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if weights.endswith(".onnx"):
        pytest.importorskip("onnx")
    output = tmp_path / "m.keras"
    assert main(["--weights", str(shared(f"weights/yunet/{weights}")), "--output", str(output)]) == 0
    assert anchors_of(load(output)).landmarks == 5
    printed = capsys.readouterr().out
    assert "used     backbone.model0.conv1.weight -> model0_conv1/kernel" in printed
    assert f"m.keras: {weights[:7]}, anchor ratio 1" in printed
    assert "unknown" not in printed
    assert ("were folded" in printed) == weights.endswith(".onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "absent.pth", "--output", "m.keras"], "absent.pth: no such file"),
        (["--weights", "absent.pth", "--output", "m.h5"], "ending in .keras"),
        *(
            (["--weights", "absent.pth", "--output", "m.keras", f"--anchor_ratio={ratio}"], "must lie in 0.01..100")
            for ratio in ("nan", "inf", "0", "-1", "1e30", "1e-30")
        ),
        (["--weights", "a.keras", "--output", "a.keras"], "a.keras: would replace a.keras"),
    ],
)
def test_errors_are_short(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
