"""The small model is what its script writes, and what the formats say it should be."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parents[1] / "stacks" / "models"
COMMITTED = MODELS / "tiny-llama"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((COMMITTED / name).read_bytes())
    return value


@pytest.fixture(scope="module")
def weights() -> bytes:
    return (COMMITTED / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def header(weights: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", weights)
    value: dict[str, Any] = json.loads(weights[8 : 8 + length])
    assert value.pop("__metadata__") == {"format": "pt"}
    return value


def test_script_writes_the_committed_bytes(tmp_path: Path) -> None:
    script = MODELS / "make_tiny_llama.py"
    subprocess.run([sys.executable, "-I", script, tmp_path], check=True)
    assert contents(tmp_path) == contents(COMMITTED)


def test_tensors_fill_the_file_without_gaps(weights: bytes, header: dict[str, Any]) -> None:
    (length,) = struct.unpack_from("<Q", weights)
    assert length % 8 == 0
    end = 0
    for tensor in header.values():
        start, stop = tensor["data_offsets"]
        assert (start, stop - start) == (end, 2 * math.prod(tensor["shape"]))
        end = stop
    assert 8 + length + end == len(weights)


def test_tensors_are_named_in_order(header: dict[str, Any]) -> None:
    assert list(header) == sorted(header)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}


def test_numbers_are_finite_and_small(weights: bytes) -> None:
    (length,) = struct.unpack_from("<Q", weights)
    count = (len(weights) - 8 - length) // 2
    bits = struct.unpack_from(f"<{count}H", weights, 8 + length)
    assert max(value & 0x7FFF for value in bits) == 0x3F80  # 1.0, from the norms


def test_vocabulary_matches_the_configuration(header: dict[str, Any]) -> None:
    config, vocabulary = load("config.json"), load("tokenizer.json")["model"]["vocab"]
    size = config["vocab_size"]
    assert sorted(vocabulary.values()) == list(range(size))
    assert header["lm_head.weight"]["shape"] == [size, config["hidden_size"]]


def test_special_tokens_have_one_number_everywhere() -> None:
    config, names = load("config.json"), load("tokenizer_config.json")
    added = {token["content"]: token["id"] for token in load("tokenizer.json")["added_tokens"]}
    for kind in ("bos", "eos", "pad"):
        assert added[names[f"{kind}_token"]] == config[f"{kind}_token_id"]
        assert load("generation_config.json")[f"{kind}_token_id"] == config[f"{kind}_token_id"]
