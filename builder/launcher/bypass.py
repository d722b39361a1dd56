"""`-- COMMAND ARGS`: become another program, in the environment that the engine would have."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from builder.launcher import environment
from builder.launcher.exits import ExitCode, LauncherError, start_error


def execute(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by `argv`; LauncherError if that is impossible."""
    if not argv:
        fault, hint = "no command after `--`", "for a shell: docker run -it IMAGE -- bash"
        raise LauncherError(ExitCode.SPEC, fault, hint)
    prepared = environment.prepare(environ)
    sys.stdout.flush()
    # Python ignores these two, and what is ignored stays ignored in the new program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], list(argv), prepared.values)  # noqa: S606 - the user's own command
    except OSError as error:
        raise start_error(argv[0], error) from error
