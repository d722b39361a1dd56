"""What the suite tells whoever started it: one JSON line per check, as soon as it is known.

{"kind": "note", "text": …}
{"kind": "check", "id": …, "outcome": "passed|failed|skipped", "seconds": …, "reason": …}
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class Report:
    """Writes lines to a file; without one, says nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", encoding="utf-8") if path else None
        self._seconds: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Tell what goes on."""
        self._write({"kind": "note", "text": text})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell what a check said: at its call, or where it could not even be called."""
        report = yield
        spent = self._seconds.pop(item.nodeid, 0.0) + report.duration
        if report.when == "setup" and report.passed:
            self._seconds[item.nodeid] = spent
        elif report.when != "teardown" or not report.passed:
            self._write(_check(item.nodeid, report.outcome, spent, call.excinfo))
        return report

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()


def _check(
    name: str, outcome: str, seconds: float, fault: pytest.ExceptionInfo[BaseException] | None
) -> dict[str, Any]:
    reason = str(fault.value).strip().split("\n", 1)[0] if fault else ""
    if fault and not reason:
        reason = fault.typename
    return {
        "kind": "check",
        "id": name,
        "outcome": outcome,
        "seconds": round(seconds, 3),
        "reason": reason,
    }
