"""Flags → one call → print → exit code.  No logic lives here."""

from __future__ import annotations

import sys

from builder import __version__

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"builder {__version__}\n")
        return
    sys.exit(_run())


def _run() -> int:
    import click  # noqa: PLC0415 - `--version` answers without it

    from builder import console  # noqa: PLC0415 - `--version` answers without it
    from builder.cli.app import app  # noqa: PLC0415 - `--version` answers without it
    from builder.errors import BuilderError  # noqa: PLC0415 - `--version` answers without it

    try:
        return int(app(standalone_mode=False) or 0)
    except BuilderError as fault:
        if "--debug" in sys.argv:
            raise
        console.fail(fault.message, fault.hint)
        return fault.exit_code
    except click.ClickException as fault:
        fault.show()
        return fault.exit_code
    except (KeyboardInterrupt, click.Abort):
        console.fail("interrupted", "run the command again: it goes on where this one stopped")
        return _INTERRUPTED
