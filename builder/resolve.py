"""Stack + sources → Lock.

Pins of an earlier lock are kept while the part of the stack they answer is unchanged, so that
a change that touches no pin needs no network.
"""

from __future__ import annotations

import datetime
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from builder import catalogue, console
from builder.catalogue import code, routes
from builder.catalogue.nearest import nearest
from builder.errors import StackError, UsageError
from builder.lock import Base, Code, DebianPackage, Engine, Gpu, Lock, Model, Suite, Wheel
from builder.sources import models, own, wheels
from builder.stack import NO_GPU, Stack, canonical, from_canonical

if TYPE_CHECKING:
    from pathlib import Path

    from builder.rules import ModelFacts, Subject
    from builder.sources.downloads import Downloads

EVERYTHING = "*"
"""Upgrade every pin."""
_PARALLEL_SHM_BYTES = 2**30
"""Processes of one engine exchange tensors through shared memory."""
_CUDA_RUNTIME = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")


@dataclass(frozen=True)
class Request:
    """What to lock, and how far earlier pins are kept."""

    stack: Stack
    folder: Path
    """Where the stack file lies: paths in it are relative to this."""
    previous: Lock | None = None
    upgrade: tuple[str, ...] = ()
    """Pins to move: `base`, `wheels`, `model`, names of packages, or `*`."""
    allow_expired: bool = False
    """Accept a Debian index past its `Valid-Until`."""

    def moves(self, part: str) -> bool:
        """Tell whether a whole part is to be resolved anew."""
        return EVERYTHING in self.upgrade or part in self.upgrade

    def kept(self, *fields: str) -> Lock | None:
        """Return the earlier lock if these fields of the stack are what they were."""
        now = canonical(self.stack)
        then = self.previous.stack if self.previous else {}
        is_same = all(_get(now, field) == _get(then, field) for field in fields)
        return self.previous if self.previous and is_same else None


def resolve(request: Request, downloads: Downloads) -> Lock:
    """Return the lock of a stack.

    Raises:
        StackError: the stack asks for what this version cannot build.
        ResolveError: a pin cannot be found.
    """
    _refuse_unknown_pins(request)
    asked = _debian(request.stack)
    # The model first: its repository is what most often cannot be had.
    model = _model(request, downloads)
    base, chosen = _software(request, asked)
    stack = request.stack
    return Lock(
        stack=canonical(stack),
        platform=stack.target.platform,
        engine=_engine(stack, model),
        cells=_cells(stack, chosen, model),
        base=base,
        wheels=chosen,
        code=_code(request, chosen),
        models=(model,),
        pins=own.pins(),
    )


@dataclass(frozen=True)
class _Debian:
    """What a stack asks of Debian."""

    release: Literal["bookworm", "trixie"]
    suites: tuple[Literal["main", "updates", "security"], ...]
    packages: tuple[str, ...]


def _debian(stack: Stack) -> _Debian:
    if stack.base is None or stack.base.debian is None:
        message = f"{stack.name}: base images are not supported by this version"
        raise StackError(message, "name Debian packages: `base: {debian: bookworm}`")
    return _Debian(stack.base.debian, stack.base.suites, stack.base.packages)


def _refuse_unknown_pins(request: Request) -> None:
    """A pin that is not there cannot move: a misspelled one must not pass for done."""
    earlier = request.previous
    if earlier is None:
        return
    wheels_of, packages = earlier.wheels, earlier.base.packages
    names = (*(wheel.name for wheel in wheels_of), *(package.name for package in packages))
    known = (EVERYTHING, "base", "wheels", "model", *names)
    for name in request.upgrade:
        if name not in known:
            message = f"--upgrade-pin: {earlier.name} has no pin `{name}`"
            near = nearest(name, {pin: (pin,) for pin in known[1:]})
            hint = (
                f"nearest: {', '.join(near)}" if near else "name base, wheels, model or a package"
            )
            raise UsageError(message, hint)


def _engine(stack: Stack, model: Model) -> Engine:
    known = catalogue.engine(stack.engine.name)
    architectures = model.facts.config.get("architectures", ())
    kind = routes.kind(architectures, [file.path for file in model.files], stack.serve.args)
    return Engine(
        name=known.name,
        distribution=known.distribution,
        module=known.module,
        routes=routes.ROUTES.get(kind, known.routes),
        shm_bytes=known.shm_bytes if stack.target.count == 1 else _PARALLEL_SHM_BYTES,
    )


def _software(request: Request, asked: _Debian) -> tuple[Base, tuple[Wheel, ...]]:
    """Resolve both at once: uv waits for the index while packages are computed here."""
    with ThreadPoolExecutor(1) as worker:
        base = worker.submit(_base, request, asked)
        chosen = _wheels(request, asked)
        return base.result(), chosen


def _base(request: Request, asked: _Debian) -> Base:
    release = catalogue.debian(asked.release)
    suites, packages = _packages(request, asked)
    return Base(
        debian=asked.release,
        python=_python_version(release.python, packages),
        glibc=release.glibc,
        suites=suites,
        packages=packages,
    )


