"""Flags → one call → print → exit code.  No logic lives here."""

from __future__ import annotations

import os
import pwd
import signal
import sys

from builder import __version__

_INTERRUPTED = 130
_ANYWHERE = ("-q", "--quiet", "--debug")
"""Flags of the program that people also write after a command."""


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"builder {__version__}\n")
        return
    signal.signal(signal.SIGTERM, _stop)
    # A user without a home or an entry in passwd still has a cache, if BUILDER_CACHE names one.
    os.environ.setdefault("HOME", _home())
    try:
        code = _run(_reordered(sys.argv[1:]))
    except KeyboardInterrupt:  # while modules were still being imported
        code = _INTERRUPTED
    sys.exit(code)


def _home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/nonexistent"


def _stop(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: temporary files are removed."""
    del number, frame
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    from builder import console
    from builder.cli.app import app
    from builder.errors import BuilderError, HostError

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
    except OSError as fault:
        if "--debug" in arguments or fault.strerror is None:
            raise
        place = f"{fault.filename}: " if fault.filename else ""
        console.fail(f"{place}{fault.strerror.lower()}", "" if place else "--debug shows where")
        return HostError.exit_code
    return 0


def _reordered(arguments: list[str]) -> list[str]:
    """Put flags of the program before the command, except behind `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours = [word for word in arguments[:end] if word in _ANYWHERE]
    rest = [word for word in arguments[:end] if word not in _ANYWHERE]
    return [*ours, *rest, *arguments[end:]]
