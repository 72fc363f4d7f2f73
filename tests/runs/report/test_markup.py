import re
import xml.etree.ElementTree as ElementTree

from lib.runs.report.markup import bars, chart, document, folded, heading, paragraph, picture, table
from lib.tables import markdown_table

HOSTILE = '<script>alert("1")</script>'


def test_everything_is_escaped() -> None:
    pieces = [
        heading(HOSTILE),
        paragraph(HOSTILE, "note"),
        folded(HOSTILE, HOSTILE),
        table(markdown_table([HOSTILE, "b"], [[HOSTILE, "1"]]) + "\n\n" + HOSTILE),
        picture(b"", HOSTILE),
        chart({HOSTILE: [(0, 1), (1, 2)]}, x=HOSTILE, y=HOSTILE),
        bars([(HOSTILE, 2, 1)], HOSTILE),
    ]
    page = document(HOSTILE, pieces)
    assert "<script" not in page
    assert page.count("alert") >= len(pieces)


def _drawn(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search("<svg.*</svg>", figure)[0])  # type: ignore[index]


def test_lines_and_bars_are_where_they_belong() -> None:
    drawn = _drawn(chart({"a": [(0, 0), (1, 1), (2, float("nan"))]}, x="x", y="y"))
    line = next(item for item in drawn.iter("polyline"))
    assert line.attrib["points"] == "44.0,220.0 404.0,10.0"
    assert re.findall(r"width:([\d.]+)%", bars([("a", 4, 1), ("b", 2, 2)], "c")) == ["100.0", "25.0", "50.0", "50.0"]
    assert "1,234 of 12,345" in bars([("a", 12345, 1234)], "c")


def test_axes_have_round_numbers() -> None:
    drawn = _drawn(chart({"a": [(1, 3.69), (24, 2.73)]}, x="epoch", y="loss"))
    assert [item.text for item in drawn.iter("text")] == [
        "5",
        "10",
        "15",
        "20",
        "epoch",
        "2.8",
        "3",
        "3.2",
        "3.4",
        "3.6",
    ]
    drawn = _drawn(chart({"a": [(1, 0.5), (3, 0.5)]}, x="epoch", y="AP"))
    assert [item.text for item in drawn.iter("text")][:4] == ["1", "2", "3", "epoch"]


def test_nothing_to_show_is_said() -> None:
    assert "no values" in chart({"a": []}, x="x", y="y")
    assert "nothing" in bars([], "channels")


def test_a_table_keeps_its_notes() -> None:
    shown = table(markdown_table(["a", "b"], [["x", "1"]]) + "\n\ndata: y")
    assert "<th>a</th><th>b</th>" in shown
    assert "<td>x</td><td>1</td>" in shown
    assert "data: y" in shown


def test_columns_without_a_value_are_left_out() -> None:
    shown = table(markdown_table(["a", "b", "c"], [["x", "", "1"], ["y", "", ""]]))
    assert re.findall("<th>(.*?)</th>", shown) == ["a", "c"]
    assert "<td>x</td><td>1</td></tr><tr><td>y</td><td></td>" in shown
    assert "<th>a</th><th>b</th>" in table(markdown_table(["a", "b"], []))
