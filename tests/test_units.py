"""Bytes and durations as people read them."""

import pytest

from builder.units import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (140 * 10**9, "140.0 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.4, "59.4 s"),
        (75.2, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (5000, "1 h 23 min"),
        (100_000, "27 h 46 min"),
        (3 * 86400 + 5, "3 days"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
