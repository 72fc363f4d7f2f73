"""Pieces of a page as text: tables, lines, bars and points. Whatever comes in as text is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from lib.evaluation.curve import COLOURS

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg, img { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
figure { margin: 1rem 0; } figcaption, .note { font-size: .9rem; opacity: .85; overflow-wrap: anywhere; }
.missing { border-left: .3rem solid #d55e00; padding-left: .8rem; }
.drawn { border: 1px solid #e69f00; padding: .2rem .6rem; }
pre { overflow-x: auto; }
"""


def document(title: str, body: Sequence[str]) -> str:
    """A whole HTML file of pieces that are markup already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "", "note", "missing" or "drawn"."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def folded(title: str, text: str) -> str:
    """Text that is shown when its title is touched."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def table(markdown: str) -> str:
    """What `lib.tables` makes, a Markdown table and notes below it, as markup."""
    rows, notes = list[str](), list[str]()
    for line in markdown.splitlines():
        if not line.startswith("|"):
            notes += [paragraph(line.strip(), "note")] if line.strip() else []
        elif set(line) - set("|-:"):
            tag = "td" if rows else "th"
            cells = (f"<{tag}>{escape(cell.strip())}</{tag}>" for cell in line.strip().strip("|").split("|"))
            rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>' + "".join(notes)


def picture(jpeg: bytes, caption: str) -> str:
    """An embedded picture."""
    inside = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return f'<figure><img src="{inside}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def chart(
    lines: Mapping[str, Points],
    *,
    x: str,
    y: str,
    dots: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines (or dots) over two axes with their names; values that are not finite are left out.

    Args:
        lines: points by name.
        x, y: what the axes show.
        x_range, y_range: of the axes; None: what the points need.

    """
    finite = {name: [p for p in points if np.isfinite(p).all()] for name, points in lines.items()}
    every = [point for points in finite.values() for point in points]
    if not every:
        return paragraph(f"{y}: no values", "note")
    low_x, high_x = _room(x_range or (min(p[0] for p in every), max(p[0] for p in every)))
    low_y, high_y = _room(y_range or (min(p[1] for p in every), max(p[1] for p in every)))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)
        up = (point[1] - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_HEIGHT - _BOTTOM - up, 1)

    parts = [_axes(low_x, high_x, low_y, high_y, x)]
    for index, (name, points) in enumerate(finite.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [place(point) for point in points]
        if dots or len(places) == 1:
            parts += [f'<circle cx="{left}" cy="{top}" r="3" fill="{colour}"/>' for left, top in places]
        else:
            path = " ".join(f"{left},{top}" for left, top in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{_TOP + 14 + 16 * index}" text-anchor="end" '
            f'style="fill:{colour}">{escape(name)}</text>'
        )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y)}">{"".join(parts)}</svg>'
    return f"<figure>{svg}<figcaption>{escape(y)}</figcaption></figure>"


def bars(rows: Sequence[tuple[str, float, float]], caption: str) -> str:
    """A bar a row: the whole in grey, what is left of it in colour, and both numbers.

    Args:
        rows: (name, before, after).
        caption: below them; says the unit.

    """
    if not rows:
        return paragraph(f"{caption}: nothing", "note")
    step, name_px, number_px = 18, 200, 120
    longest = max(max(before, after) for _, before, after in rows) or 1.0
    parts = []
    for index, (name, before, after) in enumerate(rows):
        top, scale = step * index, (_WIDTH - name_px - number_px) / longest
        parts.append(
            f'<text x="{name_px - 6}" y="{top + 13}" text-anchor="end">{escape(name[-28:])}</text>'
            f'<rect x="{name_px}" y="{top + 3}" width="{before * scale:.1f}" height="12" fill="#8886"/>'
            f'<rect x="{name_px}" y="{top + 3}" width="{after * scale:.1f}" height="12" fill="{COLOURS[0]}"/>'
            f'<text x="{_WIDTH - number_px + 6}" y="{top + 13}">{after:,.4g} of {before:,.4g}</text>'
        )
    height = step * len(rows) + 4
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(caption)}">{"".join(parts)}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _room(ends: tuple[float, float]) -> tuple[float, float]:
    return ends if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)


def _axes(low_x: float, high_x: float, low_y: float, high_y: float, x: str) -> str:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        left, top = _LEFT + share * (right - _LEFT), floor - share * (floor - _TOP)
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{top:.1f}" y2="{top:.1f}" stroke="#8884"/>'
            f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{low_y + share * (high_y - low_y):.3g}</text>'
            f'<text x="{left:.1f}" y="{floor + 16}" text-anchor="middle">{low_x + share * (high_x - low_x):.3g}</text>'
        )
    return "".join(parts) + f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x)}</text>'
