"""Our own parts that enter an image: the launcher's files, and what pins them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from builder.lock import PACKER_VERSION, Pins

if TYPE_CHECKING:
    from collections.abc import Mapping

LAUNCHER_FOLDER = "opt/builder"
_PACKAGE = Path(__file__).resolve().parent.parent


@functools.cache
def launcher_files() -> Mapping[str, bytes]:
    """Return the launcher as path in the image → content, sorted by path.

    `python3 /opt/builder` runs `__main__.py`; the package keeps its name, so that the same
    absolute imports work in the image and here.
    """
    sources = sorted((_PACKAGE / "launcher").glob("*.py"))
    found = {
        f"{LAUNCHER_FOLDER}/builder/launcher/{path.name}": path.read_bytes() for path in sources
    }
    found[f"{LAUNCHER_FOLDER}/__main__.py"] = (_PACKAGE / "launcher" / "__main__.py").read_bytes()
    found[f"{LAUNCHER_FOLDER}/builder/__init__.py"] = b""
    return dict(sorted(found.items()))


def pins() -> Pins:
    """Return what this builder would put into an image."""
    state = hashlib.sha256()
    for path, content in launcher_files().items():
        state.update(f"{path} {hashlib.sha256(content).hexdigest()}\n".encode())
    return Pins(packer=PACKER_VERSION, launcher=state.hexdigest())
