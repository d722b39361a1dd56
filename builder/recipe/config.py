"""The image config: user, environment, entry point, health check and labels.  Pure."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from builder import lock as locks
from builder.catalogue.drivers import driver_cuda
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.lock import Lock

PREFIX = "/opt/venv"
PYTHON = f"{PREFIX}/bin/python3"
LAUNCHER = ("/usr/bin/python3", "-I", "-S", "-B", "/opt/builder")
USER = "10001:0"
PROBE_PORT = 8081
SERVE_VARIABLE = "BUILDER_SERVE"
SOFTWARE_VARIABLE = "BUILDER_SOFTWARE"
MODELS = "/models"

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_STALL_SECONDS = 120
_SECOND = 10**9
"""Docker counts health-check times in nanoseconds."""

# Nothing asks the network, nothing reports usage.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
}
_GPU = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
_METRICS = {
    "path": "/metrics",
    "waiting": ["vllm:num_requests_waiting"],
    "running": ["vllm:num_requests_running"],
    "tokens": ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"],
}


def served_name(lock: Lock) -> str:
    """Return the model's name in requests."""
    return str(lock.stack.get("serve", {}).get("name") or lock.name)


def model_folder(lock: Lock) -> str:
    """Return the folder that the engine opens."""
    return f"{MODELS}/{served_name(lock)}"


def image_name(lock: Lock, tag: str | None = None, suffix: str = "") -> str:
    """Return `repository:tag` of a lock's image, see `name_in`."""
    return name_in(lock.stack, tag, suffix)


def name_in(stack: Mapping[str, Any], tag: str | None = None, suffix: str = "") -> str:
    """Return `repository:tag`; the tag is the engine's version with `suffix` unless one is given.

    `stack` is the canonical copy of one.

    Raises:
        UsageError: the tag is none (OCI distribution specification, "Pulling manifests").
    """
    repository = stack.get("image", {}).get("repository") or stack["name"]
    chosen = tag or str(stack["engine"]["version"]).replace("+", "-") + suffix
    if not _TAG.fullmatch(chosen):
        message = f"--tag: expected letters, digits, `_`, `.` and `-`, got `{chosen}`"
        raise UsageError(message)
    return f"{repository}:{chosen}"


def created(epoch: int) -> str:
    """Return a time as RFC 3339 writes it."""
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def config(lock: Lock) -> dict[str, Any]:
    """Return `config` of the OCI image configuration."""
    serve = lock.stack.get("serve", {})
    ports = (int(serve.get("port", 8000)), PROBE_PORT)
    return {
        "User": USER,
        "ExposedPorts": {f"{port}/tcp": {} for port in ports},
        "Env": [f"{key}={value}" for key, value in environment(lock).items()],
        "Entrypoint": list(LAUNCHER),
        "Cmd": [],
        "WorkingDir": "/",
        "Labels": dict(sorted(_labels(lock).items())),
        "StopSignal": "SIGTERM",
        "Healthcheck": {
            "Test": ["CMD", *LAUNCHER, "healthcheck"],
            "Interval": 10 * _SECOND,
            "Timeout": 5 * _SECOND,
            "StartPeriod": int(serve.get("start_budget", 600)) * _SECOND,
            "StartInterval": 2 * _SECOND,
            "Retries": 3,
        },
    }


def environment(lock: Lock) -> dict[str, str]:
    """Return the environment of the image; the stack's own values win."""
    values = {
        "PATH": f"{PREFIX}/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin",
        "HOME": "/tmp/home",  # noqa: S108 - the one folder that every container can write
        "LANG": "C.UTF-8",
        **_QUIET,
    }
    if lock.gpu:
        # The CUDA that the oldest driver reports: the wheels' own may be newer, and run on it.
        values |= _GPU | {"NVIDIA_REQUIRE_CUDA": f"cuda>={driver_cuda(lock.gpu.driver)}"}
        values |= lock.gpu.env
    values |= dict(sorted(lock.stack.get("serve", {}).get("env", {}).items()))
    values |= {SOFTWARE_VARIABLE: _software(lock)}
    text = json.dumps(serve_values(lock), sort_keys=True, separators=(",", ":"))
    return values | {SERVE_VARIABLE: text}


