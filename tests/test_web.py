"""What messages show of an address, and which address is none."""

import pytest

from builder.errors import HostError
from builder.sources import web

TEXTS = {
    "plain": ("see https://u:p@h.test/a/b for more", "see https://h.test/a/b for more"),
    "in quotes": ("`https://u:p@h.test/a`, (http://u@h.test/b)", "`https://h.test/a`, (http://h.test/b)"),
    "query": ("https://h.test/a?token=x#y failed", "https://h.test/a failed"),
    "at sign in the password": ("https://u:p@q@h.test/a", "https://h.test/a"),
    "slash in the password": ("'http://user1:sEc/ReTpw@h.test/a' is", "'http://h.test/a' is"),
    "hash in the password": ("http://u:a#b?c@h.test/a", "http://h.test/a"),
    "quote in the password": ("http://u:a'b@h.test/a", "http://h.test/a"),
    "large letters": ("HTTP://u:p@h.test/a", "HTTP://h.test/a"),
    "mail address": ("write to me@h.test", "write to me@h.test"),
    "folder": ("file:///home/me@work/wheels", "file:///home/me@work/wheels"),
    "at sign in the path": ("https://h.test/a@b", "https://b"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_other_tools_is_redacted(name: str) -> None:
    text, expected = TEXTS[name]
    assert web.redacted_text(text) == expected


URLS = {
    "https://u:p@h.test/a?b#c": "https://h.test/a",
    "http://user1:sEc/ReTpw@h.test": "http://h.test",
    "http://u:p@[::1": "http://[::1",
    "file:///home/me@work/a": "file:///home/me@work/a",
    "/wheels": "/wheels",
}


@pytest.mark.parametrize("url", URLS)
def test_an_address_is_redacted(url: str) -> None:
    assert web.redacted(url) == URLS[url]


@pytest.mark.parametrize("proxy", ["http://[::1", "http://u:sEc/ReT@h.test:1"])
def test_a_proxy_that_is_no_address(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(HostError) as caught:
        web.read("http://h.test/a")
    assert caught.value.message.startswith("proxy: `http://")
    assert "sEc" not in caught.value.message
