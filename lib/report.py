"""Tables of a run."""

from collections.abc import Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; the first column is left-, the others right-aligned."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([cells[0].ljust(widths[0]), *numbers])} |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def stage_table(results: dict[str, Any]) -> str:
    """The closing table of a run from the content of its `results.json`."""
    rows = [
        [
            row["stage"],
            "not measured" if row["ap"] is None else f"{row['ap']:.4f}",
            f"{row['zero_share']:.2%}",
            f"{row['parameters']:,}",
            f"{row['macs'] / 1e6:.2f} M",
        ]
        for row in results["stages"]
    ]
    table = markdown_table(["stage", "AP", "zeros", "parameters", "MACs"], rows)
    return f"{table}\n\ndata: {results['data']}\nprotocol: {results['protocol']}\nMACs at {results['macs_at']}"
