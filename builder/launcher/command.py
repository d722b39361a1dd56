"""What the arguments after the image name mean. Imports lazily: `healthcheck` must be quick."""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; `-- COMMAND` does not return."""
    if list(arguments) == ["healthcheck"]:
        from builder.launcher import healthcheck

        return healthcheck.main(os.environ)
    from builder.launcher.exits import LauncherError

    try:
        return _bypass(arguments[1:]) if arguments[:1] == ["--"] else _serve(arguments)
    except LauncherError as error:
        _complain(error)
        return error.code


def _serve(arguments: Sequence[str]) -> int:
    from builder.launcher import serve

    return serve.main(arguments, os.environ)


def _bypass(arguments: Sequence[str]) -> int:
    from builder.launcher import bypass

    return bypass.execute(arguments, os.environ)


def _complain(error: Exception) -> None:
    for line in str(error).splitlines():
        sys.stderr.write(f"launcher: error: {line}\n")
    hint = getattr(error, "hint", "")
    if hint:
        sys.stderr.write(f"launcher: hint: {hint}\n")
    sys.stderr.flush()
