"""The project itself, and the floors below which nobody gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import checks
from benchmarks.contenders import (
    IMAGE,
    Contender,
    in_classic,
    in_engine,
    in_layout,
    in_registry,
    python,
)
from benchmarks.measure import run

if TYPE_CHECKING:
    from benchmarks.contenders import Commands, Place
    from benchmarks.services import Engine

RELEASED = "released-ours"
FILES, NOTHING, LAYERS = "files", "nothing", "layers"
"""What the lock knows the digests of."""


def driver(place: Place, known: str, to: str, *more: str) -> list[str]:
    """Return the command that runs the project."""
    store = ("--store", str(place.target / "store"))
    return python("driver", place, *store, "--known", known, "--name", IMAGE, "--to", to, *more)


def bake(name: str, known: str) -> Contender:
    """Return the way to a manifest with every digest known."""
    return Contender(
        name=name, kind="ours", commands=lambda place: [driver(place, known, "nowhere")]
    )


def layout(name: str, known: str) -> Contender:
    """Return the way to a layout on disk."""
    return Contender(
        name=name,
        kind="ours",
        commands=lambda place: [driver(place, known, f"oci:{place.target / 'oci'}")],
        check=in_layout,
        disk=1,
    )


def _load(engine: Engine, place: Place) -> list[str]:
    return ["env", f"DOCKER_HOST={engine.socket}", *driver(place, LAYERS, "docker")]


LOAD = Contender(
    name="ours",
    kind="ours",
    commands=lambda place: [_load(place.engine, place)],
    check=in_engine,
    disk=2,
)
LOAD_CLASSIC = Contender(
    name="ours (overlay2 store)",
    kind="ours",
    commands=lambda place: [_load(place.classic, place)],
    check=in_classic,
    disk=2,
)


def push(name: str, known: str) -> Contender:
    """Return the way to an image in the registry."""
    return Contender(
        name=name,
        kind="ours",
        commands=lambda place: [driver(place, known, f"push:{place.repository('run')}")],
        check=in_registry,
        disk=1,
    )


def _publish_first(place: Place) -> None:
    run([driver(place, LAYERS, f"push:{place.repository(RELEASED)}")])


def _release(place: Place, repository: str, *more: str) -> Commands:
    """Return a release with other software, where no weight file is."""
    words = ("--absent", "--software", str(place.number), *more)
    return [driver(place, LAYERS, f"push:{place.repository(repository)}", *words)]


RELEASE = Contender(
    name="ours, no weight file here",
    kind="ours",
    commands=lambda place: _release(place, RELEASED),
    check=lambda place: checks.registry(place.repository(RELEASED), place.inputs),
    once=_publish_first,
    disk=1,
)


def _elsewhere(place: Place) -> str:
    return f"elsewhere-{place.number}"


RELEASE_ELSEWHERE = Contender(
    name="ours, to another repository",
    kind="ours",
    commands=lambda place: _release(
        place, _elsewhere(place), "--mount-from", f"benchmark/{RELEASED}"
    ),
    check=lambda place: checks.registry(place.repository(_elsewhere(place)), place.inputs),
    once=_publish_first,
    disk=1,
)


def _floor(name: str, *words: str) -> Contender:
    return Contender(
        name=name, kind="floor", commands=lambda place: [python("floors", place, *words)]
    )


HASH = _floor("every byte hashed once", "hash")
DOUBLE = _floor("every byte hashed twice", "double")


def _copy(place: Place) -> Commands:
    script = 'cp -r "$1" "$2" && sync -f "$2"'
    return [["sh", "-c", script, "sh", str(place.inputs.folder), str(place.target / "copy")]]


COPY = Contender(
    name="cp and sync",
    kind="floor",
    commands=_copy,
    check=lambda place: checks.copied(place.target / "copy", place.inputs),
    disk=1,
)
PUT = Contender(
    name="plain parallel PUT",
    kind="floor",
    commands=lambda place: [
        python("floors", place, "put", "--to", f"{place.registry.host}/benchmark/put")
    ],
    disk=1,
)
