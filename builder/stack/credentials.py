"""Recognise what must never be written into a stack: it would end in a lock and in an image."""

from __future__ import annotations

import re

_TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}"
    r"|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\bnvapi-[A-Za-z0-9_-]{16,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}"  # JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_PASSWORD_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(^|[_-])(token|password|passwd|secret|api[_-]?key)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
"""`HF_HUB_DISABLE_IMPLICIT_TOKEN: "1"` is a switch."""


def is_credential(text: str) -> bool:
    """Tell whether `text` has the form of a credential."""
    return bool(_TOKENS.search(text) or _PASSWORD_IN_URL.search(text))


def is_secret_setting(name: str, value: str) -> bool:
    """Tell whether `name: value` gives a credential away; a path to a file does not."""
    long = len(value) >= _SHORTEST_SECRET and not value.startswith(("/", "$"))
    return is_credential(value) or (long and bool(_SECRET_NAME.search(name)))
