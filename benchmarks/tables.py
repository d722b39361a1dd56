"""Results as Markdown: medians, and how many times ours they are."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.inputs import GIB, MIB

Row = dict[str, Any]
Results = dict[str, Any]
Sheet = list[list[str]]

_ENOUGH = 5
"""Runs; where there are fewer, the table says so."""


def everything(results: Results) -> str:
    """Return all tables, as they are printed."""
    parts = [machine(results)]
    parts += [f"{case.title}\n\n{state(results, case)}" for case in CASES if rows(results, case)]
    parts += [floors(results), slopes(results), requests(results), absent(results)]
    return "\n\n".join(part for part in parts if part)


def rows(results: Results, case: Case) -> list[Row]:
    """Return what was measured of an end state."""
    return [row for row in results["rows"] if row["state"] == case.name]


def median(row: Row) -> float:
    """Return the median seconds of a contender."""
    return float(statistics.median(run["seconds"] for run in row["runs"]))


def sets(found: list[Row]) -> list[str]:
    """Return the labels of the inputs, by size, the many small files last."""
    sizes = {row["set"]: (row["set"].endswith("files"), row["gib"]) for row in found}
    return sorted(sizes, key=lambda label: sizes[label])


def machine(results: Results) -> str:
    """Return the facts about the machine."""
    return "; ".join(f"{key} {text}" for key, text in results["machine"].items()) + "."


def state(results: Results, case: Case) -> str:
    """Return the table of one end state: a row for each contender, a column for each set."""
    found = rows(results, case)
    if not found:
        return "Not among these results."
    labels = sets(found)
    lines = [["", *labels, "each GiB", "sync after", "memory", "written"]]
    fitted = {name: fit(points)[0] for name, points in series(results, case).items() if points[1:]}
    for contender in contenders(found):
        mine = {row["set"]: row for row in found if row["contender"] == contender}
        cells = [_cell(mine.get(label), _first(found, label)) for label in labels]
        slope = seconds(fitted[contender]) if contender in fitted else ""
        lines.append([contender, *cells, slope, *_cost(list(mine.values()))])
    if case.floors:
        name = lines[1][0]
        cells = [_above(found, name, label, case) for label in labels]
        lines.append(["**first row, above the floor**", *cells, "", "", "", ""])
    return sheet(lines)


def contenders(found: list[Row]) -> list[str]:
    """Return ours, then the others, then the floors, in the order of the case."""
    kinds = {row["contender"]: row["kind"] for row in found}
    return sorted(kinds, key=lambda name: ("ours", "peer", "floor").index(kinds[name]))


def _first(found: list[Row], label: str) -> Row:
    """Return the contender that others are compared with: the first of ours."""
    return next(row for row in found if row["set"] == label)


def _cell(row: Row | None, first: Row) -> str:
    if row is None or "left_out" in row:
        return "-"
    if "fault" in row or not row["runs"]:
        return "failed"
    count = len(row["runs"])
    few = f" (of {count})" if count < _ENOUGH else ""
    text = f"{seconds(median(row))}{few}"
    if row is first or not first["runs"]:
        return text
    return f"{text}, {ratio(median(row) / median(first))}"


def _cost(mine: list[Row]) -> list[str]:
    """Return what came after with the largest inputs, and the worst peak and bytes written."""
    runs = [run for row in mine for run in row["runs"]]
    if not runs:
        return ["-", "", ""]
    largest = max((row for row in mine if row["runs"]), key=lambda row: row["gib"])
    after = seconds(statistics.median(run["settle"] for run in largest["runs"]))
    if largest["kind"] != "ours":
        return [after, "", ""]
    peak, written = (max(run[key] for run in runs) for key in ("peak", "written"))
    return [after, f"{peak / MIB:.0f} MiB", size(written)]


def size(count: int) -> str:
    """Return bytes for a reader."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count >= MIB // 10 else f"{count / 1024:.0f} KiB"


