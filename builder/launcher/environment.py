"""The environment that the engine runs in: caches in one place, offline, telemetry off.

What is already set (by the image's stack or by `docker run -e`) wins over everything here.
"""

import contextlib
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.launcher import variables

CACHE_ROOTS = ("/cache", "/tmp/cache")  # noqa: S108 - the container's own /tmp
"""Where caches go: a volume if one is mounted and writable, else the container's own /tmp."""

BYTECODE_PATTERNS = (
    "opt/venv/lib/python3*/site-packages/*/__pycache__",
    "usr/local/lib/python3*/dist-packages/*/__pycache__",
)
"""Where an image with baked bytecode has it, from the root."""

_HOME = "/tmp/home"  # noqa: S108 - the container's own /tmp
_NO_HOMES = ("", "/", "/nonexistent")
"""What container engines put into HOME for a user without a passwd entry."""

_FIXED = {
    "LANG": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_DO_NOT_TRACK": "1",
}

_FOLDERS = {
    "XDG_CACHE_HOME": "xdg",
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "NUMBA_CACHE_DIR": "numba",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
}

_BYTECODE = "PYTHONPYCACHEPREFIX"


@dataclass(frozen=True)
class Prepared:
    """An environment whose folders exist as far as the container lets us make them."""

    values: dict[str, str]
    cache_root: str
    passed_over: tuple[str, ...]
    """Cache roots that exist and cannot be written: worth a word to whoever mounted them."""


def environment(
    existing: Mapping[str, str], cache_root: str, login: str, *, bytecode_is_baked: bool
) -> dict[str, str]:
    """`existing` completed by what the engine needs.

    `login` is the user's name for libraries that ask `getpass` (inductor does); a user without a
    passwd entry has none. Bytecode beside its source is only read while PYTHONPYCACHEPREFIX is
    unset, so an image that has it baked does not get the variable.
    """
    values = {name: f"{cache_root}/{folder}" for name, folder in _FOLDERS.items()}
    if not bytecode_is_baked:
        # Files of an image all have one date, so bytecode of other software would pass for theirs.
        software = existing.get(variables.SOFTWARE, "")
        values[_BYTECODE] = f"{cache_root}/pycache/{software}".rstrip("/")
    name = existing.get("LOGNAME") or existing.get("USER") or login
    values |= _FIXED | {"HOME": _HOME, "LOGNAME": name, "USER": name}
    return values | {
        key: value for key, value in existing.items() if key != "HOME" or value not in _NO_HOMES
    }


def prepare(existing: Mapping[str, str]) -> Prepared:
    """The engine's environment on this machine, with its folders made."""
    override = existing.get(variables.CACHE)
    roots = (override,) if override else CACHE_ROOTS
    root, passed_over = choose_root(roots)
    kept = {key: value for key, value in existing.items() if key != "HOME" or is_writable(value)}
    values = environment(kept, root, _login(), bytecode_is_baked=has_bytecode(Path("/")))
    _make(values[name] for name in ("HOME", _BYTECODE, *_FOLDERS) if values.get(name))
    return Prepared(values=values, cache_root=root, passed_over=passed_over)


def choose_root(roots: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The first root that can be written, else the last, and the existing ones passed over."""
    *preferred, last = roots
    passed_over: list[str] = []
    for root in preferred:
        if is_writable(root):
            return root, tuple(passed_over)
        if Path(root).is_dir():
            passed_over.append(root)
    return last, tuple(passed_over)


def is_writable(folder: str) -> bool:
    """Whether this process may create files in `folder`, read-only mounts included."""
    return Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _login() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "builder"


def has_bytecode(root: Path) -> bool:
    """Whether the image below `root` carries bytecode beside the engine's sources."""
    return any(next(root.glob(pattern), None) for pattern in BYTECODE_PATTERNS)


def _make(folders: Iterable[str]) -> None:
    for folder in folders:
        # What cannot be made is for the preflight to judge, and for the engine to survive.
        with contextlib.suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)
