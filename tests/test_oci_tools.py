"""What other tools say of a real image: the demo stack, built from its committed lock."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from referencing.jsonschema import DRAFT4

from builder import files, pipeline
from builder.assemble import deb
from builder.fetch import wanted_package
from builder.outputs import Folder
from builder.sources import debian
from builder.sources.downloads import Downloads

STACK = Path("stacks/tiny-llama-cpu.yaml")
SCHEMAS = "golang-github-opencontainers-image-spec-dev"

pytestmark = pytest.mark.network


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("layout") / "zstd"
    pipeline.build(STACK, pipeline.BuildOptions(outputs=(Folder(folder),), may_lock=False))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("layout") / "none"
    options = pipeline.BuildOptions("none", (Folder(folder),), may_lock=False)
    pipeline.build(STACK, options)
    yield folder
    shutil.rmtree(folder)


def document(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())


def manifest(layout: Path) -> tuple[str, Any]:
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return entry["digest"], document(layout, entry["digest"])


@pytest.fixture(scope="session")
def schemas() -> dict[str, Any]:
    """The specification's own JSON schemas, from Debian's copy of its repository."""
    _, packages = debian.resolve(debian.Request("bookworm", packages=(SCHEMAS,)))
    package = next(item for item in packages if item.name == SCHEMAS)
    downloads = Downloads(files.cache_folder())
    downloads.fetch([wanted_package(package, "bookworm")])
    with deb.data(downloads.path(package.sha256)) as archive:
        found = {}
        for member in archive:
            if member.name.endswith(".json") and "/schema/" in member.name:
                file = archive.extractfile(member)
                assert file
                found[member.name.rpartition("/")[2]] = json.load(file)
    return found


def validate(schemas: dict[str, Any], name: str, value: Any) -> None:
    def retrieve(uri: str) -> referencing.Resource[Any]:
        return DRAFT4.create_resource(schemas[uri.rpartition("/")[2]])

    registry: Any = referencing.Registry(retrieve=retrieve)  # type: ignore[call-arg]
    jsonschema.Draft4Validator(schemas[name], registry=registry).validate(value)


def test_the_specifications_schemas_accept_every_document(
    schemas: dict[str, Any], layout: Path
) -> None:
    _, image = manifest(layout)
    config = document(layout, image["config"]["digest"])
    validate(schemas, "image-layout-schema.json", json.loads((layout / "oci-layout").read_bytes()))
    validate(schemas, "image-index-schema.json", json.loads((layout / "index.json").read_bytes()))
    validate(schemas, "image-manifest-schema.json", image)
    validate(schemas, "config-schema.json", config)
    assert len(config["rootfs"]["diff_ids"]) == len(image["layers"]) == len(config["history"])


def test_the_schemas_refuse_a_broken_manifest(schemas: dict[str, Any], layout: Path) -> None:
    _, image = manifest(layout)
    image["layers"][0]["digest"] = "nonsense"
    with pytest.raises(jsonschema.ValidationError):
        validate(schemas, "image-manifest-schema.json", image)


def test_skopeo_names_the_same_digest(layout: Path) -> None:
    digest, _ = manifest(layout)
    inspected = json.loads(run(tool("skopeo"), "inspect", f"oci:{layout}:0.32.0"))
    assert inspected["Digest"] == digest


@pytest.mark.engine
def test_a_registry_gives_back_the_same_digest(layout: Path, tmp_path: Path, registry: str) -> None:
    skopeo, remote = tool("skopeo"), f"docker://{registry}/test/tiny-llama:oci"
    copy = (skopeo, "copy", "--quiet", "--preserve-digests")
    run(*copy, "--dest-tls-verify=false", f"oci:{layout}:0.32.0", remote)
    run(*copy, "--src-tls-verify=false", remote, f"oci:{tmp_path}/back:0.32.0")
    assert manifest(tmp_path / "back") == manifest(layout)


def test_umoci_unpacks_what_the_diff_ids_say(plain: Path, tmp_path: Path) -> None:
    run(tool("umoci"), "unpack", "--rootless", "--image", f"{plain}:0.32.0", f"{tmp_path}/bundle")
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "opt/venv/bin/python3").is_symlink()
    weights = (root / "models/tiny-llama/model.safetensors").resolve()
    committed = STACK.parent / "models/tiny-llama/model.safetensors"
    assert weights.read_bytes() == committed.read_bytes()
    shutil.rmtree(tmp_path / "bundle")


def test_without_compression_digest_and_diff_id_are_one(plain: Path, layout: Path) -> None:
    _, image = manifest(plain)
    _, packed = manifest(layout)
    diff_ids = document(plain, image["config"]["digest"])["rootfs"]["diff_ids"]
    assert [layer["digest"] for layer in image["layers"]] == diff_ids
    assert image["config"]["digest"] == packed["config"]["digest"]