def seconds(value: float) -> str:
    """Return seconds with two or three digits; a slope may be next to nothing."""
    if abs(value) < 0.01:  # noqa: PLR2004 - what two digits cannot say
        return f"{value * 1000:.1f} ms"
    if value >= 10:  # noqa: PLR2004 - more digits than that say nothing
        return f"{value:.0f} s"
    return f"{value:.2f} s"


def ratio(value: float) -> str:
    """Return how many times something is."""
    digits = 0 if value >= 10 else 2  # noqa: PLR2004 - more digits than that say nothing
    return f"{value:.{digits}f} ×"  # noqa: RUF001 - the sign


def floors(results: Results) -> str:
    """Return how far each of ours is above what nobody can beat."""
    labels = sets(results["rows"])
    lines = [["Ours above the floor", "floor", *labels]]
    for case in CASES:
        found = rows(results, case) if case.floors else []
        for name in contenders([row for row in found if row["kind"] == "ours"]):
            cells = [_above(found, name, label, case) for label in labels]
            lines.append([f"{case.name}: {name}", " or ".join(case.floors), *cells])
    return sheet(lines) if len(lines) > 1 else ""


def _above(found: list[Row], name: str, label: str, case: Case) -> str:
    here = {row["contender"]: row for row in found if row["set"] == label and row["runs"]}
    limits = [median(here[floor]) for floor in case.floors if floor in here]
    if name not in here or not limits:
        return "-"
    return ratio(median(here[name]) / max(limits))


def slopes(results: Results) -> str:
    """Return the fitted cost of one more GiB, and of none."""
    lines = [["Cost against size", "s for each GiB", "s at none", "GiB measured"]]
    for case in CASES:
        for contender, points in series(results, case).items():
            if len(points) > 1:
                slope, start = fit(points)
                measured = ", ".join(f"{gib:g}" for gib, _ in points)
                name = f"{case.name}: {contender}"
                lines.append([name, f"{slope:.4f}", f"{start:.2f}", measured])
    return sheet(lines) if len(lines) > 1 else ""


def series(results: Results, case: Case) -> dict[str, list[tuple[float, float]]]:
    """Return GiB and median seconds of each contender; small files are no size."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows(results, case), key=lambda row: row["gib"]):
        if row["runs"] and "fault" not in row and not row["set"].endswith("files"):
            points.setdefault(row["contender"], []).append((row["gib"], median(row)))
    return points


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return slope and start of the line of least squares."""
    line = statistics.linear_regression(*zip(*points, strict=True))
    return line.slope, line.intercept


def requests(results: Results) -> str:
    """Return what a release without weights asked of the registry, and how much it sent."""
    ours = [row for row in results["rows"] if row["state"] == "release" and row["kind"] == "ours"]
    lines = [["Release", "requests", "blobs sent", "read"]]
    for row in ours:
        if row["runs"] and row["gib"] == max(row["gib"] for row in ours):
            last = row["runs"][-1]
            asked = ", ".join(f"{count} {kind}" for kind, count in sorted(last["requests"].items()))
            name = f"{row['contender']}, {row['set']}"
            lines.append([name, asked, size(last["sent"]), size(last["read"])])
    return sheet(lines) if len(lines) > 1 else ""


def absent(results: Results) -> str:
    """Return who was left out or failed, and why."""
    why: dict[str, list[str]] = {}
    for row in results["rows"]:
        reason = row.get("left_out") or row.get("fault", "").partition("\n")[0]
        if reason:
            why.setdefault(f"{row['set']}, {reason}", []).append(
                f"{row['contender']} ({row['state']})"
            )
    lines = [f"- Not measured: {reason}: {', '.join(names)}." for reason, names in why.items()]
    return "\n".join(lines or ["- Nobody here was left out."])


def sheet(lines: Sheet) -> str:
    """Return a Markdown table with columns of equal width."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(_padded(line, widths) for line in (lines[0], rule, *lines[1:]))


def _padded(line: list[str], widths: list[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
    return f"| {' | '.join(cells)} |"
