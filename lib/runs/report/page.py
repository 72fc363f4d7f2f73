"""`report.html`: what a run was, what came of it, and what is missing."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.files import read_json, write_text
from lib.runs.report import markup
from lib.runs.report.findings import SURE, Findings
from lib.search.pictures import pareto_front
from lib.search.trial_table import read_table
from lib.tables import export_table, markdown_table, stage_table

NAME = "report.html"
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


def write_page(file: Path, runs: Sequence[tuple[Path, Findings | str]]) -> Path:
    """Writes the page of one or several runs.

    Args:
        file: where; whole or absent.
        runs: each run's folder, and what its models come to, or why that is not known.

    """
    title = "Run " + ", ".join(folder.name or str(folder) for folder, _ in runs)
    body = [markup.heading(title, 1), *(_side_by_side([folder for folder, _ in runs]) if len(runs) > 1 else [])]
    sections = list[str]()
    for folder, findings in runs:
        sections.append(markup.heading(str(folder)) if len(runs) > 1 else markup.paragraph(str(folder), "note"))
        sections += _run(folder, findings)
    write_text(file, markup.document(title, [*body, *sections]))
    return file


def read_part(file: Path) -> Any:
    """What a JSON file of the run holds; {} where it is missing or not whole."""
    try:
        content = read_json(file)
    except READ_ERRORS:
        return {}
    return content if isinstance(content, dict) else {}


def _side_by_side(folders: Sequence[Path]) -> list[str]:
    rows = []
    for folder in folders:
        stages = read_part(folder / "results.json").get("stages") or [{}]
        last = stages[-1]
        cells = [f"{last[key]:,}" if last.get(key) is not None else "" for key in ("parameters", "macs", "keras_bytes")]
        ap = "" if last.get("ap") is None else f"{last['ap']:.4f}"
        ms = f"{last['latency_ms']:.2f}" if "latency_ms" in last else ""
        rows.append([str(folder).replace("|", "/"), last.get("stage", "not finished"), ap, *cells, ms])
    header = ["run", "last stage", "AP", "parameters", "MACs", ".keras bytes", "ms"]
    return [markup.heading("Side by side"), markup.table(markdown_table(header, rows))]


def _run(folder: Path, findings: Findings | str) -> list[str]:
    results, state, about = (read_part(folder / f"{name}.json") for name in ("results", "state", "config"))
    settings = about.get("config") or {}
    parts = _missing(folder, results, state, settings, findings)
    if settings and not (settings.get("DATA") or {}).get("val_txt_path"):
        parts.append(markup.paragraph("Drawn scenes, not photographs: nothing here is about real faces.", "drawn"))
    stages = (settings.get("TRAIN") or {}).get("stages") or []
    model = (settings.get("MODEL") or {}).get("pretrained_model") or (settings.get("MODEL") or {}).get("net_structure")
    parts.append(markup.paragraph(f"Model: {model}. Stages: {', '.join(map(str, stages))}."))
    seen = findings if isinstance(findings, Findings) else None
    for piece in (_table, lambda *_: _faces(seen) if seen else [], _curves):
        try:
            parts += piece(results, state)
        except READ_ERRORS as error:
            said = f"{folder}: not as it was written ({error!r}); part of it is left out"
            parts.append(markup.paragraph(said, "missing"))
    return [*parts, *_search(folder), *_export(folder), *(_layers(seen) if seen else []), *_folded(about)]


def _missing(
    folder: Path, results: dict[str, Any], state: dict[str, Any], settings: dict[str, Any], findings: Findings | str
) -> list[str]:
    parts = []
    if not settings:
        parts.append("config.json is missing or damaged: which settings the run had is not known.")
    if not results:
        done = ", ".join(map(str, state.get("finished") or [])) or "none"
        position = state.get("position") or {}
        where = f" It stopped in {position['stage']!r}." if "stage" in position else ""
        epochs = len(state.get("history") or [])
        parts.append(
            f"The run is not finished: no results.json. Stages done: {done}; epochs: {epochs}.{where} The command that "
            "started it goes on from there."
        )
    elif any(row.get("ap") is None for row in results.get("stages") or []):
        parts.append("AP of some models was not measured: add the stage 'evaluate' to TRAIN.stages.")
    if isinstance(findings, str):
        parts.append(f"Pictures, precision and recall, channels and costs by layer are missing: {findings}.")
    return [markup.paragraph(f"{folder.name}: {part}", "missing") for part in parts]


def _table(results: dict[str, Any], state: dict[str, Any]) -> list[str]:
    if results.get("stages"):
        rows = results["stages"]
        parts = [markup.table(stage_table(results))]
        timed = [(row["stage"], row["latency_ms"], row["latency_ms"]) for row in rows if "latency_ms" in row]
        if timed:
            first = timed[0][1]
            parts.append(
                markup.bars(
                    [(name, first, ms) for name, ms, _ in timed], "milliseconds, beside those of the first model"
                )
            )
        return parts
    rows = [[row["stage"], f"{row['parameters']:,}", f"{row['macs'] / 1e6:.2f} M"] for row in state.get("rows") or []]
    return [markup.table(markdown_table(["stage so far", "parameters", "MACs"], rows))] if rows else []


def _curves(results: dict[str, Any], state: dict[str, Any]) -> list[str]:
    history = state.get("history") or []
    parts = []
    if history:
        lines = {
            name: [(row["epoch"], row[column]) for row in history if row.get(column) is not None]
            for name, column in (("training", "loss"), ("validation", "val_loss"))
        }
        ends = {row["stage"]: row["epoch"] for row in history}
        spans = ", ".join(f"{stage} to {epoch}" for stage, epoch in ends.items())
        parts += [markup.heading("Training", 3), markup.chart(lines, x="epoch", y="loss")]
        parts.append(markup.paragraph(f"Epochs by stage: {spans}.", "note"))
        precision = [(row["epoch"], row["val_ap"]) for row in history if row.get("val_ap") is not None]
        if precision:
            parts.append(markup.chart({"validation": precision}, x="epoch", y="AP"))
    measured = [(row["stage"], row["ap"]) for row in results.get("stages") or [] if row["ap"] is not None]
    if measured:
        parts.append(markup.bars([(name, 1.0, ap) for name, ap in measured], "AP by stage"))
    return parts


def _faces(findings: Findings) -> list[str]:
    before, after = findings.names
    parts = []
    if findings.pictures:
        parts.append(markup.heading("Faces before and after", 3))
        parts.append(
            markup.paragraph(
                f"Left {before}, right {after}, at a score of {SURE}. Green: found; red: lost; grey: missed before "
                f"too; orange: no face. Of {findings.found} faces found before in {findings.images} images, "
                f"{findings.lost} were lost. The pictures are spread evenly over these images.",
                "note",
            )
        )
        parts += [markup.picture(jpeg, caption) for caption, jpeg in findings.pictures]
    if findings.curves:
        parts.append(markup.heading("Precision and recall", 3))
        caption = f"precision, on {findings.images} validation images"
        parts.append(markup.chart(findings.curves, x="recall", y=caption, x_range=(0, 1), y_range=(0, 1)))
    return parts


def _layers(findings: Findings) -> list[str]:
    before, after = findings.names
    return [
        markup.heading("Which channels went", 3),
        markup.bars(findings.channels, f"output channels that are left, {after} of {before}, layer by layer"),
        markup.heading("Where the time goes", 3),
        markup.bars(findings.macs, "millions of multiply-accumulates by layer, left of before"),
    ]


def _search(folder: Path) -> list[str]:
    if not (folder / "search.csv").is_file():
        return []
    try:
        _, table = read_table(folder / "search.csv")
        rows = [(row["trial"], row["budget_ratio"], row["val_loss"]) for row in table if math.isfinite(row["val_loss"])]
    except READ_ERRORS as error:
        return [markup.paragraph(f"search.csv: cannot be read ({error})", "missing")]
    best = dict[str, list[tuple[float, float]]]()
    for trial, ratio, loss in rows:
        line = best.setdefault(f"best so far, about {ratio:.1f} of the budget left", [])
        line.append((trial, min(loss, line[-1][1] if line else loss)))
    parts = [markup.heading("Search", 3)]
    parts.append(markup.chart(best, x="trial", y=f"validation loss of {len(rows)} trials"))
    if len(best) > 1:
        left = [(ratio, loss) for _, ratio, loss in rows]
        front = pareto_front(*(np.array(column) for column in zip(*left, strict=True)))
        lines = {"trials": left, "not beaten in both": [left[index] for index in front]}
        parts.append(markup.chart(lines, x="share of the budget left", y="validation loss", dots=True))
    return parts


def _export(folder: Path) -> list[str]:
    if not (folder / "export.json").is_file():
        return []
    try:
        return [markup.heading("Exports", 3), markup.table(export_table(read_part(folder / "export.json")["rows"]))]
    except READ_ERRORS as error:
        return [markup.paragraph(f"export.json: cannot be read ({error!r})", "missing")]


def _folded(about: dict[str, Any]) -> list[str]:
    versions = {key: value for key, value in about.items() if key != "config"}
    return [
        markup.folded("Settings", json.dumps(about.get("config") or {}, indent=2)),
        markup.folded("Versions, command, data", json.dumps(versions, indent=2)),
    ]
