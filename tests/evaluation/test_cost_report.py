import pytest

from lib.evaluation.cost_report import cost_report
from tests.detectors import published_detector


def test_eresfd_costs_what_was_published() -> None:
    from lib.models import build

    report = cost_report(build("eresfd"), 480, 640)
    assert report["parameters"] == 92_208
    assert round(report["macs"] / 1e6, 2) == 295.07
    assert report["macs_by_filters"] == report["macs_not_silent"] == report["full_macs"] == report["macs"]
    assert sum(row["macs"] for row in report["layers"]) == report["macs"]


def test_percentages_refer_to_the_full_model() -> None:
    from lib.models import build

    full, half = build("eresfd"), build("eresfd", width_mult=0.03125)
    report = cost_report(half, 480, 640, full)
    assert report["full_macs"] == cost_report(full, 480, 640)["macs"] > 3 * report["macs"]


@pytest.mark.parametrize(
    ("name", "zeros"),
    [
        ("original", 0.0009),
        ("10-pruned", 0.1024),
        ("20-pruned", 0.2228),
        ("30-pruned", 0.3160),
        ("40-pruned", 0.4002),
        ("50-pruned", 0.5037),
        ("60-pruned", 0.5987),
    ],
)
def test_published_models_have_the_known_zeros(name: str, zeros: float) -> None:
    report = cost_report(published_detector(f"bfpgm/EResFD-{name}.pth"), 480, 640)
    assert report["zero_share"] == pytest.approx(zeros, abs=2e-4)
    # The published pipeline leaves the batch norms, so that nothing is gone.
    assert report["macs_by_filters"] <= report["macs_not_silent"] == report["macs"]
