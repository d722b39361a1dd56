"""A model in a folder: hashed, never copied."""

import hashlib
import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tomlkit

from builder.digest import Digest
from builder.errors import IntegrityError, StackError
from builder.lock import Model, ModelFile
from builder.oci import tar
from builder.oci import weights as weight_layers
from builder.oci.memo import WeightMemo
from builder.sources import local, models
from builder.sources.downloads import Downloads
from builder.stack.model import Files
from builder.stack.model import Model as Asked
from tests.model_maker import index, model, weights

STACKS = Path(__file__).parents[1] / "stacks"
ASKED = Asked(path="m")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "m", model())
    return tmp_path


def pin(folder: Path, keep: Model | None = None, asked: Asked = ASKED) -> Model:
    """Pin on a machine that remembers nothing."""
    return local.pin(
        asked, folder, WeightMemo(folder / "nowhere" / str(os.urandom(4).hex()), 1), keep
    )


def by_path(pinned: Model) -> dict[str, ModelFile]:
    return {file.path: file for file in pinned.files}


def test_every_file_is_named_by_its_content(folder: Path) -> None:
    pinned = pin(folder)
    assert pinned.role == "main"
    assert (pinned.repo, pinned.commit, pinned.committed) == (None, None, None)
    for path, data in model().items():
        file = by_path(pinned)[path]
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert pinned.facts.tensor_bytes == {"BF16": 16}
    assert pinned.facts.config["model_type"] == "llama"


def test_weights_know_their_layer_and_small_files_have_none(folder: Path) -> None:
    files = by_path(pin(folder))
    data = model()["model.safetensors"]
    before, after = weight_layers.frame(hashlib.sha256(data).hexdigest(), len(data))
    digest = hashlib.sha256(before + data + after + tar.END).hexdigest()
    assert files["model.safetensors"].layer == f"sha256:{digest}"
    assert files["config.json"].layer is None


def test_what_is_known_of_a_layer_saves_a_read_and_is_not_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memo = WeightMemo(folder / "memo", 1)
    kept = local.pin(ASKED, folder, memo)
    data = model()["model.safetensors"]
    sha256 = hashlib.sha256(data).hexdigest()
    assert memo.recall([(sha256, len(data))]) == by_path(kept)["model.safetensors"].layer
    assert pin(folder, kept) == kept
    write(folder / "m", {"model.safetensors": weights("a", "b", "c")})
    assert pin(folder, kept) == pin(folder)
    assert pin(folder, kept) != kept


def test_a_file_that_is_written_to_while_it_is_read(folder: Path) -> None:
    class Meddler(WeightMemo):
        def recall(self, content: Sequence[tuple[str, int]]) -> Digest | None:
            (folder / "m" / "model.safetensors").touch()
            return None

    with pytest.raises(IntegrityError, match=r"model\.safetensors: changed while it was read"):
        local.pin(ASKED, folder, Meddler(folder / "memo", 1))


def test_a_failure_ends_the_reading_of_other_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunks(path: Path) -> Iterator[bytes]:
        if path.name == "config.json":
            raise IntegrityError(str(path))
        while True:
            yield b"as long as nobody ends it"

    monkeypatch.setattr(local, "content_chunks", chunks)
    with pytest.raises(IntegrityError, match=r"config\.json"):
        pin(folder)


def test_shards_with_an_index(tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": index({"a": "1.safetensors", "b": "2.safetensors"}),
        "1.safetensors": weights("a"),
        "2.safetensors": weights("b", dtype="F32"),
    }
    write(tmp_path / "m", files)
    assert pin(tmp_path).facts.tensor_bytes == {"BF16": 8, "F32": 16}


def test_bookkeeping_is_not_even_read(folder: Path) -> None:
    (folder / "m" / ".git").symlink_to("nowhere")
    write(folder / "m", {".cache/x.bin": b"x"})
    assert set(by_path(pin(folder))) == set(model())


def test_links_to_files_are_followed(folder: Path) -> None:
    blob = folder / "blobs" / "abc"
    write(folder, {"blobs/abc": weights("a")})
    weight = folder / "m" / "model.safetensors"
    weight.unlink()
    weight.symlink_to(blob)
    assert by_path(pin(folder))["model.safetensors"].size == blob.stat().st_size


