"""Stop a run at every call that changes something, look at what is left, and run it again."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests import registry_server
from tests.faults import driver_inputs, state, tracing
from tests.faults.tracing import Fault, Outcome, Point

SCENARIOS = ("write", "rewrite", "download", "unpack", "push")
PARALLEL = 2
ATTEMPTS = 4
"""Where threads share the work, the same temporary name is not always the same file's."""
DRIVER = str(Path(__file__).with_name("driver.py"))
REFUSED = (10, 11)
"""How a run may end that met an error: wrong bytes, or a machine that lacks something."""
_ALLOCATES = ("write", "pwrite", "copy_", "openat", "mkdir", "rename", "link", "symlink", "fallo")
_NO_ERROR = ("sync", "ioctl", "sendto")
"""Calls that return none; or go on without; or whose errors come from the other side, which would
have to be there: what registries do is scripted elsewhere.
"""
_REMOVES = ("unlink", "unlinkat", "rmdir")


@dataclass(frozen=True)
class Scenario:
    """A run, where it begins and where it ends."""

    name: str
    template: Path
    output: str
    fingerprint: str
    points: Sequence[Point]

    @property
    def faults(self) -> Iterator[Fault]:
        for point in self.points:
            yield Fault(point, "KILL")
            if point.call in _NO_ERROR:
                continue
            yield Fault(point, "EIO")
            if point.call.startswith(_ALLOCATES):
                yield Fault(point, "ENOSPC")


@dataclass(frozen=True)
class Tried:
    """What one fault showed."""

    missed: str = ""
    survived: bool = False
    violations: Sequence[str] = ()


@dataclass
class Report:
    """What a campaign did."""

    total: int = 0
    run: int = 0
    points: int = 0
    missed: list[str] = field(default_factory=list)
    """Faults that met no call, or another than planned: they say nothing."""
    survived: int = 0
    """Errors that the run did without."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, tried: Tried) -> None:
        self.run += 1
        self.survived += tried.survived
        self.missed += [tried.missed] if tried.missed else []
        self.violations += tried.violations

    def __str__(self) -> str:
        return (
            f"{self.run} of {self.total} faults at {self.points} calls in {self.seconds:.0f} s: "
            f"{len(self.violations)} violations, "
            f"{len(self.missed)} missed, {self.survived} errors survived"
        )


def campaign(
    names: Sequence[str],
    seconds: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Run every fault of every scenario, or as many as fit into some seconds, evenly chosen."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        content = folder / "registry"
        content.mkdir()
        registry = stack.enter_context(registry_server.serving(content))
        return Campaign(folder, registry).run(names, seconds, say)


class Campaign:
    """Many runs below one folder, and against one registry."""

    def __init__(self, folder: Path, registry: registry_server.Registry) -> None:
        self.report = Report()
        self._folder, self._registry = folder, registry
        self._begin = time.monotonic()

    def run(
        self, names: Sequence[str], seconds: float | None, say: Callable[[str], object]
    ) -> Report:
        report = self.report
        scenarios = [self._prepared(name) for name in names]
        todo = [(scenario, fault) for scenario in scenarios for fault in scenario.faults]
        report.total = len(todo)
        report.points = sum(len(scenario.points) for scenario in scenarios)
        random.Random(0).shuffle(todo)  # noqa: S311 - the same sample at every run

        def one(number: int) -> Tried | None:
            if seconds is not None and time.monotonic() - self._begin > seconds:
                return None
            scenario, fault = todo[number]
            tries = (
                self._try(scenario, fault, self._folder / f"{scenario.name}-{number}-{attempt}")
                for attempt in range(ATTEMPTS)
            )
            return next((tried for tried in tries if not tried.missed), Tried(missed=str(fault)))

        with ThreadPoolExecutor(PARALLEL) as workers:
            for tried in workers.map(one, range(len(todo))):
                if tried is not None:
                    report.add(tried)
                    report.seconds = time.monotonic() - self._begin
                    say(str(report))
        report.violations += self._registry.content.violations()
        return report

    def _prepared(self, name: str) -> Scenario:
        """Lay out where a scenario begins, and see what an undisturbed run does."""
        template, work = self._folder / f"{name}-template", self._folder / f"{name}-undisturbed"
        log = self._folder / f"{name}.log"
        driver_inputs.lay_out(template, name)
        if name == "rewrite":
            _require(tracing.plain(self._program("write", template)))
        shutil.copytree(template, work, symlinks=True)
        outcome = _require(tracing.run(self._program(name, work), log, work))
        points = [
            point
            for point in tracing.points(log, work)
            # What is built before it is pushed is what the other scenarios write.
            if (point.call == "sendto") == (name == "push")
        ]
        return Scenario(name, template, outcome.output, state.fingerprint(work), points)

    def _try(self, scenario: Scenario, fault: Fault, work: Path) -> Tried:
        log = work.with_suffix(".log")
        shutil.copytree(scenario.template, work, symlinks=True)
        outcome = tracing.run(self._program(scenario.name, work), log, work, fault)
        try:
            place = f"{work}{fault.point.path}" if fault.point.path else ""
            if not outcome.hit or place not in outcome.hit:
                return Tried(missed=f"{scenario.name}, {fault}: met {outcome.hit or 'nothing'}")
            found = [*self._after(outcome, scenario, fault, work), *self._again(scenario, work)]
            violations = [f"{scenario.name}, {fault}: {each}" for each in found]
            return Tried(survived=outcome.code == 0, violations=violations)
        finally:
            shutil.rmtree(work)
            log.unlink()

    def _after(
        self, outcome: Outcome, scenario: Scenario, fault: Fault, work: Path
    ) -> Iterator[str]:
        """Yield what is wrong right after the fault."""
        yield from self._violations(work)
        if fault.kind == "KILL":
            if not outcome.was_killed:
                yield f"was not killed but ended with {outcome.code}"
            return
        if outcome.code == 0 and outcome.output != scenario.output:
            yield f"expected {scenario.output!r}, got {outcome.output!r}"
        said = [line for line in outcome.faults.splitlines() if not line.startswith("warning: ")]
        if outcome.code not in (0, *REFUSED) or any(said):
            yield f"ended with {outcome.code}: {outcome.output}{outcome.faults[-900:]}"
        if fault.point.call not in _REMOVES and (left := state.leftovers(work)):
            yield f"left {left}"

    def _again(self, scenario: Scenario, work: Path) -> Iterator[str]:
        """Yield what is wrong after the next run, which nothing disturbs."""
        state.age(work)
        outcome = tracing.plain(self._program(scenario.name, work))
        if (outcome.code, outcome.output) != (0, scenario.output):
            yield f"the next run ended with {outcome.code}: {outcome.output}{outcome.faults[-900:]}"
        elif state.fingerprint(work) != scenario.fingerprint:
            yield f"the next run left something else, perhaps {state.leftovers(work)}"
        yield from self._violations(work)
        if scenario.name == "push":
            tag = self._registry.content.held[work.name].tags.get("1")
            if tag != scenario.output.strip():
                yield f"the tag leads to {tag}"

    def _violations(self, work: Path) -> Iterator[str]:
        yield from state.violations(work)
        if (held := self._registry.content.held.get(work.name)) is not None:
            yield from state.broken(held)

    def _program(self, name: str, work: Path) -> list[str]:
        return tracing.python(DRIVER, name, str(work), self._registry.host)


def _require(outcome: Outcome) -> Outcome:
    if outcome.code != 0:
        message = f"ended with {outcome.code}: {outcome.output}{outcome.faults}"
        raise RuntimeError(message)
    return outcome
