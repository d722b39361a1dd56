"""Exit codes of the launcher, and the exception that carries one."""

import enum
import signal


class ExitCode(enum.IntEnum):
    """Why the launcher gave up, one number per kind of fault.

    Between the codes that engines use (0 to 3) and those that shells, Docker and signals use
    (125 and above). An engine that ends by itself keeps its own code.
    """

    SPEC = 80
    """`BUILDER_SERVE`, another variable or an argument is missing or malformed."""
    NO_DRIVER = 81
    """The image needs GPUs and the NVIDIA driver is not visible or does not answer."""
    OLD_DRIVER = 82
    """The NVIDIA driver is older than what the image was built for."""
    WRONG_CAPABILITY = 83
    """A GPU's compute capability is not the one the image was built for."""
    TOO_FEW_GPUS = 84
    """Fewer GPUs are visible than the engine is told to use."""
    TOO_LITTLE_MEMORY = 85
    """A GPU has less memory than the one the image was planned for."""
    SMALL_SHM = 86
    """`/dev/shm` is too small."""
    CACHE = 87
    """No writable cache folder, or one from which nothing can be executed."""
    PORT_TAKEN = 88
    """The probe port or the engine's port is in use."""
    START_BUDGET = 89
    """The engine was not ready within `start_budget`."""
    WARM_UP = 90
    """The engine came up and could not answer the warm-up requests."""


COMMAND_NOT_EXECUTABLE = 126
"""As shells say it: the program is there and cannot be executed."""

COMMAND_NOT_FOUND = 127
"""As shells say it: there is no such program."""


class LauncherError(Exception):
    """A fault that ends the launcher: what is wrong, what to do, and the exit code."""

    def __init__(self, code: int, fault: str, hint: str = "") -> None:
        """Say `fault` in plain words; `hint` is what to do about it, if that is known."""
        super().__init__(fault)
        self.code = int(code)
        self.hint = hint


def shell_code(ended: int) -> int:
    """Exit code for a process that ended with `ended`, where -n means killed by signal n."""
    return ended if ended >= 0 else 128 - ended


def ending(ended: int) -> str:
    """How a process ended, in words: `with code 1`, `by SIGKILL`."""
    return f"with code {ended}" if ended >= 0 else f"by {signal_name(-ended)}"


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; real-time signals by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start_error(program: str, error: OSError) -> LauncherError:
    """The launcher's words and the shell's code for a program that could not be executed."""
    missing = isinstance(error, FileNotFoundError)
    code = COMMAND_NOT_FOUND if missing else COMMAND_NOT_EXECUTABLE
    return LauncherError(code, f"cannot execute `{program}`: {error.strerror}")
