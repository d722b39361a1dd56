"""Short names of sources, spelt out."""

from pathlib import Path

import pytest

from builder.catalogue import codes
from builder.catalogue.codes import spelt

FOLDER = Path(__file__).parents[1] / "builder" / "catalogue"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("CC; IDX 71", "NVIDIA, CUDA GPU compute capability; public file 71"),
        ("SUCCESS of ACC", "SUCCESS of ACC"),
        ("KVFIT", "config.json and sizes of the hub, as github debaditc/kvfit has them"),
    ],
)
def test_short_names_are_spelt_out(source: str, words: str) -> None:
    assert spelt(source) == words


def test_every_short_name_is_explained_in_a_table_that_has_it() -> None:
    texts = [path.read_text("utf-8") for path in FOLDER.glob("*.toml")]
    heads = "".join(line for text in texts for line in text.splitlines() if line.startswith("#"))
    assert [code for code in codes.NAMES if code not in heads] == []
