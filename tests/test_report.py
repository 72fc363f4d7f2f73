from lib.report import markdown_table, stage_table


def test_table_lines_up() -> None:
    lines = markdown_table(["stage", "AP"], [["pretrain", "0.9"], ["x", "0.1234"]]).splitlines()
    assert lines == ["| stage    |     AP |", "|----------|-------:|", "| pretrain |    0.9 |", "| x        | 0.1234 |"]


def test_stage_table_tells_data_and_what_was_not_measured() -> None:
    row = {"stage": "imported", "ap": None, "zero_share": 0.25, "parameters": 92208, "macs": 295_065_600}
    text = stage_table({"stages": [row], "data": "some", "protocol": "how", "macs_at": "480x640"})
    assert "not measured" in text
    assert "25.00%" in text
    assert "92,208" in text
    assert "295.07 M" in text
    assert text.endswith("data: some\nprotocol: how\nMACs at 480x640")
