"""A build context on disk, and what is said where it cannot be built."""

import dataclasses
import hashlib
import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import buildkit
from builder.buildkit import Inputs, Target, links
from builder.errors import HostError, IntegrityError, ToolError, UsageError
from builder.lock import ModelFile, Wheel
from builder.oci.layer import Layer
from builder.oci.store import Store
from builder.oci.tar import MTIME, TarWriter
from builder.recipe import recipe
from tests import lock_maker as make
from tests import small_image, wheel_maker

WEIGHTS = b"weights" * 100
MakeInputs = Callable[..., Inputs]


def folder_layer(cache: Path, path: str) -> Layer:
    def fill(tar: TarWriter) -> None:
        tar.parents(path)
        tar.file(path, 5, [b"hello"])
        tar.symlink(f"{path}.link", "/nowhere/at/all")

    return Store(cache).build_layer("tree", "none", fill)


def locked_file(folder: Path, path: str, content: bytes) -> ModelFile:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile(path=path, size=len(content), sha256=digest)


@pytest.fixture
def make_inputs(tmp_path: Path) -> MakeInputs:
    """Inputs of a context for one wheel and one weight file, whatever the file is called."""
    cache, model = tmp_path / "cache", tmp_path / "model"

    def inputs(name: str = "model.safetensors", *, is_local: bool = True) -> Inputs:
        weight = locked_file(model, name, WEIGHTS)
        wheel: Wheel = wheel_maker.write(tmp_path / "downloads", "demo-1.0-py3-none-any.whl", {})
        wheel = wheel.model_copy(update={"uploaded": make.MAY})
        lock = make.lock(wheels=(wheel,), models=(make.model(weight),))
        return Inputs(
            lock=lock,
            recipe=recipe(lock),
            name="demo:1",
            base=small_image.layer(cache, lambda tar: tar.directory("etc"), "base"),
            trees={"launcher": folder_layer(cache, "opt/builder/x.py")},
            places={wheel.sha256: tmp_path / "downloads" / wheel.file, weight.sha256: model / name},
            model=model if is_local else None,
            scratch=cache / "contexts",
        )

    return inputs


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_context_holds_what_the_dockerfile_names(make_inputs: MakeInputs, tmp_path: Path) -> None:
    inputs = make_inputs()
    context = buildkit.write_context(inputs, tmp_path / "out", standalone=False)
    blobs = [line for line in listed(context.folder) if "blobs" in line]
    assert listed(context.folder) == [
        "Dockerfile",
        *blobs,
        "base/index.json",
        "base/oci-layout",
        "bin/uv",
        "launcher/opt/builder/x.py",
        "launcher/opt/builder/x.py.link",
        "requirements/_others.txt",
        "wheels/demo-1.0-py3-none-any.whl",
    ]
    assert len(blobs) == 3
    second = (context.folder / "Dockerfile").read_text().splitlines()[1]
    assert second == "# " + shlex.join(context.command)


