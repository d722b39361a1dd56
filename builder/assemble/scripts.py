"""Scripts in the prefix's `bin`: our own text, as a library's could change with its version."""

from __future__ import annotations

PYTHON = "/opt/venv/bin/python3"


def entry_point(module: str, attribute: str) -> bytes:
    """Return the script that calls `attribute` of `module`."""
    lines = (
        f"#!{PYTHON}",
        "import sys",
        f"from {module} import {attribute.partition('.')[0]}",
        'if __name__ == "__main__":',
        f"    sys.exit({attribute}())",
    )
    return ("\n".join(lines) + "\n").encode()


def with_shebang(content: bytes) -> bytes:
    """Point `#!python` at the prefix's Python (PEP 427, "Recommended installer features")."""
    if not content.startswith(b"#!python"):
        return content
    _, newline, rest = content.partition(b"\n")
    return f"#!{PYTHON}".encode() + newline + rest
