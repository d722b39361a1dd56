"""Where the runs of the driver begin."""

import hashlib
import random
from pathlib import Path

WEIGHTS = random.Random(7).randbytes(1_200_000)  # noqa: S311 - has to be predictable


def lay_out(folder: Path, scenario: str) -> None:
    """Make the folder that a scenario runs in: a file of weights, half of it downloaded before."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    if scenario == "download":
        downloads = folder / "cache" / "downloads" / "sha256"
        downloads.mkdir(parents=True)
        name = hashlib.sha256(WEIGHTS).hexdigest()
        (downloads / f"{name}.partial").write_bytes(WEIGHTS[: len(WEIGHTS) // 2])
