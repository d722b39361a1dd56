"""How long a busy server is left alone."""

import email.utils

import pytest

from builder.errors import ResolveError
from builder.sources import patience, web
from tests.file_server import serving

NOW = 1_800_000_000.0

ANSWERS: dict[str, tuple[int, dict[str, str], float | None]] = {
    "not busy": (404, {"retry-after": "5"}, None),
    "says nothing": (503, {}, 2.0),
    "seconds": (429, {"retry-after": "30"}, 30.0),
    "no time at all": (429, {"retry-after": "0"}, 0.0),
    "a date": (429, {"retry-after": email.utils.formatdate(NOW + 40, usegmt=True)}, 40.0),
    "a date gone by": (503, {"retry-after": email.utils.formatdate(NOW - 40, usegmt=True)}, 0.0),
    "nonsense": (429, {"retry-after": "soon"}, 2.0),
    "a rate limit": (429, {"ratelimit": '"resolvers";r=0;t=120'}, 120.0),
    "the longest": (429, {"retry-after": "300"}, 300.0),
    "longer": (429, {"retry-after": "301"}, None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_server_is_left_alone_as_long_as_it_asks_up_to_a_limit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, headers, expected = ANSWERS[name]
    monkeypatch.setattr("builder.sources.patience.time.time", lambda: NOW)
    assert patience.pause(status, headers, 2) == expected


def test_a_server_that_says_nothing_is_asked_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("builder.sources.patience.time.sleep", naps.append)
    with serving() as site:
        site.status["/file"] = 503
        with pytest.raises(ResolveError) as caught:
            web.read(f"{site.url}/file")
        assert (caught.value.message, caught.value.hint) == (
            f"{site.url}/file: answered 503",
            "run the command again later",
        )
    assert (naps, len(site.requests)) == ([0.5, 1.0, 2.0, 4.0], 5)


def test_a_server_that_asks_for_too_long_is_told_to_the_person() -> None:
    error = patience.busy("https://h.test/a: answered 429", {"retry-after": "5400"})
    assert error.message == "https://h.test/a: answered 429 and asks to wait 1 h 30 min"
