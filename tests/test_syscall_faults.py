"""A sample of the faults of `python -m tests.faults`, which runs them all."""

import pytest

from tests.faults import campaign, tracing

pytestmark = pytest.mark.engine
"""It takes as long as what needs an engine, and belongs into the same session."""
SECONDS = 60.0


def test_no_call_is_one_too_many_to_lose(capsys: pytest.CaptureFixture[str]) -> None:
    if reason := tracing.missing():
        pytest.skip(reason)
    report = campaign.campaign(campaign.SCENARIOS, SECONDS)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - how large the sample was is part of the result
    assert report.violations == []
    assert report.missed == []
    assert report.run > 0