def test_weights_of_a_local_model_are_taken_from_its_folder(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    context = buildkit.write_context(make_inputs(), tmp_path / "out", standalone=False)
    assert context.contexts.weights == "../model"
    assert list(context.contexts.names.values()) == ["model.safetensors"]


def test_a_context_that_stands_alone_has_the_weights_as_links(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    inputs = make_inputs()
    context = buildkit.write_context(inputs, tmp_path / "out", standalone=True)
    (sha256,) = context.contexts.names
    assert context.contexts.weights == "weights"
    assert (context.folder / "weights" / sha256).samefile(inputs.places[sha256])


@pytest.mark.parametrize(
    "name",
    [
        "a b.safetensors",
        "x[1].safetensors",
        "$HOME.safetensors",
        "<<EOF.safetensors",
        "it's.safetensors",
    ],
)
def test_names_that_mean_something_to_a_dockerfile_are_not_used(
    make_inputs: MakeInputs, tmp_path: Path, name: str
) -> None:
    inputs = make_inputs(name)
    context = buildkit.write_context(inputs, tmp_path / "out", standalone=False)
    ((sha256, used),) = context.contexts.names.items()
    assert used == sha256
    assert (tmp_path / "out" / context.contexts.weights / used).samefile(inputs.places[sha256])


def test_a_folder_with_an_ignore_file_or_links_is_not_used(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    model = inputs.model
    assert model is not None
    assert not links.choose(inputs, standalone=False).has_links
    (model / ".dockerignore").write_text("*\n")
    assert links.choose(inputs, standalone=False).has_links
    (model / ".dockerignore").unlink()
    (model / "model.safetensors").rename(model / "elsewhere")
    (model / "model.safetensors").symlink_to("elsewhere")
    assert links.choose(inputs, standalone=False).has_links


def test_weights_of_the_hub_are_links_beside_the_downloads(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    inputs = make_inputs(is_local=False)
    context = buildkit.write_context(inputs, tmp_path / "out", standalone=False)
    (sha256,) = context.contexts.names
    place = (tmp_path / "out" / context.contexts.weights).resolve()
    assert place.parent == inputs.scratch
    assert (place / sha256).samefile(inputs.places[sha256])


def test_weights_are_never_copied_outside_the_context(
    make_inputs: MakeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(HostError, match="invalid cross-device link") as caught:
        buildkit.write_context(make_inputs(is_local=False), tmp_path / "out", standalone=False)
    assert caught.value.hint == "add --standalone, which copies it"
    assert not (tmp_path / "out").exists()
    context = buildkit.write_context(make_inputs(), tmp_path / "out", standalone=True)
    (sha256,) = context.contexts.names
    assert (context.folder / "weights" / sha256).read_bytes() == WEIGHTS
    assert os.access(context.folder / "bin" / "uv", os.X_OK)


def test_a_weight_that_is_not_what_was_locked_is_refused(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    inputs = make_inputs()
    ((sha256, place),) = ((k, p) for k, p in inputs.places.items() if p.suffix == ".safetensors")
    place.write_bytes(WEIGHTS[::-1])
    with pytest.raises(IntegrityError, match=f"{place}: expected sha256:{sha256}, got sha256:"):
        buildkit.write_context(inputs, tmp_path / "out", standalone=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "downloads", "model"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_and_times_depend_on_nothing(
    make_inputs: MakeInputs, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        folder = buildkit.write_context(make_inputs(), tmp_path / "out", standalone=False).folder
    finally:
        os.umask(before)
    ours = [
        path
        for path in (folder, *folder.rglob("*"))
        if path.is_dir() or (not path.is_symlink() and path.stat().st_nlink == 1)
    ]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in ours if path.is_dir()}
    assert modes == {0o755}
    assert {stat.S_IMODE(p.stat().st_mode) for p in ours if p.is_file() and p.name != "uv"} == {
        0o644
    }
    assert {path.stat().st_mtime for path in ours} == {MTIME}


def test_an_earlier_context_is_replaced_and_other_files_stay(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    inputs, out = make_inputs(), tmp_path / "out"
    buildkit.write_context(inputs, out, standalone=True)
    (out / "notes.txt").write_text("mine")
    (out / "wheels" / "old-1.0-py3-none-any.whl").write_text("old")
    buildkit.check_folder(inputs.recipe, out, force=False)
    buildkit.write_context(inputs, out, standalone=False)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "weights").exists()
    assert [path.name for path in (out / "wheels").iterdir()] == ["demo-1.0-py3-none-any.whl"]


def test_a_folder_with_other_things_is_refused_unless_forced(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    inputs, out = make_inputs(), tmp_path / "out"
    out.mkdir()
    buildkit.check_folder(inputs.recipe, out, force=False)
    (out / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UsageError, match="exists and is no build context") as caught:
        buildkit.check_folder(inputs.recipe, out, force=False)
    assert caught.value.hint == "choose another folder, or add --force to write into it"
    buildkit.check_folder(inputs.recipe, out, force=True)
    buildkit.write_context(inputs, out, standalone=False)
    buildkit.check_folder(inputs.recipe, out, force=False)


def test_a_file_is_no_folder_even_if_forced(make_inputs: MakeInputs, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="out: is no folder"):
        buildkit.check_folder(make_inputs().recipe, tmp_path / "out", force=True)


def test_a_context_for_another_machine_needs_its_uv(
    make_inputs: MakeInputs, tmp_path: Path
) -> None:
    plan = dataclasses.replace(make_inputs().recipe, platform="linux/s390x")
    with pytest.raises(HostError, match="a context for linux/s390x needs its uv"):
        buildkit.check_folder(plan, tmp_path / "out", force=False)


def test_a_folder_that_cannot_be_written_is_named(make_inputs: MakeInputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file/out: cannot be written"):
        buildkit.write_context(make_inputs(), tmp_path / "file" / "out", standalone=False)


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a `docker` on PATH, and nothing else."""
    bin_folder = folder / "fake-bin"
    bin_folder.mkdir()
    program = bin_folder / "docker"
    program.write_text(f"#!{sys.executable}\nimport sys\nargv = sys.argv[1:]\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))


NATIVE = "leave out --executor buildkit: the native executor needs no engine"


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        pytest.param(
            "sys.exit(argv == ['version'])", "no container engine answers", NATIVE, id="no engine"
        ),
        pytest.param(
            "sys.exit(argv == ['buildx', 'version'])",
            "docker has no buildx",
            f"install docker-buildx, or {NATIVE}",
            id="no buildx",
        ),
        pytest.param(
            "sys.exit(2 * ('inspect' in argv))",
            "the container engine has no BuildKit",
            NATIVE,
            id="no BuildKit",
        ),
    ],
)
def test_what_a_build_needs_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str, hint: str
) -> None:
    fake_docker(tmp_path, monkeypatch, body)
    with pytest.raises(HostError) as caught:
        buildkit.check_engine()
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="`docker` is not installed"):
        buildkit.check_engine()


def test_an_engine_with_buildkit_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, "sys.exit(0)")
    buildkit.check_engine()


def test_a_failed_build_shows_the_last_lines(
    make_inputs: MakeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = buildkit.write_context(make_inputs(), tmp_path / "out", standalone=False)
    fake_docker(tmp_path, monkeypatch, "print(*range(100), sep='\\n'); sys.exit(3)")
    with pytest.raises(ToolError) as caught:
        buildkit.build(context, Target())
    lines = caught.value.message.splitlines()
    assert lines == ["docker buildx build: exited with 3", *map(str, range(80, 100))]
    assert (
        caught.value.hint == "builder render STACK -o DIR writes the same context for a closer look"
    )


ANSWER = """
import json, os
place = next(word.split("=", 1)[1] for word in argv if word.startswith("--metadata-file="))
with open("said.json", "w") as file: json.dump([os.getcwd(), argv], file)
with open(place, "w") as file: json.dump({said}, file)
"""
MANIFEST, CONFIG = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("said", "digest"),
    [
        ({"containerimage.digest": MANIFEST, "containerimage.config.digest": CONFIG}, MANIFEST),
        ({"containerimage.config.digest": CONFIG}, CONFIG),
    ],
)
def test_the_digest_is_what_buildkit_says(
    make_inputs: MakeInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, str],
    digest: str,
) -> None:
    context = buildkit.write_context(make_inputs(), tmp_path / "out", standalone=False)
    fake_docker(tmp_path, monkeypatch, ANSWER.replace("{said}", repr(said)))
    assert buildkit.build(context, Target()) == digest
    assert (context.folder / "said.json").exists()


@pytest.mark.parametrize(
    ("target", "flag"),
    [
        (Target(), "--load"),
        (Target(Path("/a b/c,d")), '--output=type=oci,tar=false,"dest=/a b/c,d"'),
        (Target(Path("/x.tar"), is_archive=True), '--output=type=oci,tar=true,"dest=/x.tar"'),
    ],
    ids=["engine", "layout", "archive"],
)
def test_where_the_image_goes(target: Target, flag: str) -> None:
    assert target.flag == flag
