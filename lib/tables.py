"""Tables of figures."""

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
            f"{row['keras_bytes']:,}",
            f"{row['pb_bytes']:,}" if "pb_bytes" in row else "",
            f"{row['latency_ms']:.2f}" if "latency_ms" in row else "",
        ]
        for row in results["stages"]
    ]
    table = markdown_table(["stage", "AP", "zeros", "parameters", "MACs", ".keras bytes", ".pb bytes", "ms"], rows)
    notes = [f"data: {results['data']}", f"protocol: {results['protocol']}", f"MACs at {results['macs_at']}"]
    if removal := results.get("removal"):
        notes.append(
            f"shrunk: {removal['of']} without its pruned channels; largest difference of any output "
            f"{removal['difference']:.1e}; {'the same' if removal['same_detections'] else 'NOT the same'} "
            f"{removal['detections']} detections on {removal['images']} validation images"
        )
        if removal["removed"] < removal["masked"]:
            notes.append(
                f"of {removal['masked']} pruned channels {removal['removed']} could be taken out; others are tied to "
                "channels that stay (PRUNE.mode 'removable' prunes no such ones)"
            )
    if repair := results.get("repair"):
        notes.append(_repair_note(repair))
    if any("latency_ms" in row for row in results["stages"]):
        notes.append(
            f"ms: LiteRT, one thread, at {results['macs_at']}, the shortest of many in turns; compare within this table"
        )
    return table + "\n\n" + "\n".join(notes)


def rates_table(found: Sequence[dict[str, Any]]) -> str:
    """Rates that a search found, by layer group, a column a target: the contents of its `rates_*.json`."""
    names = list(found[0]["groups"])
    header = ["group", *(f"{item['target']:g} left" for item in found)]
    rows = [[name, *(f"{item['groups'][name]:.2%}" for item in found)] for name in names]
    rows.append(["left of the budget", *(f"{item['budget_ratio']:.2%}" for item in found)])
    rows.append(["validation loss", *(f"{item['val_loss']:.4f}" for item in found)])
    return markdown_table(header, rows)


def cost_table(report: dict[str, Any]) -> str:
    """The layers and sums of `lib.evaluation.cost_report.cost_report`."""
    measured = report["images"] > 0
    header = ["layer", "parameters", "MACs", "channels", "filter not zero", "not silent"]
    rows = []
    for row in report["layers"]:
        cells = [row["name"], f"{row['parameters']:,}", f"{row['macs'] / 1e6:.3f} M", str(row["channels"])]
        cells += [f"{row['active_by_filters']:.0f}", f"{row['active_not_silent']:.0f}"]
        rows.append([*cells, f"{row['active_on_images']:.1f}"] if measured else cells)
    table = markdown_table([*header, "on images"] if measured else header, rows)

    def share(name: str) -> str:
        whole = report["full_macs"]
        return f"{report[name] / 1e6:.2f} M" + (f", {report[name] / whole:.2%} of the full model's" if whole else "")

    lines = [
        f"model: {report['model']}",
        f"parameters: {report['parameters']:,}, of which zero: {report['zero_share']:.2%}",
        f"MACs at {report['height_px']}x{report['width_px']} (height x width): {share('macs')}",
        f"  without channels whose filter is zero: {share('macs_by_filters')}",
        f"  without channels that are zero at every input: {share('macs_not_silent')}",
    ]
    if measured:
        lines.append(f"  by activations, mean of {report['images']} images: {share('macs_on_images')}")
    if report["not_counted"]:
        lines.append(f"  not counted, of unknown kinds: {', '.join(report['not_counted'])}")
    return f"{table}\n\n" + "\n".join(lines)


def removal_table(report: dict[str, Any], most: int | None = None) -> str:
    """The sets and sums of `lib.pruning.removal_report`: channels now and then, and what they will cost.

    Args:
        most: at most so many sets, those that lose most multiply-accumulates; None: all.

    """

    def costs(row: dict[str, Any]) -> list[str]:
        return [
            f"{row['full_parameters']:,}",
            f"{row['parameters']:,}",
            f"{row['full_macs'] / 1e6:.2f} M",
            f"{row['macs'] / 1e6:.2f} M",
        ]

    header = ["set", "layers", "channels", "kept", "parameters", "left", "MACs", "left"]
    rows = [
        [row["name"], str(len(row["members"])), str(row["channels"]), str(row["kept"]), *costs(row)]
        for row in _heaviest(report["sets"], most)
    ]
    total = report["total"]
    if (hidden := len(report["sets"]) - len(rows)) > 0:
        rows.append([f"and {hidden} more", *[""] * (len(header) - 1)])
    rows.append(["all others", "", "", "", *costs(report["rest"])])
    channels, kept = (sum(row[key] for row in report["sets"]) for key in ("channels", "kept"))
    rows.append(["sum", "", str(channels), str(kept), *costs(total)])
    shares = [f"{total[name] / whole:.2%} of the {label}" for name, label in _COSTS if (whole := total[f"full_{name}"])]
    return f"{markdown_table(header, rows)}\n\nleft: {' and '.join(shares) or 'nothing was there'}"


def _heaviest(sets: Sequence[dict[str, Any]], most: int | None) -> Sequence[dict[str, Any]]:
    """The sets that lose most, in their order."""
    if most is None or len(sets) <= most:
        return sets
    losing = sorted(range(len(sets)), key=lambda index: sets[index]["macs"] - sets[index]["full_macs"])[:most]
    return [sets[index] for index in sorted(losing)]


def repair_table(layers: Sequence[dict[str, Any]]) -> str:
    """The layers of a `lib.pruning.RepairReport` as dicts: the part of its target that each missed before and after."""
    rows = [[row["name"], f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['positions']:,}"] for row in layers]
    return markdown_table(["layer", "error before", "after", "positions"], rows)


def _repair_note(repair: dict[str, Any]) -> str:
    if repair["how"] == "recalibrate":
        return f"repaired: batch statistics measured anew on {repair['images']} photographs"
    layers = repair["layers"]
    before, after = (sum(row[key] for row in layers) / max(len(layers), 1) for key in ("before", "after"))
    note = (
        f"repaired: {len(layers)} layers solved anew on {repair['images']} photographs; what they miss of their "
        f"targets, on average: {before:.4f} before, {after:.4f} after"
    )
    return note + (f"; no rule, left as they are: {', '.join(repair['left'])}" if repair["left"] else "")


def export_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `lib.evaluation.exports.report`."""
    header = ["format", "precision", "bytes", "ms", "of Keras'", "scores differ", "detections", "changed", "AP"]
    cells = [
        [
            row["format"],
            row["precision"],
            f"{row['bytes']:,}",
            f"{row['ms']:.2f}",
            f"{row['ms_ratio']:.2f}",
            f"{row['largest_score_difference']:.1e}",
            f"{row['detections']:,}",
            f"{row['changed']:,}",
            "" if row["ap"] is None else f"{row['ap']:.4f}",
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


_COSTS = (("parameters", "parameters"), ("macs", "MACs"))
