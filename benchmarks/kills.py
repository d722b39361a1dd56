"""Kill real builds at random moments, and look whether anything they leave is wrong.

    python benchmarks/kills.py --runs 200 --stack stacks/tiny-llama-cpu.yaml

Every run is `builder build STACK --output oci:DIR --push REF`, ended by SIGKILL while it starts,
writes layers, writes the layout, or pushes.  Before each, part of what it would find done is taken
away, so that there is something to kill.  What must hold after each kill is in `witness`.  Every
tenth run is left alone and has to give the one right digest.

It needs what the stack's lock names in the usual cache, and docker-registry on this machine: a
killed push leaves an open upload, which only who owns the registry's disk can remove.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.services import Registry
from benchmarks.witness import Witness, Workplace, size_of
from builder import files

PHASES = ("start", "layers", "layout", "push", "end")
_MARKS = (
    (re.compile(r"files of the lock \("), "layers"),
    (re.compile(r"\d+ layers \("), "layout"),
    (re.compile(r"wrote "), "push"),
    (re.compile(r"pushed "), "end"),
)
"""Lines that a build prints when a step is done, and what comes next."""
_FINISH_EVERY = 10


@dataclass
class Outcome:
    """How one build ended."""

    phase: str
    """What it was at when it was killed; `end` if it was not."""
    code: int
    digest: str
    seconds: dict[str, float]
    """How long each phase took that came to its end."""
    log: list[str]


class Build:
    """One real build, and where it is."""

    def __init__(self, place: Workplace, reference: str) -> None:
        self.log: list[str] = []
        self.seconds: dict[str, float] = {}
        self.phase, self._begin = "start", time.monotonic()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        command = [sys.executable, "-m", "builder", "build", str(place.stack_path)]
        command += ["--output", f"oci:{place.layout}", "--push", reference]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"BUILDER_CACHE": str(place.cache)},
        )
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def run(self, target: str | None = None, delay: float = 0.0) -> Outcome:
        """Follow the build; kill it `delay` seconds after it reached the phase `target`."""
        has_ended = False
        try:
            has_ended = self._follow(target, delay)
        finally:
            if not has_ended:
                self.process.kill()
        with self.process:
            output = self.process.stdout.read() if self.process.stdout else ""
        code = self.process.returncode
        phase = "end" if code >= 0 else self.phase
        return Outcome(phase, code, (output.split() or [""])[-1], self.seconds, self.log)

    def _follow(self, target: str | None, delay: float) -> bool:
        deadline = None
        while True:
            if deadline is None and target and self._has_reached(target):
                deadline = time.monotonic() + delay
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                return False
            if line is None:
                return True
            self._note(line)

    def _has_reached(self, target: str) -> bool:
        return PHASES.index(self.phase) >= PHASES.index(target)

    def _note(self, line: str) -> None:
        self.log.append(line)
        for mark, following in _MARKS:
            if mark.match(line):
                now = time.monotonic()
                self.seconds[self.phase] = now - self._begin
                self.phase, self._begin = following, now


class Harness:
    """Takes something away, kills a build, looks; again and again."""

    def __init__(self, place: Workplace, registry: Registry, seed: int) -> None:
        self.place, self.registry = place, registry
        self.witness = Witness(place, registry.host)
        self.dice = random.Random(seed)  # noqa: S311 - a seed has to give the same run again
        self.repositories = ["kills/0"]
        self.usual: dict[str, float] = {}
        """How long each phase takes that has something to do."""
        self.kills: Counter[str] = Counter()
        self.finished = self.most_bytes = 0
        self.digest = self.finish()

    def build(self) -> Build:
        return Build(self.place, f"{self.registry.host}/{self.repositories[-1]}:1")

    def finish(self) -> str:
        """Let a build come to its end: it repairs what kills left, and gives the one digest."""
        outcome = self.build().run()
        if outcome.code != 0:
            raise SystemExit("\n".join(["a build that was left alone failed:", *outcome.log]))
        self._learn(outcome)
        self.finished += 1
        self.witness.look(self.repositories[-1])
        return outcome.digest

    def check_finish(self) -> None:
        digest = self.finish()
        if digest != self.digest:
            self.witness.violations.append(f"expected digest {self.digest}, got {digest}")
        tagged = self.witness.get(f"/v2/{self.repositories[-1]}/manifests/1") or b""
        if f"sha256:{hashlib.sha256(tagged).hexdigest()}" != self.digest:
            self.witness.violations.append(f"{self.repositories[-1]}:1: is not {self.digest}")
        index = json.loads((self.place.layout / "index.json").read_bytes())
        if [entry["digest"] for entry in index["manifests"]] != [self.digest]:
            self.witness.violations.append(f"{self.place.layout}: does not hold {self.digest}")

    def kill(self) -> str:
        target = self.dice.choice(PHASES[:-1])
        self._take_away(target)
        outcome = self.build().run(target, self.dice.random() * self.usual[target])
        self._learn(outcome)
        self.kills[outcome.phase] += 1
        if outcome.code > 0:
            listed = "\n  ".join(outcome.log)
            self.witness.violations.append(f"a build failed with {outcome.code}:\n  {listed}")
        self.witness.look(self.repositories[-1])
        self._tidy()
        return outcome.phase

    def _learn(self, outcome: Outcome) -> None:
        for phase, seconds in outcome.seconds.items():
            usual = self.usual.setdefault(phase, seconds)
            if seconds > usual / 10:  # else it had nothing to do, which says nothing
                self.usual[phase] = (usual + seconds) / 2

    def _take_away(self, target: str) -> None:
        """Give `target` something to do, and now and then the other phases too."""
        if target == "layers" or self.dice.random() < 1 / 4:
            for path in self._some(self.place.records):
                path.unlink()
            if self.dice.random() < 1 / 2:
                for path in self._some(self.place.blobs):
                    path.unlink()
        if target == "layout" or self.dice.random() < 1 / 4:
            (self.place.layout / "index.json").unlink(missing_ok=True)
            for path in self._some(self.place.layout_blobs):
                path.unlink()
        if target == "push" or self.dice.random() < 1 / 4:
            self.repositories.append(f"kills/{len(self.repositories)}")

    def _some(self, paths: list[Path]) -> list[Path]:
        return self.dice.sample(paths, self.dice.randint(1, len(paths) // 2)) if paths[1:] else []

    def _tidy(self) -> None:
        self.place.tidy()
        self.most_bytes = max(self.most_bytes, size_of(self.place.root))
        for folder in self.registry.folder.glob("data/**/_uploads"):
            shutil.rmtree(folder, ignore_errors=True)  # the registry may be writing there


def show(harness: Harness, seconds: float) -> None:
    violations = harness.witness.violations
    killed = sum(harness.kills[phase] for phase in PHASES[:-1])
    print(f"{'runs':<28}{sum(harness.kills.values()) + harness.finished:>8}")
    print(f"{'killed':<28}{killed:>8}")
    for phase in PHASES[:-1]:
        print(f"{'  during ' + phase:<28}{harness.kills[phase]:>8}")
    print(f"{'ended before the kill':<28}{harness.kills['end']:>8}")
    print(f"{'left alone, same digest':<28}{harness.finished:>8}")
    print(f"{'violations':<28}{len(violations):>8}")
    print(f"{'seconds':<28}{seconds:>8.0f}")
    print(f"{'largest disk use, MB':<28}{harness.most_bytes / 1e6:>8.0f}")
    for violation in violations:
        print(violation)


def run(place: Workplace, registry: Registry, runs: int, seed: int) -> bool:
    begin = time.monotonic()
    harness = Harness(place, registry, seed)
    for number in range(1, runs + 1):
        phase = harness.kill()
        found = len(harness.witness.violations)
        print(f"{number}: {phase}, {found} violations", file=sys.stderr)
        if number % _FINISH_EVERY == 0 or number == runs:
            harness.check_finish()
    harness.witness.look_again_at_all(harness.repositories)
    show(harness, time.monotonic() - begin)
    return not harness.witness.violations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=Path, default=Path("stacks/tiny-llama-cpu.yaml"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; removed afterwards")
    asked = parser.parse_args()
    root = Path(
        tempfile.mkdtemp(prefix="builder-kills-", dir=asked.folder or files.cache_folder().parent)
    )
    try:
        with Registry(root / "registry") as registry:
            is_well = run(Workplace(root, asked.stack), registry, asked.runs, asked.seed)
    finally:
        shutil.rmtree(root)
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