def _packages(
    request: Request, asked: _Debian
) -> tuple[tuple[Suite, ...], tuple[DebianPackage, ...]]:
    needed = (*catalogue.engine(request.stack.engine.name).debian, *asked.packages)
    wanted = {*catalogue.debian(asked.release).essential, *needed}
    kept = request.kept("base", "engine.name")
    if kept and not request.moves("base"):
        names = {package.name for package in kept.base.packages}
        if wanted <= names and not names & set(request.upgrade):
            return kept.base.suites, kept.base.packages
    earlier = request.previous.base if request.previous else None
    is_same_release = earlier is not None and earlier.debian == asked.release
    stays = earlier.packages if earlier and is_same_release and not request.moves("base") else ()
    # Not at the top: uv starts sooner, and pins that are kept do without.
    from builder.sources import debian

    with console.step("resolve Debian packages"):
        return debian.resolve(
            debian.Request(
                debian=asked.release,
                suites=asked.suites,
                packages=needed,
                keep=tuple(pin for pin in stays if pin.name not in request.upgrade),
                allow_expired=request.allow_expired,
            )
        )


def _python_version(series: str, packages: tuple[DebianPackage, ...]) -> str:
    """Return `3.11.2` from the version of `python3.11-minimal`, `3.11.2-6+deb12u6`."""
    version = next(p.version for p in packages if p.name == f"python{series}-minimal")
    return version.rpartition(":")[2].partition("-")[0].partition("+")[0]


def _wheels(request: Request, asked: _Debian) -> tuple[Wheel, ...]:
    stack, release = request.stack, catalogue.debian(asked.release)
    kept = request.kept("engine", "base.debian", "target.platform", "resolve")
    earlier = request.previous.wheels if request.previous else ()
    names = {wheel.name for wheel in earlier}
    if kept and not request.moves("wheels") and not names & set(request.upgrade):
        return kept.wheels
    known = catalogue.engine(stack.engine.name)
    with console.step("resolve wheels"):
        return wheels.resolve(
            wheels.Request(
                requirement=f"{known.distribution}=={stack.engine.version}",
                python=release.python,
                glibc=release.glibc,
                as_of=stack.resolve.as_of or datetime.datetime.now(datetime.UTC).date(),
                exclude=stack.resolve.exclude,
                find_links=known.find_links,
                keep=() if request.moves("wheels") else earlier,
                upgrade=tuple(name for name in request.upgrade if name in names),
            )
        )


def _code(request: Request, chosen: tuple[Wheel, ...]) -> dict[str, Code]:
    """Return what the catalogue knows of each wheel, else what an earlier fetch read in it."""
    if catalogue.engine(request.stack.engine.name).accelerator != "cuda":
        return {}
    rows: dict[str, Code] = {}
    for wheel in chosen:
        if (known := code.known(wheel.sha256)) is not None:
            rows[wheel.name] = Code(
                architectures=known.architectures, ptx=known.ptx, origin="catalogue"
            )
        elif (earlier := _read_before(request, wheel)) is not None:
            rows[wheel.name] = earlier
    return rows


def _read_before(request: Request, wheel: Wheel) -> Code | None:
    previous = request.previous
    if previous is None or wheel not in previous.wheels:
        return None
    if request.moves("wheels") or wheel.name in request.upgrade:
        return None
    row = previous.code.get(wheel.name)
    return row if row is not None and row.origin == "read" else None


def _model(request: Request, downloads: Downloads) -> Model:
    asked = request.stack.model
    earlier = request.previous if request.previous and not request.moves("model") else None
    if earlier is None:
        return models.pin(asked, request.folder, downloads)
    before = from_canonical(earlier.stack).model
    return models.pin(asked, request.folder, downloads, earlier.models[0], before)


def _cells(stack: Stack, chosen: tuple[Wheel, ...], model: Model) -> tuple[Gpu, ...]:
    names = stack.target.gpus
    if names == (NO_GPU,):
        return ()
    cuda = stack.engine.cuda or _cuda_of(chosen)
    facts = _facts(model)
    return tuple(_cell(_subject(stack, name, facts), catalogue.gpu(name), cuda) for name in names)


def _facts(model: Model) -> ModelFacts | None:
    """A config that says too little is as good as none."""
    from builder import rules

    config, tensors = model.facts.config, model.facts.tensor_bytes
    with suppress(StackError):
        return rules.of_config(model.repo or model.role, config, tensors)
    return None


def _subject(stack: Stack, gpu: str, facts: ModelFacts | None) -> Subject:
    """Return a cell as rules see it."""
    from builder import rules

    return rules.Subject(rules.changed(stack, (rules.Change("target.gpu", gpu),)), facts)


def _cell(subject: Subject, gpu: catalogue.Gpu, cuda: str) -> Gpu:
    from builder.rules.floor import image_floor
    from builder.rules.settings import settings

    told = settings(subject)
    return Gpu(
        name=gpu.name,
        compute_capability=gpu.compute_capability,
        memory_bytes=gpu.memory_bytes,
        cuda=cuda,
        driver=image_floor(subject.version, cuda, gpu).driver,
        env=told.env,
        args=told.args,
    )


def _cuda_of(chosen: tuple[Wheel, ...]) -> str:
    for wheel in chosen:
        if _CUDA_RUNTIME.fullmatch(wheel.name):
            return ".".join(wheel.version.split(".")[:2])
    message = "engine.cuda: no wheel of the resolution brings a CUDA runtime"
    raise StackError(message, 'say which CUDA release the wheels need: `cuda: "13.0"`')


def _get(values: dict[str, Any], path: str) -> Any:
    value: Any = values
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
