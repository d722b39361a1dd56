"""Recipe → Dockerfile: another rendering of what the native executor writes.  Pure.

The text is made by the templates in `dockerfiles/`; what they are given is one object, `recipe`,
in which every decision has been taken.  The same lock and the same places give the same text.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder import catalogue, files
from builder import lock as locks
from builder.errors import StackError, UsageError
from builder.oci.weights import weight_path
from builder.recipe import PREFIX, WeightsPart, WheelsPart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.digest import Digest
    from builder.lock import Lock
    from builder.recipe import Recipe

_SECOND = 10**9
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no Dockerfile can hold inside a value; a tab it can."""
_NATIVE = "leave it out, or build with --executor native"


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Where the files of a build lie, seen from the context."""

    name: str
    """`repository:tag` of the image."""
    base: Digest
    """The manifest in the layout `base/`."""
    weights: str
    """The folder with the weight files."""
    names: Mapping[str, str]
    """Names of weight files in that folder, by sha256."""


@dataclass(frozen=True)
class Setting:
    """A variable or a label."""

    name: str
    value: str


@dataclass(frozen=True)
class WheelStep:
    """Wheels that make a layer."""

    requirements: str
    """The file that names them."""
    mount: str
    """The part of the context `wheels` that the step sees."""


@dataclass(frozen=True)
class WeightLayer:
    """Weight files that make a layer."""

    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Health:
    """The health check; times in seconds."""

    command: Sequence[str]
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int


@dataclass(frozen=True, kw_only=True)
class View:
    """What templates see, under the name `recipe`."""

    template: str
    lock: str
    command: str
    prefix: str
    wheels: tuple[WheelStep, ...]
    weights: tuple[WeightLayer, ...]
    environment: tuple[Setting, ...]
    labels: tuple[Setting, ...]
    ports: tuple[int, ...]
    health: Health
    entrypoint: Sequence[str]
    arguments: Sequence[str]
    user: str
    workdir: str
    stop_signal: str


def command(recipe: Recipe, contexts: Contexts, output: str = "--load") -> tuple[str, ...]:
    """Return the command that builds the image; it runs in the context's folder."""
    named = {
        "base": f"oci-layout://base@{contexts.base}",
        "weights": contexts.weights,
        "wheels": "wheels",
    }
    flags = [word for name, at in named.items() for word in ("--build-context", f"{name}={at}")]
    start = ("docker", "buildx", "build", "--platform", recipe.platform)
    epoch = ("--build-arg", f"SOURCE_DATE_EPOCH={recipe.epoch}")
    return (*start, *epoch, *flags, "--provenance=false", "--tag", contexts.name, output, ".")


def render(lock: Lock, recipe: Recipe, contexts: Contexts) -> str:
    """Return the Dockerfile.

    Raises:
        StackError: a value of the stack cannot be written in a Dockerfile.
    """
    family = catalogue.engine(lock.engine.name).template
    return fill(f"{family}.Dockerfile.j2", _view(family, lock, recipe, contexts))


def requirements(recipe: Recipe) -> dict[str, str]:
    """Return the files that name the wheels of each step, by path in the context."""
    parts = [part for part in recipe.parts if isinstance(part, WheelsPart)]
    return {_requirements_path(part): fill("requirements.txt.j2", part.wheels) for part in parts}


def fill(template: str, recipe: object) -> str:
    """Return a template with its one object filled in; a name that it lacks is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(files.data_path("dockerfiles")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - a Dockerfile is no HTML
    )
    environment.filters |= {"shquote": shlex.quote, "json": _json, "quote": quote}
    return environment.get_template(template).render(recipe=recipe)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def quote(value: str) -> str:
    """Return a value as one word of ENV or LABEL, in which nothing is expanded.

    In single quotes the Dockerfile parser still lets a backslash protect the closing quote, and in
    double quotes a backslash protects `"`, `$` and itself:
    https://docs.docker.com/reference/dockerfile/#environment-replacement
    """
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def _view(family: str, lock: Lock, recipe: Recipe, contexts: Contexts) -> View:
    config = recipe.config
    variables = dict(entry.split("=", 1) for entry in config["Env"])
    return View(
        template=family,
        lock=locks.digest_of(lock),
        command=_one_line(shlex.join(command(recipe, contexts))),
        prefix=PREFIX,
        wheels=tuple(_wheel_step(part) for part in recipe.parts if isinstance(part, WheelsPart)),
        weights=tuple(
            _weight_layer(part, contexts) for part in recipe.parts if isinstance(part, WeightsPart)
        ),
        environment=_settings("serve.env", variables),
        labels=_settings("image.labels", config["Labels"]),
        ports=tuple(int(port.split("/")[0]) for port in config["ExposedPorts"]),
        health=_health(config["Healthcheck"]),
        entrypoint=config["Entrypoint"],
        arguments=config["Cmd"],
        user=config["User"],
        workdir=config["WorkingDir"],
        stop_signal=config["StopSignal"],
    )


def _one_line(text: str) -> str:
    if _UNPRINTABLE.search(text):
        message = "a path of the build has a control character in it"
        raise UsageError(message, "choose another folder, or add --standalone")
    return text


def _settings(place: str, values: Mapping[str, str]) -> tuple[Setting, ...]:
    for name, value in values.items():
        if _UNPRINTABLE.search(name + value):
            message = f"{place}: `{name}` has a line break or control character in it"
            raise StackError(message, _NATIVE)
        if "=" in name:
            message = f"{place}: a Dockerfile has no labels with `=` in their name: `{name}`"
            raise StackError(message, _NATIVE)
    return tuple(Setting(name, value) for name, value in values.items())


def _wheel_step(part: WheelsPart) -> WheelStep:
    """A big wheel is seen alone, so that no other change makes its layer anew."""
    mount = "target=/mnt/wheels"
    if _is_alone(part):
        file = part.wheels[0].file
        mount = f"source={file},{mount}/{file}"
    return WheelStep(_requirements_path(part), mount)


def _requirements_path(part: WheelsPart) -> str:
    # No package has a name that begins with an underscore.
    return f"requirements/{part.wheels[0].name if _is_alone(part) else '_others'}.txt"


def _is_alone(part: WheelsPart) -> bool:
    return not part.has_prefix


def _weight_layer(part: WeightsPart, contexts: Contexts) -> WeightLayer:
    sources = tuple(contexts.names[file.sha256] for file in part.files)
    target = "/" + weight_path(part.files[0].sha256)
    if len(sources) > 1:
        target = target.rpartition("/")[0] + "/"
    return WeightLayer(sources, target)


def _health(check: Mapping[str, Any]) -> Health:
    return Health(
        command=check["Test"][1:],
        interval=check["Interval"] // _SECOND,
        timeout=check["Timeout"] // _SECOND,
        start_period=check["StartPeriod"] // _SECOND,
        start_interval=check["StartInterval"] // _SECOND,
        retries=check["Retries"],
    )
