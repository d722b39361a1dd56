"""What the engine's final arguments mean for whoever asks it: port, name, key, length (pure).

Arguments after the image name are appended to the engine's own, and `argparse` takes the last.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builder.launcher.exits import ExitCode, LauncherError
from builder.launcher.spec import Spec

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
_SECRET = re.compile(r"--.*(key|token|secret|password)$")
_NOT_SECRET = re.compile(r"--ssl-|--.*(file|path)$")
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_MAX_PORT = 65535


@dataclass(frozen=True)
class Target:
    """Where and how the running engine is asked."""

    host: str
    port: int
    https: bool
    model: str
    max_model_len: int | None
    api_key: str | None = field(repr=False)


def target(spec: Spec, argv: Sequence[str], environ: Mapping[str, str]) -> Target:
    """How to ask the engine that runs as `argv`; LauncherError if the arguments make no sense."""
    host = option(argv, "--host") or ""
    length = option(argv, "--max-model-len", "--context-length")
    return Target(
        host=_LOOPBACK.get(host, host),
        port=_port(option(argv, "--port"), spec.port),
        https=option(argv, "--ssl-certfile") is not None,
        model=option(argv, "--served-model-name") or spec.model,
        max_model_len=spec.max_model_len if length is None else tokens(length),
        api_key=_api_key(option(argv, "--api-key") or environ.get("VLLM_API_KEY")),
    )


def option(argv: Sequence[str], *names: str) -> str | None:
    """The last value given to any of `names`, as `--name value` or `--name=value`.

    `--served_model_name` is `--served-model-name`, as in vLLM. Of several values the first counts.
    """
    found: str | None = None
    for at, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") not in names:
            continue
        if equals:
            found = value
        elif at + 1 < len(argv):
            found = argv[at + 1]
    return found


def tokens(text: str) -> int | None:
    """A length as vLLM reads it: `8192`, `8k` (8000), `8K` (8192); None for `auto` and `-1`."""
    match = _LENGTH.fullmatch(text.strip())
    return int(float(match[1]) * _SCALE[match[2]]) or None if match else None


def shown(argv: Sequence[str]) -> str:
    """`argv` as one line that can be pasted into a shell, without the secrets in it."""
    words: list[str] = []
    hiding = False
    for word in argv:
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            hiding = _is_secret(name)
            words.append(f"{name}=..." if hiding and equals else word)
        else:
            words.append("..." if hiding else word)
    return shlex.join(words)


def _is_secret(name: str) -> bool:
    name = name.replace("_", "-")
    return bool(_SECRET.match(name)) and not _NOT_SECRET.match(name)


def _api_key(key: str | None) -> str | None:
    if key and not (key.isascii() and key.isprintable()):
        fault = "the API key: must be printable ASCII, or no HTTP header can carry it"
        raise LauncherError(ExitCode.SPEC, fault)
    return key or None


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    if text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PORT:
        return int(text)
    fault = f"--port: must be a number from 1 to {_MAX_PORT}, got `{text}`"
    raise LauncherError(ExitCode.SPEC, fault)
