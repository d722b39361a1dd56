"""Measure everybody, interleaved, and print one table for each end state.

What is measured and how to read it: docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import inputs as making
from benchmarks import machine, tables
from benchmarks.cases import CASES, Case
from benchmarks.checks import CheckError
from benchmarks.contenders import Contender, Place
from benchmarks.measure import RunError, run, settle
from benchmarks.own import FILES, driver
from benchmarks.services import Engine, Registry, found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.inputs import Inputs

_SLOW_RUNS = 2
"""Of other tools that take longer than `--slow`."""
_RESERVE = 2 << 30
"""Bytes of the disk that are left alone."""
_STATES = tuple(case.name for case in CASES)
_PROGRAMS = ("docker", "dockerd", "docker-registry")


def main() -> None:
    """Measure, print, and keep the results."""
    options = _parser().parse_args()
    chosen = options.only.split(",")
    unknown = sorted(set(chosen) - {*_STATES, "small"})
    lacking = [program for program in _PROGRAMS if not found(program)]
    if unknown or lacking:
        hint = f"--only knows {', '.join(_STATES)}, small" if unknown else ".ci/docker-engine start"
        sys.exit(f"unknown: {unknown}, not here: {lacking}; {hint}")
    options.work.mkdir(parents=True, exist_ok=True)
    results = _earlier(options.json)
    results["machine"] = machine.facts(options.work)
    # Whoever ends this ends the services too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as services:
        _measure_sets(options, chosen, results, services)
    print(tables.everything(results))
    sys.exit(1 if any("fault" in row for row in results["rows"]) else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", default="1,4,16", help="in GiB (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument(
        "--only", default=f"{','.join(_STATES)},small", help="end states, small (%(default)s)"
    )
    parser.add_argument("--slow", type=float, default=60.0, help="seconds of a tool that runs less")
    parser.add_argument("--contenders", default="", help="a pattern: only those, and the floors")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/builder-benchmarks"))  # noqa: S108 - must be a disk, and is kept
    return parser


def _earlier(path: Path) -> dict[str, Any]:
    """Return what other runs measured; what is measured again replaces it."""
    empty: dict[str, Any] = {"rows": []}
    return json.loads(path.read_text("utf-8")) if path.exists() else empty


def _measure_sets(
    options: argparse.Namespace, chosen: list[str], results: dict[str, Any], services: ExitStack
) -> None:
    work = options.work.resolve()
    registry = services.enter_context(Registry(work / "registry"))
    engine = Engine("engine", work / "engine", containerd_store=True)
    classic = Engine("classic", work / "classic", containerd_store=False)
    for each in (engine, classic):
        services.enter_context(each)
    for inputs, cases in _sets(options, chosen, work / "inputs"):
        place = Place(inputs, work, registry, engine, classic)
        place.clean()
        _lock(place)
        for case in cases:
            rows = _measure(_narrowed(case, options.contenders), place, options)
            measured = [_identity(row) for row in rows]
            others = [row for row in results["rows"] if _identity(row) not in measured]
            results["rows"] = others + rows
            options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        place.clean()


def _sets(
    options: argparse.Namespace, chosen: list[str], root: Path
) -> Iterator[tuple[Inputs, list[Case]]]:
    """Yield the sets of inputs, smallest first, with the end states to measure on each."""
    cases = [case for case in CASES if case.name in chosen]
    if cases:
        for size in sorted(float(size) for size in options.sizes.split(",")):
            yield making.large(size, root), cases
    if "small" in chosen:
        yield making.small(root), [case for case in cases or CASES if case.takes_small]


def _narrowed(case: Case, pattern: str) -> Case:
    chosen = [c for c in case.contenders if c.kind == "floor" or re.search(pattern, c.name)]
    return replace(case, contenders=tuple(chosen))


def _identity(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["set"], row["state"], row["contender"]


def _lock(place: Place) -> None:
    """Write the digests of the layers into the lock of the inputs."""
    said = run([driver(place, FILES, "nowhere")])
    making.write_lock(place.inputs, said["layers"])


def _measure(case: Case, place: Place, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = [_row(case, contender, place) for contender in case.contenders]
    pairs = list(zip(case.contenders, rows, strict=True))
    if case.keeps:
        for contender, row in pairs:
            place.clean()
            _prepare(contender, row, place)
            for _ in range(options.runs):
                _one(contender, row, place, options.slow)
        place.clean()
        return rows
    for _ in range(options.runs):
        for contender, row in pairs:
            place.clean()
            _one(contender, row, place, options.slow)
    return rows


def _row(case: Case, contender: Contender, place: Place) -> dict[str, Any]:
    """Return the empty results of a contender, with the reason if it cannot take part."""
    row: dict[str, Any] = {
        "set": place.inputs.label,
        "gib": place.inputs.gib,
        "state": case.name,
        "contender": contender.name,
        "kind": contender.kind,
        "runs": [],
    }
    lacking = [program for program in contender.needs if not found(program)]
    free = shutil.disk_usage(place.work).free - _RESERVE
    if lacking:
        row["left_out"] = f"no {lacking[0]} here"
    elif contender.disk * place.inputs.size > free:
        row["left_out"] = "for want of disk"
    return row


def _prepare(contender: Contender, row: dict[str, Any], place: Place) -> None:
    if "left_out" in row:
        return
    try:
        contender.once(place)
    except (RunError, CheckError) as fault:
        row["fault"] = str(fault)


def _one(contender: Contender, row: dict[str, Any], place: Place, slow: float) -> None:
    """Add one run, unless the contender is out or has run often enough."""
    seconds = [each["seconds"] for each in row["runs"]]
    is_slow = contender.kind == "peer" and max(seconds, default=0) > slow
    if "left_out" in row or "fault" in row or (is_slow and len(seconds) >= _SLOW_RUNS):
        return
    place.number += 1
    try:
        row["runs"].append(_timed(contender, place))
    except (RunError, CheckError) as fault:
        row["fault"] = str(fault)
    _say(row)


def _timed(contender: Contender, place: Place) -> dict[str, Any]:
    """Run once: from files in the page cache and a quiet disk to a checked end state."""
    contender.before(place)
    commands = contender.commands(place)
    cached = making.read_into_cache(place.inputs)
    settle()
    load, mark = os.getloadavg()[0], place.registry.mark()
    result = run(commands)
    result["settle"] = settle()
    result |= {"cached": cached, "load": round(load, 2)}
    result["requests"] = place.registry.requests_since(mark)
    result.pop("layers", None)
    contender.check(place)
    return result


def _say(row: dict[str, Any]) -> None:
    last = row.get("fault") or f"{row['runs'][-1]['seconds']:.2f} s"
    print(f"{row['set']}, {row['state']}: {row['contender']}: {last}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
