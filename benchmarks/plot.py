"""Bring results into the documents: `python -m benchmarks.plot [FILE]`.

Writes docs/performance.svg and the tables of docs/performance.md, so that both say what was
measured and nothing else.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import tables
from benchmarks.cases import CASES, Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_DOCS = Path(__file__).parents[1] / "docs"
_PANELS = {"bake": "Bake", "push": "Bake and push", "release": "Release again"}
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 700, 236, 34, 40
_LEFT, _GAP = 54, 16
_LINE = 18
_INK, _GRID = "#7d8590", "#7d85904d"
"""Neither black nor white: read on light and on dark pages."""
_STYLES: tuple[tuple[str, str, str], ...] = (
    ("ours, digests of files locked", "#2f81f7", ""),
    ("ours, digests of layers locked", "#8957e5", ""),
    ("ours, no weight file here", "#1a9e96", ""),
    ("docker buildx", "#db6d28", ""),
    ("docker buildx, uncompressed", "#db6d28", "5 3"),
    ("docker build and push", "#e5534b", ""),
    ("docker build and push (overlay2 store)", "#e5534b", "5 3"),
    ("buildah", "#bf8700", ""),
    ("skopeo, from a finished layout", "#2da44e", ""),
    ("every byte hashed once", _INK, "2 3"),
    ("plain parallel PUT", _INK, "6 3"),
)
"""Who is drawn, in which colour and with which dashes."""

Series = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Axes:
    """Both scales of a panel: logarithmic, from a power of ten to the next."""

    left: float
    width: float
    sizes: tuple[float, float]
    seconds: tuple[float, float]

    def x(self, gib: float) -> float:
        """Return where a size is."""
        return self.left + self.width * _share(gib, self.sizes)

    def y(self, value: float) -> float:
        """Return where a time is."""
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * _share(value, self.seconds)


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = map(math.log10, limits)
    return (math.log10(value) - low) / (high - low)


def svg(results: dict[str, Any]) -> str:
    """Return the drawing of seconds against size, one panel for each end state."""
    panels = {case: _drawn(tables.series(results, case)) for case in _panel_cases()}
    points = [point for series in panels.values() for line in series.values() for point in line]
    sizes, times = [gib for gib, _ in points], [value for _, value in points]
    limits = (min(sizes) / 1.3, max(sizes) * 1.3)
    decades = (10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times))))
    width = (_WIDTH - _LEFT - _GAP * len(_PANELS)) / len(_PANELS)
    shapes: list[str] = []
    for number, (case, series) in enumerate(panels.items()):
        axes = Axes(_LEFT + number * (width + _GAP), width, limits, decades)
        shapes += _panel(case, series, axes, is_first=number == 0)
    names = {name for series in panels.values() for name in series}
    shapes += _legend([style for style in _STYLES if style[0] in names])
    height = _HEIGHT + _LINE * math.ceil(len(names) / 2) + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12" '
        f'fill="{_INK}" role="img" aria-label="Seconds against GiB of weights">'
    )
    return "\n".join([head, *shapes, "</svg>", ""])


def _panel_cases() -> list[Case]:
    return [case for case in CASES if case.name in _PANELS]


def _drawn(series: Series) -> Series:
    return {name: series[name] for name, _, _ in _STYLES if name in series}


def _panel(case: Case, series: Series, axes: Axes, *, is_first: bool) -> Iterator[str]:
    yield _text(axes.left + axes.width / 2, 16, _PANELS[case.name], "middle", weight="bold")
    right, bottom = axes.left + axes.width, axes.y(axes.seconds[0])
    low, high = (round(math.log10(limit)) for limit in axes.seconds)
    for value in (10.0**power for power in range(low, high + 1)):
        y = axes.y(value)
        yield f'<path d="M{axes.left:.1f} {y:.1f}H{right:.1f}" stroke="{_GRID}"/>'
        if is_first:
            yield _text(axes.left - 6, y + 4, f"{value:g} s", "end")
    for gib in sorted({gib for line in series.values() for gib, _ in line}):
        x = axes.x(gib)
        yield f'<path d="M{x:.1f} {_TOP}V{bottom:.1f}" stroke="{_GRID}"/>'
        yield _text(x, bottom + 16, f"{gib:g}", "middle")
    yield _text(axes.left + axes.width / 2, bottom + 32, "GiB of weights", "middle")
    for name, colour, dashes in _STYLES:
        if name in series:
            yield from _curve(series[name], axes, colour, dashes)


def _curve(
    line: Sequence[tuple[float, float]], axes: Axes, colour: str, dashes: str
) -> Iterator[str]:
    at = [(axes.x(gib), axes.y(value)) for gib, value in line]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    yield (
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dashes or "none"}"/>'
    )
    for x, y in at:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _legend(styles: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    depth = math.ceil(len(styles) / 2)
    for number, (name, colour, dashes) in enumerate(styles):
        x = _LEFT + number // depth * (_WIDTH - _LEFT) / 2
        y = _HEIGHT + 8 + number % depth * _LINE
        yield (
            f'<path d="M{x:.1f} {y}h28" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes or "none"}"/>'
        )
        yield _text(x + 36, y + 4, name, "start")


def _text(x: float, y: float, text: str, anchor: str, *, weight: str = "normal") -> str:
    words = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {words}>{escape(text)}</text>"


def document(text: str, results: dict[str, Any]) -> str:
    """Return a document where what follows each marker, up to a blank line, is made anew."""
    made: dict[str, Callable[[], str]] = {
        "machine": lambda: tables.machine(results),
        "requests": lambda: tables.requests(results),
        "absent": lambda: tables.absent(results),
    }
    for case in CASES:
        made[case.name] = lambda case=case: tables.state(results, case)  # type: ignore[misc]
    marker = re.compile(r"<!-- (\w+) -->\n(?:.+\n)*")
    return marker.sub(lambda found: f"<!-- {found[1]} -->\n{made[found[1]]()}\n", text)


def main() -> None:
    """Write both documents from a file of results."""
    path = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("results.json")
    results = json.loads(path.read_text("utf-8"))
    (_DOCS / "performance.svg").write_text(svg(results), "utf-8")
    page = _DOCS / "performance.md"
    page.write_text(document(page.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    main()
