"""Every failure a person can meet, one class and one exit code per kind.

    BuilderError (1)          ours and unexpected
    ├── UsageError (2)        flags or arguments
    ├── StackError (3)        the stack or a template is wrong; all faults listed
    ├── StaleLockError (4)    the lock does not match the stack
    ├── ResolveError (5)      a pin cannot be resolved or fetched
    ├── ToolError (6)         a tool exited non-zero
    ├── SmokeError (7)        a check failed
    ├── GateError (8)         performance regressed or was not measurable
    ├── PublishError (9)      a registry refused, or a digest differs
    ├── IntegrityError (10)   bytes are not what the lock or the digest says
    ├── HostError (11)        this machine lacks what the command needs
    └── Interrupted (130)     Ctrl-C

A message reads `<place>: <fault>`: lower case, no final stop, values in backticks,
expected before got.  The hint is one remedy with a real command or change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class BuilderError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BuilderError):
    """Flags or arguments that do not make sense."""

    exit_code = 2


class StackError(BuilderError):
    """A stack file is wrong."""

    exit_code = 3


class StaleLockError(BuilderError):
    """The lock does not match the stack."""

    exit_code = 4


class ResolveError(BuilderError):
    """A pin cannot be resolved or fetched."""

    exit_code = 5


class ToolError(BuilderError):
    """A tool exited non-zero."""

    exit_code = 6

    def __init__(self, argv: Sequence[str], code: int, output: str, hint: str = "") -> None:
        tail = "\n".join(output.strip().splitlines()[-20:])
        super().__init__(f"{' '.join(argv[:3])}: exited with {code}\n{tail}".rstrip(), hint)
        self.argv = tuple(argv)
        self.code = code


class SmokeError(BuilderError):
    """A check of a running image failed."""

    exit_code = 7


class GateError(BuilderError):
    """Performance regressed or was not measurable."""

    exit_code = 8


class PublishError(BuilderError):
    """A registry refused, or a digest differs from what was tested."""

    exit_code = 9


class IntegrityError(BuilderError):
    """Bytes are not what the lock or the digest says."""

    exit_code = 10


class HostError(BuilderError):
    """This machine lacks what the command needs."""

    exit_code = 11


class Interrupted(BuilderError):  # noqa: N818 - nothing went wrong
    """A person stopped the command."""

    exit_code = 130
