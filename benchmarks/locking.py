"""What `builder lock` costs beside the one resolution that it needs.

    python benchmarks/locking.py --runs 5 --stack stacks/tiny-llama-gpu.yaml

The rounds are interleaved, in caches that one round before has warmed: uv alone, with the same
arguments; a lock made from nothing; the same lock made again with one GPU more; and once more as
it is.  The stack has to name several GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder import catalogue, stack
from builder.sources import wheels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UV, FRESH, ADDED, AGAIN = "uv pip compile", "lock from nothing", "one GPU more", "lock again"


class Place:
    """A project of one stack, in a folder of its own."""

    def __init__(self, folder: Path, path: Path) -> None:
        asked = stack.load(path)
        gpus = asked.target.gpu
        if isinstance(gpus, str):
            sys.exit(f"{path}: has one GPU")
        self.several = path.read_text("utf-8")
        self.fewer = self.several.replace(f", {gpus[-1]}]", "]", 1)
        (folder / "stacks").mkdir()
        shutil.copytree(path.parent / "models", folder / "stacks" / "models")
        self.stack, self._folder = folder / "stacks" / path.name, folder
        self.lock = folder / "lockfiles" / f"pylock.{asked.name}.toml"
        release = catalogue.debian(asked.base.debian if asked.base and asked.base.debian else "")
        engine = catalogue.engine(asked.engine.name)
        self._request = wheels.Request(
            requirement=f"{engine.distribution}=={asked.engine.version}",
            python=release.python,
            glibc=release.glibc,
            as_of=asked.resolve.as_of,  # type: ignore[arg-type] # today's index would not hold still
            exclude=asked.resolve.exclude,
            find_links=engine.find_links,
        )

    def rounds(self) -> Iterator[tuple[str, float]]:
        """Yield each command of a round with its seconds."""
        yield UV, self._uv()
        self.lock.unlink(missing_ok=True)
        yield FRESH, self._builder(self.several)
        with self._kept():
            self._builder(self.fewer)
            yield ADDED, self._builder(self.several)
        yield AGAIN, self._builder(self.several)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Look whether the lock is the same in the end."""
        before = self.lock.read_bytes()
        yield
        if self.lock.read_bytes() != before:
            sys.exit(f"{self.lock}: a lock with one GPU more is not the lock from nothing")

    def _uv(self) -> float:
        folder = self._folder / "uv"
        folder.mkdir(exist_ok=True)
        (folder / "requirements.in").write_text(f"{self._request.requirement}\n")
        overrides = (f'{name}; sys_platform == "never"\n' for name in self._request.exclude)
        (folder / "overrides.txt").write_text("".join(overrides))
        output = folder / "pylock.toml"
        output.unlink(missing_ok=True)
        words = wheels._arguments(self._request, folder, output)  # noqa: SLF001 - the same ones
        from uv import find_uv_bin

        return _seconds([find_uv_bin(), "--no-config", *words], wheels._environment())  # noqa: SLF001

    def _builder(self, text: str) -> float:
        self.stack.write_text(text, "utf-8")
        command = [sys.executable, "-m", "builder", "-q", "lock", str(self.stack)]
        return _seconds(command, dict(os.environ))


def _seconds(command: Sequence[str], env: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, env=env)
    return time.perf_counter() - begin


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stack", type=Path, default=Path("stacks/tiny-llama-gpu.yaml"))
    given = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), given.stack)
        list(place.rounds())
        for _ in range(given.runs):
            for name, seconds in place.rounds():
                times.setdefault(name, []).append(round(seconds, 2))
    medians = {name: statistics.median(each) for name, each in times.items()}
    ratio = round(medians[FRESH] / medians[UV], 2)
    print(json.dumps({"seconds": times, "medians": medians, "fresh / uv": ratio}, indent=2))


if __name__ == "__main__":
    main()
