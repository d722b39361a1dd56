"""Run the smoke suite against an image, and what it found as values.

The suite runs in a process of its own with its own settings, so that neither the pytest settings
nor the plugins of the folder it is called from change what is checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builder import console, files
from builder.errors import BuilderError, HostError, SmokeError
from builder.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Outcome = Literal["passed", "failed", "skipped"]

_NEEDED = ("pytest", "testcontainers")
_FOREIGN = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
_JUDGED = (0, 1)
"""Exit codes of pytest after which every check has an outcome."""
_NAMED = 10
"""Failed checks that the error names; the table has them all."""
_WIDTH = 120
"""Characters of a reason that the table shows; JSON has it whole."""
_COLUMNS = ("start", "check", "result", "seconds", "reason")


@dataclass(frozen=True)
class Check:
    """One question to the image, and the answer."""

    start: str
    """`static`, `first start`, `second start` or `restart`."""
    name: str
    outcome: Outcome
    seconds: float
    """The first check of a start also has the time until ready."""
    reason: str
    """Why it failed or was skipped."""


@dataclass(frozen=True)
class Report:
    """What the suite found."""

    image: str
    checks: tuple[Check, ...]
    seconds: float
    log: Path | None = None
    """What pytest printed, kept if a check failed."""

    def count(self, outcome: Outcome) -> int:
        """Return how many checks ended so."""
        return sum(check.outcome == outcome for check in self.checks)

    @property
    def summary(self) -> str:
        """One line."""
        outcomes: tuple[Outcome, ...] = ("passed", "failed", "skipped")
        counts = ", ".join(f"{self.count(one)} {one}" for one in outcomes if self.count(one))
        return f"{len(self.checks)} checks: {counts} in {human_seconds(self.seconds)}"

    def table(self) -> str:
        """One line per check."""
        rows = [_COLUMNS, *(_cells(check) for check in self.checks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        return "\n".join(_line(row, widths) for row in rows)

    def values(self) -> dict[str, Any]:
        """Return the report as JSON shows it."""
        checks = [asdict(check) for check in self.checks]
        return {"image": self.image, "seconds": round(self.seconds, 1), "checks": checks}

    def require_passed(self) -> None:
        """Raise SmokeError if a check failed."""
        failed = [f"{check.start}: {check.name}" for check in self.checks if _is_failed(check)]
        if failed:
            rest = [f"and {len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
            listed = "".join(f"\n  {name}" for name in [*failed[:_NAMED], *rest])
            message = f"{self.image}: {len(failed)} of {len(self.checks)} checks failed:{listed}"
            raise SmokeError(message, f"see {self.log}" if self.log else "")


def run(reference: str, lock: Path | None) -> Report:
    """Check an image that the container engine has, or can pull, against its lock if given.

    Raises:
        HostError: no engine answers, or the suite's libraries are not installed.
    """
    require_libraries()
    from builder.engine.docker import Docker

    image = Docker.connect().bring(reference)
    descriptor, name = tempfile.mkstemp(prefix="builder-smoke-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    begin = time.monotonic()
    checks = run_suite(_arguments(image, lock), log)
    report = Report(reference, checks, time.monotonic() - begin)
    if report.count("failed"):
        return replace(report, log=log)
    log.unlink()
    return report


def require_libraries() -> None:
    """Raise HostError where the extra is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        them = "them" if len(missing) > 1 else "it"
        message = f"{' and '.join(missing)}: not installed, and builder smoke needs {them}"
        # Not `builder[smoke]`: a package of that name on an index may be somebody else's.
        raise HostError(message, f"pip install {' '.join(_NEEDED)}")


def _arguments(image: str, lock: Path | None) -> list[str]:
    suite = files.data_path("smoke")
    settings = ["-c", str(suite / "pytest.ini"), "--rootdir", str(suite)]
    compared = ["--lock", str(lock.resolve())] if lock else []
    return [sys.executable, "-m", "pytest", *settings, "--image", image, *compared, str(suite)]


def run_suite(argv: list[str], log: Path) -> tuple[Check, ...]:
    """Run pytest to its end; what it prints goes to `log`, its report through a pipe of our own."""
    reader, writer = os.pipe()
    environment = {name: text for name, text in os.environ.items() if name not in _FOREIGN}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*argv, "--report", f"/dev/fd/{writer}"],
            env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
        )
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="utf-8") as lines:
            checks = tuple(read(lines))
    finally:
        # Also after Ctrl-C, which pytest got as well: it is removing its containers.
        code = process.wait()
    if code not in _JUDGED:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        message = f"the smoke suite ended with exit code {code}\n{last}"
        raise BuilderError(message, f"see {log}")
    return checks


def read(lines: Iterable[str]) -> Iterator[Check]:
    """Yield the checks of a report and show what goes on."""
    for line in lines:
        values = json.loads(line)
        if values.pop("kind") == "note":
            console.note(values["text"])
        else:
            check = _check(values)
            reason = f": {check.reason}" if check.reason else ""
            console.note(f"{check.start}: {check.name}: {check.outcome}{reason}")
            yield check


def _check(values: dict[str, Any]) -> Check:
    file, _, function = str(values["id"]).partition("::")
    return Check(
        start=_words(Path(file).stem),
        name=_words(function),
        outcome=values["outcome"],
        seconds=float(values["seconds"]),
        reason=str(values["reason"]),
    )


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _is_failed(check: Check) -> bool:
    return check.outcome == "failed"


def _cells(check: Check) -> tuple[str, ...]:
    reason = check.reason if len(check.reason) <= _WIDTH else check.reason[:_WIDTH] + "…"
    return (check.start, check.name, check.outcome, f"{check.seconds:.1f}", reason)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    start, name, outcome, seconds, reason = row
    cells = (start.ljust(widths[0]), name.ljust(widths[1]), outcome.ljust(widths[2]))
    return "  ".join((*cells, seconds.rjust(widths[3]), reason)).rstrip()
