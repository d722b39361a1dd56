"""Other tools, each in its fastest documented way to the same end state."""

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
)
from benchmarks.driver import FOLDER, software
from benchmarks.measure import run
from benchmarks.own import LAYERS, driver

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.contenders import Commands, Place
    from benchmarks.services import Engine

_DOCKER = ("docker", "dockerd")
_BUILT = 3.0
"""Copies that BuildKit makes: the context, the layer's files, the blob."""


# --- docker ---------------------------------------------------------------------------------------


def _dockerfile(place: Place) -> Path:
    """Write the recipe: one `COPY --link` a file, so that layers stand alone and run apart."""
    names = [file.path.name for file in place.inputs.files] + [place.inputs.config.name]
    lines = [f"COPY --link {name} /{FOLDER}/" for name in names]
    if place.inputs.has_many:
        lines = [f"COPY --link . /{FOLDER}/"]
    path = place.work / "Dockerfile"
    path.write_text("\n".join(["FROM scratch", *lines, ""]), "utf-8")
    return path


def _build(place: Place, engine: Engine, *words: str) -> list[str]:
    recipe = place.work / "Dockerfile"
    # An attestation would be one thing more than the others make.
    plain = ("--provenance=false", "--sbom=false")
    words = ("-f", str(recipe), *plain, *words, str(place.inputs.folder))
    return [*engine.client(), "buildx", "build", *words]


def _uncompressed(output: str, *, packed: bool) -> str:
    """Return an output of BuildKit's, which compresses unless told not to."""
    return output if packed else f"{output},compression=uncompressed"


def bake(name: str, *, packed: bool) -> Contender:
    """Return the build whose result is a manifest in the image store."""
    output = _uncompressed(f"type=image,name={IMAGE},unpack=false", packed=packed)
    return Contender(
        name=name,
        kind="peer",
        before=_dockerfile,
        commands=lambda place: [_build(place, place.engine, "--output", output)],
        check=in_engine,
        disk=_BUILT + 1,
        needs=_DOCKER,
    )


def layout(name: str, *, packed: bool) -> Contender:
    """Return the build whose result is a layout on disk."""

    def commands(place: Place) -> Commands:
        output = f"type=oci,dest={place.target / 'oci'},tar=false"
        return [_build(place, place.engine, "--output", _uncompressed(output, packed=packed))]

    return Contender(
        name=name,
        kind="peer",
        before=_dockerfile,
        commands=commands,
        check=in_layout,
        disk=_BUILT + 1,
        needs=_DOCKER,
    )


LOAD = Contender(
    name="docker build",
    kind="peer",
    before=_dockerfile,
    commands=lambda place: [_build(place, place.engine, "--load", "-t", IMAGE)],
    check=in_engine,
    disk=_BUILT + 1,
    needs=_DOCKER,
)
LOAD_CLASSIC = Contender(
    name="docker build (overlay2 store)",
    kind="peer",
    before=_dockerfile,
    commands=lambda place: [_build(place, place.classic, "--load", "-t", IMAGE)],
    check=in_classic,
    disk=_BUILT,
    needs=_DOCKER,
)


def _build_and_push(place: Place, engine: Engine, repository: str, *words: str) -> Commands:
    build = _build(place, engine, "--load", "-t", repository, *words)
    return [build, [*engine.client(), "push", "-q", repository]]


def push(name: str, *, classic: bool) -> Contender:
    """Return `docker build` and `docker push`."""

    def commands(place: Place) -> Commands:
        engine = place.classic if classic else place.engine
        return _build_and_push(place, engine, place.repository("run"))

    return Contender(
        name=name,
        kind="peer",
        before=_dockerfile,
        commands=commands,
        check=in_registry,
        disk=_BUILT + 2,
        needs=_DOCKER,
    )


def build_into_registry(name: str, *, packed: bool) -> Contender:
    """Return the build that pushes by itself."""

    def commands(place: Place) -> Commands:
        output = f"type=image,name={place.repository('run')},push=true,unpack=false"
        return [_build(place, place.engine, "--output", _uncompressed(output, packed=packed))]

    return Contender(
        name=name,
        kind="peer",
        before=_dockerfile,
        commands=commands,
        check=in_registry,
        disk=_BUILT + 1,
        needs=_DOCKER,
    )


def release(name: str, *, classic: bool) -> Contender:
    """Return a build with a warm cache in which one small layer is new, and its push."""
    repository = f"released-{'overlay2' if classic else 'docker'}"

    def build(place: Place) -> Commands:
        new = f"new={place.work / 'software'}"
        engine = place.classic if classic else place.engine
        target = place.repository(repository)
        return _build_and_push(place, engine, target, "--build-context", new)

    def first(place: Place) -> None:
        _new_software(place)
        run(build(place))

    return Contender(
        name=name,
        kind="peer",
        once=first,
        before=_new_software,
        commands=build,
        check=lambda place: checks.registry(place.repository(repository), place.inputs),
        disk=_BUILT + 2,
        needs=_DOCKER,
    )


def _new_software(place: Place) -> None:
    """Write what is new, and a recipe with it on top: the order does not matter to `--link`."""
    folder = place.work / "software"
    folder.mkdir(exist_ok=True)
    (folder / "software.bin").write_bytes(software(place.number))
    with _dockerfile(place).open("a", encoding="utf-8") as recipe:
        recipe.write("COPY --link --from=new software.bin /opt/software.bin\n")


# --- buildah and skopeo -------------------------------------------------------------------------


def _buildah(place: Place, destination: str) -> Commands:
    storage = f"--root {place.target}/buildah --runroot {place.target}/run"
    buildah = f"buildah {storage} --storage-driver overlay"
    # One layer for all files: several would be committed, and so written, twice.
    script = f"""set -e
        container=$({buildah} from scratch)
        {buildah} copy "$container" {place.inputs.folder} /{FOLDER}/
        {buildah} commit --quiet --tls-verify=false "$container" {destination}"""
    return [["sh", "-c", script]]


BUILDAH_LAYOUT = Contender(
    name="buildah",
    kind="peer",
    commands=lambda place: _buildah(place, f"oci:{place.target / 'oci'}:1"),
    check=in_layout,
    disk=3,
    needs=("buildah",),
)
BUILDAH_PUSH = Contender(
    name="buildah",
    kind="peer",
    commands=lambda place: _buildah(place, f"docker://{place.repository('run')}"),
    check=in_registry,
    disk=3,
    needs=("buildah",),
)


def _finished_layout(place: Place) -> None:
    run([driver(place, LAYERS, f"oci:{place.target / 'finished'}")])


def _skopeo(place: Place, destination: str) -> Commands:
    source = f"oci:{place.target / 'finished'}:1"
    words = ("--quiet", "--preserve-digests", "--dest-tls-verify=false")
    return [["skopeo", "copy", *words, source, destination]]


SKOPEO_LAYOUT = Contender(
    name="skopeo, from a finished layout",
    kind="peer",
    before=_finished_layout,
    commands=lambda place: _skopeo(place, f"oci:{place.target / 'oci'}:1"),
    check=in_layout,
    disk=2,
    needs=("skopeo",),
)
SKOPEO_PUSH = Contender(
    name="skopeo, from a finished layout",
    kind="peer",
    before=_finished_layout,
    commands=lambda place: _skopeo(place, f"docker://{place.repository('run')}"),
    check=in_registry,
    disk=2,
    needs=("skopeo",),
)