def test_links_to_nothing_folders_and_special_files_are_refused(folder: Path) -> None:
    odd = folder / "m" / "odd"
    odd.symlink_to("nowhere")
    with pytest.raises(StackError, match="is a link to nothing"):
        pin(folder)
    odd.unlink()
    odd.symlink_to(folder)
    with pytest.raises(StackError, match="is a link to a folder"):
        pin(folder)
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(StackError, match="is not a regular file") as caught:
        pin(folder)
    assert caught.value.hint == 'remove it, or add ["odd"] to model.files.exclude'
    pin(folder, asked=Asked(path="m", files=Files(exclude=("odd",))))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="m: there is no such folder"):
        pin(tmp_path)


def test_a_malformed_file_is_named(folder: Path) -> None:
    write(folder / "m", {"model.safetensors": weights("a")[:-1]})
    with pytest.raises(IntegrityError, match=r"^m: model\.safetensors: is not a valid"):
        pin(folder)


def test_fetch_gives_the_files_where_they_are(folder: Path) -> None:
    pinned = pin(folder)
    paths = models.fetch(pinned, "m", folder, Downloads(folder / "cache"))
    assert paths["config.json"] == local.path_of("m", "config.json", folder)
    assert set(paths) == set(model())


def test_fetch_notices_what_changed(folder: Path) -> None:
    pinned, downloads = pin(folder), Downloads(folder / "cache")
    write(folder / "m", {"tokenizer.json": b"{} "})
    with pytest.raises(IntegrityError, match=r"m/tokenizer\.json: expected 2 bytes, got 3"):
        models.fetch(pinned, "m", folder, downloads)
    (folder / "m" / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"m/tokenizer\.json: no such file"):
        models.fetch(pinned, "m", folder, downloads)


def test_fetch_compares_what_weights_say_with_the_lock(folder: Path) -> None:
    pinned, downloads = pin(folder), Downloads(folder / "cache")
    path = folder / "m" / "model.safetensors"
    # As long as before, every byte accounted for, and yet other tensors.
    path.write_bytes(path.read_bytes().replace(b"BF16", b"F16 ").replace(b'"F16 "', b'"F16" '))
    with pytest.raises(IntegrityError, match="m: expected 0 bytes of F16 tensors, got 16"):
        models.fetch(pinned, "m", folder, downloads)


def test_fetch_of_some_files_asks_for_no_others(folder: Path) -> None:
    pinned = pin(folder)
    write(folder / "m", {"model.safetensors": b"changed"})
    some = tuple(file for file in pinned.files if file.path != "model.safetensors")
    fewer = pinned.model_copy(update={"files": some})
    assert len(models.fetch(fewer, "m", folder, Downloads(folder / "cache"))) == 2


def test_check_names_file_and_both_digests(folder: Path) -> None:
    file = by_path(pin(folder))["tokenizer.json"]
    path = folder / "m" / "tokenizer.json"
    local.check(path, file)
    path.write_bytes(b"[]")
    with pytest.raises(IntegrityError) as caught:
        local.check(path, file)
    actual = hashlib.sha256(b"[]").hexdigest()
    assert caught.value.message == f"{path}: expected sha256:{file.sha256}, got sha256:{actual}"


def test_a_folder_is_read_again_by_every_lock(folder: Path) -> None:
    downloads = Downloads(folder / "cache")
    kept = models.pin(ASKED, folder, downloads, None)
    write(folder / "m", {"tokenizer.json": b'{"a": 1}'})
    assert models.pin(ASKED, folder, downloads, kept) != kept


@pytest.mark.skipif(not (STACKS / "models/tiny-llama").is_dir(), reason="no demo model")
def test_the_demo_model(tmp_path: Path) -> None:
    pinned = models.pin(Asked(path="models/tiny-llama"), STACKS, Downloads(tmp_path), None)
    assert pinned.facts.config["architectures"] == ("LlamaForCausalLM",)
    assert by_path(pinned)["model.safetensors"].layer
    assert set(pinned.facts.tensor_bytes) == {"BF16"}


def test_facts_survive_the_lock(folder: Path) -> None:
    config = pin(folder).facts.config
    assert tomllib.loads(tomlkit.dumps(config))["architectures"] == ["LlamaForCausalLM"]
