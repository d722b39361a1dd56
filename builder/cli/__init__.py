"""Flags → one call → print → exit code.  No logic lives here."""

from __future__ import annotations

import sys

from builder import __version__

_ANYWHERE = ("-q", "--quiet", "--debug")
"""Flags of the program that people also write after a command."""


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"builder {__version__}\n")
        return
    sys.exit(_run(_reordered(sys.argv[1:])))


def _run(arguments: list[str]) -> int:
    from builder import console
    from builder.cli.app import app
    from builder.errors import BuilderError

    try:
        app(arguments, prog_name="builder")
    except BuilderError as fault:
        if "--debug" in arguments:
            raise
        console.fail(fault.message, fault.hint)
        return fault.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is left to flush.
        sys.stdout = None
        return 0
    return 0


def _reordered(arguments: list[str]) -> list[str]:
    """Put flags of the program before the command, except behind `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours = [word for word in arguments[:end] if word in _ANYWHERE]
    rest = [word for word in arguments[:end] if word not in _ANYWHERE]
    return [*ours, *rest, *arguments[end:]]
