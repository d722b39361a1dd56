"""The proof of the whole way: the demo stack is built, loaded and passes every smoke check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STACK = ROOT / "stacks" / "tiny-llama-cpu.yaml"
MINUTES = 30


@pytest.mark.engine
@pytest.mark.network
def test_tiny_llama_passes_every_check() -> None:
    command = [sys.executable, "-m", "builder", "smoke", "--json", str(STACK)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * MINUTES, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}
    assert set(outcomes.values()) == {"passed"}, outcomes
    assert len(outcomes) > 40
