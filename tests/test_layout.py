"""An image as an OCI layout, read back without our own code."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from builder import outputs
from builder.digest import of_bytes
from builder.errors import HostError, IntegrityError, UsageError
from builder.oci import layout
from builder.oci.image import Image, make_image
from builder.oci.layer import Layer
from builder.oci.store import Store
from builder.oci.weights import WeightFile, weigh, weight_layer

NAME = "registry.test:5000/team/llama:1.0"
CREATED = "2026-05-10T00:00:00Z"
WEIGHTS = b"w" * 5000
PREFIX = "application/vnd.oci.image"


def weights(folder: Path) -> Layer:
    path = folder / "model.safetensors"
    path.write_bytes(WEIGHTS)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    files = [WeightFile(path, sha256, len(WEIGHTS))]
    return weight_layer(files, weigh(files, lambda _: None), "weights")


def made(folder: Path, name: str = NAME, command: str = "serve") -> Image:
    folder.mkdir(exist_ok=True)
    base = Store(folder).build_layer("base", "zstd", lambda tar: tar.file("a", 1, [b"a"]))
    config = {"Entrypoint": [command], "Cmd": []}
    return make_image(name, "linux/amd64", [base, weights(folder)], config, CREATED)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return made(tmp_path / "made")


def written(image: Image, folder: Path) -> int:
    counted: list[int] = []
    layout.write_folder(image, folder, counted.append)
    return sum(counted)


def blob(folder: Path, digest: str) -> bytes:
    algorithm, _, name = digest.partition(":")
    data = (folder / "blobs" / algorithm / name).read_bytes()
    assert hashlib.new(algorithm, data).hexdigest() == name
    return data


def described(folder: Path, descriptor: dict[str, Any]) -> bytes:
    data = blob(folder, descriptor["digest"])
    assert len(data) == descriptor["size"]
    return data


def plain(media_type: str, data: bytes) -> bytes:
    if media_type.endswith("+zstd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def check_semantics(folder: Path, entry: dict[str, Any]) -> None:
    """Follow every descriptor as a registry client would."""
    manifest = json.loads(described(folder, entry))
    assert manifest["mediaType"] == entry["mediaType"] == f"{PREFIX}.manifest.v1+json"
    assert manifest["config"]["mediaType"] == f"{PREFIX}.config.v1+json"
    config = json.loads(described(folder, manifest["config"]))
    unpacked = [plain(la["mediaType"], described(folder, la)) for la in manifest["layers"]]
    assert config["rootfs"] == {
        "type": "layers",
        "diff_ids": [of_bytes(data) for data in unpacked],
    }
    assert len(config["history"]) == len(unpacked)
    for data in unpacked:
        tarfile.open(fileobj=io.BytesIO(data)).close()


def index(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "index.json").read_bytes())["manifests"]
    return found


def test_a_folder_has_the_structure_of_the_specification(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "llama"
    assert written(image, folder) == image.size
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((folder / "index.json").read_bytes()) == {
        "schemaVersion": 2,
        "mediaType": f"{PREFIX}.index.v1+json",
        "manifests": [
            {
                "mediaType": f"{PREFIX}.manifest.v1+json",
                "digest": image.digest,
                "size": len(image.manifest),
                "annotations": {
                    "org.opencontainers.image.ref.name": "1.0",
                    "io.containerd.image.name": NAME,
                },
            }
        ],
    }
    assert len(list((folder / "blobs" / "sha256").iterdir())) == 4
    check_semantics(folder, index(folder)[0])


def test_the_config_is_the_image_config(image: Image) -> None:
    base, baked = image.layers
    history = {"created": CREATED, "created_by": "builder"}
    assert json.loads(image.config) == {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {"Entrypoint": ["serve"], "Cmd": []},
        "rootfs": {"type": "layers", "diff_ids": [base.diff_id, baked.diff_id]},
        "history": [history | {"comment": "base"}, history | {"comment": "weights"}],
    }


@pytest.mark.parametrize(
    ("name", "tag", "full"),
    [
        ("llama:1.0", "1.0", "docker.io/library/llama:1.0"),
        ("llama", "latest", "docker.io/library/llama:latest"),
        ("team/llama:1.0", "1.0", "docker.io/team/llama:1.0"),
        ("localhost/llama:1.0", "1.0", "localhost/llama:1.0"),
        ("host:5000/llama", "latest", "host:5000/llama:latest"),
        ("host:5000/llama:v2", "v2", "host:5000/llama:v2"),
    ],
)
def test_tools_find_the_image_by_tag_and_by_name(
    tmp_path: Path, name: str, tag: str, full: str
) -> None:
    entry = json.loads(layout.index_of(made(tmp_path, name)))["manifests"][0]
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": tag,
        "io.containerd.image.name": full,
    }


def test_a_layout_is_brought_up_to_date(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(image, folder)
    known = folder / "blobs" / "sha256" / image.layers[1].digest[7:]
    before = known.stat().st_ino
    newer = made(tmp_path / "made", command="other")
    written(newer, folder)
    assert [entry["digest"] for entry in index(folder)] == [newer.digest]
    assert known.stat().st_ino == before
    check_semantics(folder, index(folder)[0])


def test_other_images_of_a_layout_stay(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(image, folder)
    other = made(tmp_path / "made", "other:2.0", command="other")
    written(other, folder)
    written(other, folder)
    assert [entry["digest"] for entry in index(folder)] == [image.digest, other.digest]
    for entry in index(folder):
        check_semantics(folder, entry)


def test_writing_again_changes_nothing(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert written(image, folder) == written(image, folder)
    before = (folder / "index.json").read_bytes()
    written(image, folder)
    assert (folder / "index.json").read_bytes() == before


def test_a_truncated_blob_of_a_layout_is_written_again(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(image, folder)
    path = folder / "blobs" / "sha256" / image.layers[0].digest[7:]
    path.write_bytes(path.read_bytes()[:-1])
    written(image, folder)
    check_semantics(folder, index(folder)[0])


def test_a_changed_blob_of_a_layout_is_written_again(
    image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    written(image, folder)
    path = folder / "blobs" / "sha256" / image.layers[0].digest[7:]
    path.write_bytes(bytes(image.layers[0].size))
    assert written(image, folder) == image.size
    check_semantics(folder, index(folder)[0])
    assert capsys.readouterr().err == f"warning: {path}: was damaged, is written again\n"


def test_weights_that_changed_leave_no_index(image: Image, tmp_path: Path) -> None:
    (tmp_path / "made" / "model.safetensors").write_bytes(b"v" * 5000)
    with pytest.raises(IntegrityError, match="expected sha256:"):
        written(image, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["blobs", "oci-layout"]
    for path in (tmp_path / "out" / "blobs" / "sha256").iterdir():
        assert of_bytes(path.read_bytes()) == f"sha256:{path.name}" != image.layers[1].digest
    outputs.parse(f"oci:{tmp_path}/out").check()  # the next run goes on in it


def test_a_folder_with_other_things_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        outputs.parse(f"oci:{tmp_path}").check()
    assert (caught.value.message, caught.value.hint) == (
        f"{tmp_path}: exists and is no OCI layout",
        "choose another folder, or remove it",
    )
    with pytest.raises(UsageError, match=r"photo\.jpg: exists and is no OCI layout"):
        outputs.parse(f"oci:{tmp_path}/photo.jpg").check()


def test_new_empty_and_earlier_folders_are_accepted(image: Image, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    written(image, tmp_path / "earlier")
    for name in ("new", "empty", "earlier"):
        outputs.parse(f"oci:{tmp_path}/{name}").check()


@pytest.mark.parametrize("text", ["", "[]", '{"manifests": [1]}', "{}"])
def test_a_damaged_index_is_refused(image: Image, tmp_path: Path, text: str) -> None:
    written(image, tmp_path / "out")
    place = tmp_path / "out" / "index.json"
    place.write_text(text)
    with pytest.raises(UsageError) as caught:
        written(image, tmp_path / "out")
    assert caught.value.message == f"{place}: is no index of an OCI layout"
    assert place.read_text() == text


def unpacked(image: Image, folder: Path) -> Path:
    data = b"".join(layout.archive_chunks(image))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        opened.extraction_filter = getattr(tarfile, "data_filter", None)
        opened.extractall(folder)  # noqa: S202 - our own bytes
    return folder


def test_an_archive_holds_the_same_layout(image: Image, tmp_path: Path) -> None:
    written(image, tmp_path / "folder")
    folder = unpacked(image, tmp_path / "archive")
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    same = {
        str(p.relative_to(tmp_path / "folder"))
        for p in (tmp_path / "folder").rglob("*")
        if p.is_file()
    }
    assert names == same | {"manifest.json"}
    for name in same:
        assert (folder / name).read_bytes() == (tmp_path / "folder" / name).read_bytes()


def test_the_manifest_for_docker_names_the_same_blobs(image: Image, tmp_path: Path) -> None:
    folder = unpacked(image, tmp_path / "archive")
    manifest = json.loads(image.manifest)
    assert json.loads((folder / "manifest.json").read_bytes()) == [
        {
            "Config": f"blobs/sha256/{manifest['config']['digest'][7:]}",
            "RepoTags": [NAME],
            "Layers": [f"blobs/sha256/{layer['digest'][7:]}" for layer in manifest["layers"]],
        }
    ]
    check_semantics(folder, index(folder)[0])


def test_an_archive_is_the_same_every_time(image: Image) -> None:
    assert list(layout.archive_chunks(image)) == list(layout.archive_chunks(image))


def test_a_layer_that_occurs_twice_is_written_once(tmp_path: Path) -> None:
    layer = weights(tmp_path)
    image = make_image(NAME, "linux/amd64", [layer, layer], {}, CREATED)
    with tarfile.open(fileobj=io.BytesIO(b"".join(layout.archive_chunks(image)))) as opened:
        names = opened.getnames()
    assert len(names) == len(set(names))
    assert len(json.loads(image.config)["rootfs"]["diff_ids"]) == 2


def test_an_archive_is_written_by_the_output(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "out" / "image.tar"
    outputs.parse(f"oci-archive:{path}").write(image)
    assert path.read_bytes() == b"".join(layout.archive_chunks(image))
    with pytest.raises(UsageError) as caught:
        outputs.parse(f"oci-archive:{path}").check()
    assert (caught.value.message, caught.value.hint) == (
        f"{path}: exists already",
        "add --force to replace it, or choose another file",
    )
    outputs.parse(f"oci-archive:{path}", force=True).check()


def test_an_archive_never_replaces_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        outputs.parse(f"oci-archive:{tmp_path}", force=True).check()
    assert (caught.value.message, caught.value.hint) == (
        f"{tmp_path}: is no regular file",
        "choose another file",
    )


def test_an_archive_never_replaces_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no regular file"):
        outputs.parse(f"oci-archive:{tmp_path}/pipe", force=True).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for output in (f"oci:{tmp_path}/out", f"oci-archive:{tmp_path}/out.tar"):
        with pytest.raises(HostError, match="cannot be written: permission denied"):
            outputs.parse(output).check()


def test_an_archive_that_fails_leaves_the_earlier_one(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(b"earlier")
    (tmp_path / "made" / "model.safetensors").write_bytes(b"v" * 5000)
    with pytest.raises(IntegrityError):
        outputs.parse(f"oci-archive:{path}", force=True).write(image)
    assert path.read_bytes() == b"earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.tar", "made"]


def test_an_output_that_cannot_be_written_is_an_error(image: Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        outputs.parse(f"oci-archive:{tmp_path}/file/image.tar").write(image)
    place = f"{tmp_path}/file/image.tar"
    assert caught.value.message == f"{place}: cannot be written: file exists"


@pytest.mark.parametrize("text", ["", "oci:", "oci", "docker:x", "oci-archive:", "tar:x"])
def test_an_unknown_output_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        outputs.parse(text)
    expected = "oci:DIR, oci-archive:FILE or docker"
    assert caught.value.message == f"--output: expected {expected}, got `{text}`"
