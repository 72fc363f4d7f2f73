from lib.tables import cost_table, markdown_table, rates_table, removal_table, repair_table, stage_table


def test_table_lines_up() -> None:
    lines = markdown_table(["stage", "AP"], [["pretrain", "0.9"], ["x", "0.1234"]]).splitlines()
    assert lines == ["| stage    |     AP |", "|----------|-------:|", "| pretrain |    0.9 |", "| x        | 0.1234 |"]


def test_stage_table_tells_data_and_what_was_not_measured() -> None:
    row = {
        "stage": "imported",
        "ap": None,
        "zero_share": 0.25,
        "parameters": 92208,
        "macs": 295_065_600,
        "keras_bytes": 999,
    }
    text = stage_table({"stages": [row], "data": "some", "protocol": "how", "macs_at": "480x640"})
    assert "not measured" in text
    assert "25.00%" in text
    assert "92,208" in text
    assert "295.07 M" in text
    assert text.endswith("data: some\nprotocol: how\nMACs at 480x640")


def test_removal_table_adds_up() -> None:
    def costs(parameters: int, left: int) -> dict[str, int]:
        return {"full_parameters": parameters, "parameters": left, "full_macs": parameters * 1000, "macs": left * 1000}

    report = {
        "sets": [{"name": "conv1", "members": ["conv1", "conv2"], "channels": 8, "kept": 3, **costs(4000, 1000)}],
        "rest": costs(1000, 750),
        "total": costs(5000, 1750),
    }
    lines = removal_table(report).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["conv1", "2", "8", "3", "4,000", "1,000", "4.00 M", "1.00 M"]
    assert lines[4].startswith("| sum")
    assert lines[-1] == "left: 35.00% of the parameters and 35.00% of the MACs"
    light = {"name": "conv9", "members": ["conv9"], "channels": 4, "kept": 4, **costs(10, 10)}
    short = removal_table({**report, "sets": [light, *report["sets"], light]}, most=1)
    assert "conv1 " in short
    assert "conv9" not in short
    assert "and 2 more" in short
    assert "|       16 |   11 |" in short  # the sum is that of all


def test_models_without_multiply_accumulates_have_no_share_of_them() -> None:
    sums = ("parameters", "zero_share", "macs", "full_macs", "macs_by_filters", "macs_not_silent")
    report = {**dict.fromkeys(sums, 0), "model": "m.keras", "height_px": 480, "width_px": 640, "images": 0}
    text = cost_table({**report, "layers": [], "not_counted": ["lstm"]})
    assert "MACs at 480x640 (height x width): 0.00 M\n" in text
    costs = {"full_parameters": 8, "parameters": 4, "full_macs": 0, "macs": 0}
    assert removal_table({"sets": [], "rest": costs, "total": costs}).endswith("left: 50.00% of the parameters")
    costs = dict.fromkeys(costs, 0)
    assert removal_table({"sets": [], "rest": costs, "total": costs}).endswith("left: nothing was there")


def test_stage_table_tells_what_removal_brought() -> None:
    masked = {"ap": 0.5, "zero_share": 0.3, "parameters": 92208, "macs": 48_000_000, "keras_bytes": 1_200_000}
    small = {**masked, "zero_share": 0.0, "parameters": 60000, "keras_bytes": 900_000}
    rows = [{"stage": "finetune", **masked}, {"stage": "shrunk", **small, "pb_bytes": 654_321, "latency_ms": 3.456}]
    removal = {"of": "finetune", "difference": 3e-6, "images": 8, "detections": 9, "same_detections": True}
    removal |= {"masked": 40, "removed": 30}
    text = stage_table({"stages": rows, "data": "some", "protocol": "how", "macs_at": "480x640", "removal": removal})
    assert [cell.strip() for cell in text.splitlines()[3].split("|")[-4:-1]] == ["900,000", "654,321", "3.46"]
    assert [cell.strip() for cell in text.splitlines()[2].split("|")[-4:-1]] == ["1,200,000", "", ""]
    assert "largest difference of any output 3.0e-06; the same 9 detections on 8 validation images" in text
    assert "of 40 pruned channels 30 could be taken out" in text
    assert "LiteRT, one thread, at 480x640" in text


def test_rates_of_a_search() -> None:
    found = [
        {"target": target, "groups": {"stem": 0.5, "context": 0.25}, "budget_ratio": target, "val_loss": 1.5}
        for target in (0.9, 0.4)
    ]
    lines = rates_table(found).splitlines()
    assert lines[0].split() == ["|", "group", "|", "0.9", "left", "|", "0.4", "left", "|"]
    assert "50.00%" in lines[2]
    assert "40.00%" in lines[-2]


def test_what_a_repair_came_to_is_told() -> None:
    layers = [
        {"name": "a", "before": 0.5, "after": 0.125, "positions": 60000, "unknowns": 9},
        {"name": "b", "before": 0.25, "after": 0.125, "positions": 300, "unknowns": 9},
    ]
    assert repair_table(layers).splitlines()[2] == "| a     |       0.5000 | 0.1250 |    60,000 |"
    results = {"stages": [], "data": "some", "protocol": "how", "macs_at": "480x640"}
    solved = {"how": "solve", "images": 48, "layers": layers, "left": ["gru"]}
    last = stage_table({**results, "repair": solved}).splitlines()[-1]
    assert last.startswith("repaired: 2 layers solved anew on 48 photographs; ")
    assert last.endswith("0.3750 before, 0.1250 after; no rule, left as they are: gru")
    last = stage_table({**results, "repair": {"how": "recalibrate", "images": 7}}).splitlines()[-1]
    assert last == "repaired: batch statistics measured anew on 7 photographs"
