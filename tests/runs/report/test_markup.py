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


def test_lines_and_bars_are_where_they_belong() -> None:
    drawn = ElementTree.fromstring(chart({"a": [(0, 0), (1, 1), (2, float("nan"))]}, x="x", y="y"))
    line = next(item for item in drawn.iter("polyline"))
    assert line.attrib["points"] == "56.0,260.0 628.0,12.0"
    widths = [float(item.attrib["width"]) for item in ElementTree.fromstring(bars([("a", 4, 1)], "c")).iter("rect")]
    assert widths[1] == widths[0] / 4


def test_nothing_to_show_is_said() -> None:
    assert "no values" in chart({"a": []}, x="x", y="y")
    assert "nothing" in bars([], "channels")


def test_a_table_keeps_its_notes() -> None:
    shown = table(markdown_table(["a", "b"], [["x", "1"]]) + "\n\ndata: y")
    assert "<th>a</th><th>b</th>" in shown
    assert "<td>x</td><td>1</td>" in shown
    assert "data: y" in shown
