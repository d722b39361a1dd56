r"""What the words of a stack look like, and how to say what was expected.

The patterns are written for pydantic's engine and for JSON Schema at once: no look-around, and
`^…$` around the whole.
"""

from __future__ import annotations

NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
VERSION = r"^[0-9][A-Za-z0-9.+!_-]*$"
ENVIRONMENT = r"^[A-Za-z_][A-Za-z0-9_]*$"
FLAG = r"^[a-z0-9][a-z0-9_.-]*$"
SERVED = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
HUB_REPO = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
REPOSITORY = (
    r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?/)?"
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$"
)
SHA256 = r"^[0-9a-f]{64}$"

EXPECTED = {
    NAME: "lower-case letters, digits and single dashes",
    VERSION: "one exact version such as `0.20.2`",
    ENVIRONMENT: "the name of an environment variable",
    FLAG: "a flag in lower case, without leading dashes",
    SERVED: "letters, digits, dots, dashes and underscores",
    HUB_REPO: "`organisation/name`",
    REPOSITORY: "`registry/path` without tag or digest",
    SHA256: "64 hex digits",
}
"""By pattern: what a value should have been."""