def _software(lock: Lock) -> str:
    """Name the Python code inside: bytecode in a cache volume belongs to this alone."""
    packages = [package.sha256 for package in lock.base.packages]
    pins = packages + [wheel.sha256 for wheel in lock.wheels]
    return hashlib.sha256("\n".join(pins).encode()).hexdigest()[:16]


def serve_values(lock: Lock) -> dict[str, Any]:
    """Return what the launcher is told, see `builder.launcher.spec`."""
    serve = lock.stack.get("serve", {})
    return {
        "version": 1,
        "argv": argv(lock),
        "model": served_name(lock),
        "port": serve.get("port", 8000),
        "probe_port": PROBE_PORT,
        "start_budget": serve.get("start_budget", 600),
        "drain": serve.get("drain", 30),
        "max_model_len": serve.get("max_model_len") or _positions(lock),
        "health": "/health",
        "routes": list(lock.engine.routes),
        "metrics": _METRICS,
        "stall": _STALL_SECONDS,
        "require": _require(lock),
    }


def _positions(lock: Lock) -> int | None:
    """Return the context that the model's config names: no warm-up is longer."""
    config = lock.models[0].facts.config
    found = config.get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def _require(lock: Lock) -> dict[str, Any]:
    gpus = _gpu_count(lock)
    gpu = lock.gpu
    return {
        "gpus": gpus,
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.compute_capability if gpu else None,
        "memory_bytes": gpu.memory_bytes if gpu else 0,
        "driver": gpu.driver if gpu else None,
        "shm_bytes": lock.engine.shm_bytes,
    }


def _gpu_count(lock: Lock) -> int:
    return int(lock.stack.get("target", {}).get("count", 1)) if lock.gpu else 0


def argv(lock: Lock) -> list[str]:
    """Return the engine's command line; flags of `serve.args` come last and so win."""
    serve = lock.stack.get("serve", {})
    flags: dict[str, Any] = {
        "model": model_folder(lock),
        "served-model-name": served_name(lock),
        "host": "0.0.0.0",  # noqa: S104 - a server in a container listens everywhere
        "port": serve.get("port", 8000),
        "max-model-len": serve.get("max_model_len"),
        "max-num-seqs": serve.get("max_num_seqs"),
        "gpu-memory-utilization": serve.get("gpu_memory_utilization"),
    }
    flags |= lock.gpu.args if lock.gpu else {}
    if _gpu_count(lock) > 1:
        flags["tensor-parallel-size"] = _gpu_count(lock)
    given = {key.replace("_", "-"): value for key, value in sorted(serve.get("args", {}).items())}
    words = [word for name, value in (flags | given).items() for word in _flag(name, value)]
    return [PYTHON, "-m", lock.engine.module, *words]


def _flag(name: str, value: Any) -> list[str]:
    """`true` is a bare flag, `false` and nothing leave it out, a list gives several values."""
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, Mapping):
        return [f"--{name}", json.dumps(value, sort_keys=True, separators=(",", ":"))]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{name}", *(str(item) for item in values)]


def _labels(lock: Lock) -> dict[str, str]:
    models = ", ".join(_model_label(model, served_name(lock)) for model in lock.models)
    labels = {
        "org.opencontainers.image.title": lock.name,
        "org.opencontainers.image.created": created(lock.source_date_epoch),
        "builder.stack": lock.name,
        "builder.engine": f"{lock.engine.distribution} {lock.stack['engine']['version']}",
        "builder.model": models,
        "builder.lock": locks.digest_of(lock),
    }
    if lock.gpu:
        labels["builder.driver-floor"] = lock.gpu.driver
    given: dict[str, str] = lock.stack.get("image", {}).get("labels", {})
    return labels | given


def _model_label(model: locks.Model, served: str) -> str:
    return f"{model.repo}@{model.commit}" if model.repo else served
