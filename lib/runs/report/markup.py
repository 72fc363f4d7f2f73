"""Pieces of a page as text: tables, lines, bars and points. Whatever comes in as text is escaped."""

import base64
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from lib.evaluation.curve import COLOURS

Points = Sequence[tuple[float, float]]
_Place = Callable[[tuple[float, float]], tuple[float, float]]

_WIDTH, _HEIGHT = 420, 260  # about a phone's width, so that letters are drawn at their size
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 10, 40
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
svg { display: block; width: 100%; max-width: 36rem; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
figure { margin: 1rem 0; } figcaption, .note { font-size: .9rem; opacity: .85; overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: fit-content(45%) 1fr max-content; gap: .1rem .6rem; align-items: center; }
.bars { font-size: .8rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.bar { position: relative; height: .8rem; }
.bar i { position: absolute; height: 100%; background: #8886; } .bar i + i { background: #0072b2; }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 .8rem; }
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
    """What `lib.tables` makes, a Markdown table and notes below it, as markup; columns without a value are left out."""
    rows, notes = list[list[str]](), list[str]()
    for line in markdown.splitlines():
        if not line.startswith("|"):
            notes += [paragraph(line.strip(), "note")] if line.strip() else []
        elif set(line) - set("|-:"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    used = [any(column) for column in zip(*rows[1:], strict=False)]
    parts = []
    for index, row in enumerate(rows):
        tag = "td" if index else "th"
        cells = (f"<{tag}>{escape(cell)}</{tag}>" for cell in (itertools.compress(row, used) if used else row))
        parts.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{"".join(parts)}</table></div>' + "".join(notes)


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

    whole = all(float(point[0]).is_integer() for point in every)
    parts = [_axis_x(place, (low_x, high_x), low_y, x, 1 if whole else 0), _axis_y(place, (low_y, high_y), low_x)]
    keys = []
    for index, (name, points) in enumerate(finite.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [place(point) for point in points]
        if dots or len(places) == 1:
            parts += [f'<circle cx="{left}" cy="{top}" r="3" fill="{colour}"/>' for left, top in places]
        else:
            path = " ".join(f"{left},{top}" for left, top in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        keys.append(f'<i class="key" style="background:{colour}"></i>{escape(name)}')
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(y)}{''.join(keys)}</figcaption>{svg}</figure>"


def bars(rows: Sequence[tuple[str, float, float]], caption: str) -> str:
    """A bar a row: the whole in grey, what is left of it in colour, and both numbers.

    Args:
        rows: (name, before, after).
        caption: above them; says the unit.

    """
    if not rows:
        return paragraph(f"{caption}: nothing", "note")
    longest = max(max(before, after) for _, before, after in rows) or 1.0
    parts = []
    for name, before, after in rows:
        drawn = "".join(f'<i style="width:{100 * value / longest:.1f}%"></i>' for value in (before, after))
        numbers = f"{_short(after)} of {_short(before)}"
        parts.append(f'<span>{escape(name)}</span><span class="bar">{drawn}</span><span>{numbers}</span>')
    shown = f'<div class="bars">{"".join(parts)}</div>'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{shown}</figure>"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _room(ends: tuple[float, float]) -> tuple[float, float]:
    return ends if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """At most seven round numbers between two, `least` apart or more."""
    size = 10 ** math.floor(math.log10((high - low) / 6))
    step = max(least, next(size * factor for factor in (1, 2, 5, 10, 20) if size * factor * 6 >= high - low))
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _axis_x(place: _Place, ends: tuple[float, float], floor: float, name: str, least: float) -> str:
    parts = []
    for value in _ticks(*ends, least):
        left, top = place((value, floor))
        parts.append(f'<text x="{left}" y="{top + 16}" text-anchor="middle">{value:.4g}</text>')
    right = _WIDTH - _RIGHT
    return "".join(parts) + f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{escape(name)}</text>'


def _axis_y(place: _Place, ends: tuple[float, float], left: float) -> str:
    parts = []
    for value in _ticks(*ends):
        x, y = place((left, value))
        parts.append(
            f'<line x1="{x}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#8884"/>'
            f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{value:.4g}</text>'
        )
    return "".join(parts)
