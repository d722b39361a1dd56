"""Files as they were at a revision of a git repository, read without checking anything out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from builder import process
from builder.errors import ToolError, UsageError

_HINT = "run it inside a checkout"
_SHALLOW = "name a commit, branch or tag that is here: a shallow clone has to fetch it first"

_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX")
"""What hooks set: relative to another folder, or of another repository than the stacks'."""


@dataclass(frozen=True)
class Revision:
    """One commit."""

    root: Path
    """Top folder of the repository."""
    commit: str

    def text(self, path: Path) -> str | None:
        """Return what a file was, None if there was none."""
        if path.resolve() not in self.below(path):
            return None
        name = path.resolve().relative_to(self.root).as_posix()
        return _git(self.root, "show", f"{self.commit}:{name}")

    def below(self, place: Path) -> tuple[Path, ...]:
        """Return the files that were in a folder, at any depth; of a file itself."""
        resolved = place.resolve()
        if not resolved.is_relative_to(self.root):
            return ()
        name = resolved.relative_to(self.root).as_posix()
        listing = ("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.commit, "--", name)
        return tuple(self.root / name for name in _git(self.root, *listing).split("\0") if name)


def revision(folder: Path, name: str) -> Revision:
    """Return a revision of the repository that `folder` is in.

    Raises:
        HostError: git is not installed.
        UsageError: there is no such repository or revision.
    """
    try:
        root = _git(folder, "rev-parse", "--show-toplevel").rstrip("\n")
    except ToolError as fault:
        said = fault.message.splitlines()[-1]
        message = f"--changed-since: {folder}: {said}"
        raise UsageError(message, _HINT) from fault
    wanted = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    try:
        return Revision(Path(root).resolve(), _git(folder, *wanted).strip())
    except ToolError as fault:
        message = f"--changed-since: there is no revision `{name}`"
        raise UsageError(message, _SHALLOW) from fault


def _git(folder: Path, *words: str) -> str:
    program = process.find("git", "install it, for instance: apt-get install git")
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    return process.run([program, *words], cwd=folder, env={**environment, "LC_ALL": "C"})
