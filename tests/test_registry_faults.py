"""Whatever a registry does: the image is pushed or the reason is said, and nothing gets out."""

import re
from pathlib import Path

import pytest

from builder.oci import refusals
from tests import registry_matrix
from tests.registry_behaviours import BEHAVIOURS, Behaviour
from tests.registry_matrix import Outcome, play
from tests.registry_server import certificate

SMALL = 4096
"""What a config has at most: blobs are counted in layers."""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u202e]")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


def check_ending(behaviour: Behaviour, outcome: Outcome) -> None:
    assert outcome.result == behaviour.result, outcome.text
    assert re.search(behaviour.words, outcome.message or outcome.text), outcome.text
    if outcome.result not in {"pushed", "read"}:
        assert not CONTROL.search(outcome.text)
        assert len(outcome.message) < 600
        assert outcome.text.count("\n") > 1, "no hint"


def check_cost(behaviour: Behaviour, outcome: Outcome) -> None:
    """One blob a fault, and no more than the row says."""
    blob = behaviour.layer + SMALL
    assert outcome.again <= blob * min(behaviour.again, outcome.struck)
    if behaviour.sent is not None:
        assert (outcome.received > SMALL) == behaviour.sent
    if outcome.pushed:
        assert outcome.pushed.sent_again_bytes <= blob * behaviour.again
        assert outcome.progress <= outcome.pushed.sent_bytes <= outcome.progress + SMALL
    if behaviour.slept:
        least, most = behaviour.slept
        assert least <= max(outcome.slept, default=0) <= most


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_registry_that(behaviour: Behaviour, tmp_path: Path, pem: Path) -> None:
    outcome = play(behaviour, tmp_path, pem)
    check_ending(behaviour, outcome)
    check_cost(behaviour, outcome)
    assert outcome.violations == []
    assert outcome.leaks == []
    if behaviour.foreign is not None:
        assert bool(outcome.foreign) == behaviour.foreign
    if behaviour.act == "push":
        assert outcome.published == (behaviour.result == "pushed" and not behaviour.moved)


def test_rows_have_names_of_their_own() -> None:
    names = [behaviour.name for behaviour in BEHAVIOURS]
    assert len(set(names)) == len(names) > 45


def test_errors_of_the_rows_are_known() -> None:
    classes = {behaviour.result for behaviour in BEHAVIOURS} - {"pushed", "read"}
    assert [name for name in classes if not hasattr(refusals, name)] == ["IntegrityError"]


def test_matrix_is_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in BEHAVIOURS if row.name in {"503 once", "404 name unknown"}]
    monkeypatch.setattr(registry_matrix, "BEHAVIOURS", rows)
    lines: list[str] = []
    registry_matrix.main(lines.append)
    assert "".join(lines) == (
        "| A registry with | Outcome | Sent again |\n|---|---|---|\n"
        "| 404 name unknown | `NotFoundError` | none |\n"
        "| 503 once | pushed | ≤ 1 blob |\n"
    )
    assert "2 behaviours: 1 succeed, 1 are told" in capsys.readouterr().err
