"""The model hub: the real client against a hub on this machine."""

import datetime
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.digest import of_bytes
from builder.errors import IntegrityError, ResolveError, StackError
from builder.lock import PACKER_VERSION, Model
from builder.oci.memo import WeightMemo
from builder.oci.weights import WeightFile, weigh
from builder.sources import hub, hub_api, models, web
from builder.sources.downloads import Downloads
from builder.stack.model import Files
from builder.stack.model import Model as Asked
from tests.hub_server import REPO, Hub, serving
from tests.model_maker import model, safetensors, tensor

ASKED = Asked(repo=REPO)
TOKEN = "hf_secretsecretsecret"
BUSY = {"retry-after": "0"}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as running:
        yield running


@pytest.fixture
def remote(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fresh = Hub(endpoint=server.endpoint, cdn=server.cdn)
    vars(server).update(vars(fresh))
    server.large = {"model.safetensors"}
    server.commit(model())
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return server


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "cache")


def fault(downloads: Downloads, asked: Asked = ASKED) -> ResolveError:
    with pytest.raises(ResolveError) as caught:
        hub.pin(asked, downloads)
    assert TOKEN not in str(caught.value) + caught.value.hint
    return caught.value


def test_a_branch_becomes_a_commit_and_every_file_a_digest(
    remote: Hub, downloads: Downloads
) -> None:
    pinned = hub.pin(ASKED, downloads)
    assert (pinned.role, pinned.repo, pinned.commit) == ("main", REPO, remote.branches["main"])
    assert pinned.committed == datetime.datetime(2026, 3, 1, 8, tzinfo=datetime.UTC)
    assert {file.path: (file.size, file.sha256) for file in pinned.files} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in model().items()
    }
    assert pinned.facts.tensor_bytes == {"BF16": 16}
    assert pinned.facts.config["hidden_size"] == 8


def test_of_weights_only_the_header_is_read(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_USUAL_HEADER", 16)
    data = model()["model.safetensors"]
    hub.pin(ASKED, downloads)
    spans = [r.span for r in remote.requests if r.path.startswith("/cdn/")]
    assert spans == ["bytes=0-15", f"bytes=0-{len(data) - 16 - 1}"]
    assert not downloads.path(hashlib.sha256(data).hexdigest()).exists()


def test_a_hub_without_ranges_works_too(remote: Hub, downloads: Downloads) -> None:
    expected = hub.pin(ASKED, downloads)
    remote.ranges = False
    assert hub.pin(ASKED, downloads) == expected


def test_without_history_the_last_change_is_the_date(remote: Hub, downloads: Downloads) -> None:
    remote.history = False
    pinned = hub.pin(ASKED, downloads)
    assert pinned.committed == datetime.datetime(2026, 3, 2, 10, 11, 12, tzinfo=datetime.UTC)


def test_fetch_brings_every_file(remote: Hub, downloads: Downloads) -> None:
    paths = models.fetch(hub.pin(ASKED, downloads), None, Path(), downloads)
    assert {path: file.read_bytes() for path, file in paths.items()} == model()


def test_the_layer_of_weights_is_known_once_they_are_here(
    remote: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    pinned = hub.pin(ASKED, downloads)
    (weights,) = [file for file in pinned.files if file.path == "model.safetensors"]
    content = [(weights.sha256, weights.size)]
    memo = WeightMemo(tmp_path / "cache", PACKER_VERSION)
    assert memo.recall(content) is None
    path = hub.fetch(pinned, downloads)[weights.path]
    expected = weigh([WeightFile(path, weights.sha256, weights.size)], lambda _: None)
    assert memo.recall(content) == expected
    again = models.pin(ASKED, Path(), downloads, pinned)
    assert [file.layer for file in again.files if file.layer] == [expected]
    (record,) = (tmp_path / "cache" / "weights").iterdir()
    assert record.suffix == ".json"


def test_a_layer_that_the_lock_names_is_not_computed_again(
    remote: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    hub.fetch(with_layer(hub.pin(ASKED, downloads)), downloads)
    assert not (tmp_path / "cache" / "weights").exists()


def test_files_that_share_a_layer_are_left_to_the_build(
    remote: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    two = {f"{n}.safetensors": safetensors({n: tensor(0, 16)}, 16) for n in "ab"}
    remote.commit(two | {"config.json": model()["config.json"]})
    hub.fetch(hub.pin(ASKED, downloads), downloads)
    assert not (tmp_path / "cache" / "weights").exists()


# --- what is kept -------------------------------------------------------------------------------


def test_a_moved_branch_moves_no_lock(remote: Hub, downloads: Downloads) -> None:
    kept = hub.pin(ASKED, downloads)
    remote.commit(model(model_type="other"))
    remote.requests.clear()
    assert models.pin(ASKED, Path(), downloads, kept) == kept
    assert models.pin(Asked(repo=REPO, revision="main"), Path(), downloads, kept) == kept
    assert not remote.requests
    assert models.pin(ASKED, Path(), downloads, None).commit == remote.branches["main"]


def with_layer(pinned: Model) -> Model:
    """A lock that knows the layer of the weights."""
    layers = {"model.safetensors": of_bytes(b"layer")}
    files = [file.model_copy(update={"layer": layers.get(file.path)}) for file in pinned.files]
    return pinned.model_copy(update={"files": tuple(files)})


def test_another_choice_of_files_keeps_the_commit_and_layers(
    remote: Hub, downloads: Downloads
) -> None:
    kept = hub.pin(ASKED, downloads)
    kept = with_layer(kept)
    remote.commit(model(model_type="other"))
    fewer = Asked(repo=REPO, files=Files(exclude=("tokenizer.json",)))
    pinned = models.pin(fewer, Path(), downloads, kept, ASKED)
    assert pinned.commit == kept.commit
    assert pinned.files == tuple(file for file in kept.files if file.path != "tokenizer.json")


def test_another_revision_is_asked_for(remote: Hub, downloads: Downloads) -> None:
    kept = hub.pin(ASKED, downloads)
    moved = remote.commit(model(model_type="other"), "v2")
    tag = Asked(repo=REPO, revision="v2")
    assert models.pin(tag, Path(), downloads, kept, ASKED).commit == moved
    commit = Asked(repo=REPO, revision=moved)
    assert models.pin(commit, Path(), downloads, kept, commit).commit == moved


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_repository_that_does_not_exist(remote: Hub, downloads: Downloads) -> None:
    found = fault(downloads, Asked(repo="acme/none"))
    assert found.message == "acme/none: does not exist, or is private"
    assert "HF_TOKEN" in found.hint


def test_a_private_repository_opens_with_a_token(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.private = True
    assert "is private" in fault(downloads).message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.pin(ASKED, downloads).commit


def test_a_gated_repository_says_where_to_accept(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.gated = TOKEN
    found = fault(downloads)
    assert found.message == "acme/tiny: is gated: its licence must be accepted first"
    assert f"{remote.endpoint}/acme/tiny" in found.hint
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pinned = hub.pin(ASKED, downloads)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ResolveError, match="is gated"):
        hub.fetch(pinned, downloads)


def test_the_token_goes_to_the_hub_alone(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.gated = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pinned = hub.pin(ASKED, downloads)
    hub.fetch(pinned, downloads)
    cdn = [r.authorization for r in remote.requests if r.path.startswith("/cdn/")]
    hosts = {r.authorization for r in remote.requests if not r.path.startswith("/cdn/")}
    assert len(cdn) == 2
    assert set(cdn) == {None}
    assert hosts == {f"Bearer {TOKEN}"}
    assert TOKEN not in pinned.model_dump_json()


def test_a_revision_that_does_not_exist(remote: Hub, downloads: Downloads) -> None:
    found = fault(downloads, Asked(repo=REPO, revision="feature/x"))
    assert (found.message, found.hint) == (
        "acme/tiny: has no revision `feature/x`",
        "check model.revision",
    )


def test_a_busy_hub_is_waited_for(
    remote: Hub, downloads: Downloads, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.busy = [BUSY, {"ratelimit": '"api";r=0;t=0'}]
    assert hub.pin(ASKED, downloads).commit
    assert capsys.readouterr().err.count("acme/tiny: the hub is busy") == 2


def test_a_hub_that_stays_busy_is_not_waited_for_forever(remote: Hub, downloads: Downloads) -> None:
    remote.busy = [BUSY] * 9
    assert fault(downloads).message == "acme/tiny: the hub answered 429"
    assert len(remote.requests) == 5
    remote.busy = [{"retry-after": "86400"}]
    assert "answered 429" in fault(downloads).message


def test_a_hub_that_cannot_be_reached(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:pass@127.0.0.1:9")
    found = fault(downloads)
    assert "the hub at http://127.0.0.1:9 cannot be reached: ConnectError" in found.message
    assert "HF_ENDPOINT" in found.hint


def test_something_that_is_no_hub(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "siblings", lambda *_: iter([{"rfilename": "config.json"}]))
    assert "gives no size or digest for `config.json`" in fault(downloads).message
    monkeypatch.setattr(Hub, "siblings", lambda *_: iter([{}]))
    assert "cannot be understood" in fault(downloads).message


def test_what_must_not_enter_is_refused_before_anything_is_read(
    remote: Hub, downloads: Downloads
) -> None:
    remote.commit(model() | {"pytorch_model.bin": b"pickle"})
    with pytest.raises(StackError, match="can run code"):
        hub.pin(ASKED, downloads)
    assert all("/resolve/" not in request.path for request in remote.requests)


def test_code_is_named_by_its_digest(remote: Hub, downloads: Downloads) -> None:
    code = b"print()\n"
    remote.commit(model() | {"modeling.py": code})
    with pytest.raises(StackError) as caught:
        hub.pin(ASKED, downloads)
    sha256 = hashlib.sha256(code).hexdigest()
    assert sha256 in caught.value.hint
    assert hub.pin(Asked(repo=REPO, allow_code=(sha256,)), downloads).commit


def test_a_small_file_that_is_not_what_the_commit_holds(remote: Hub, downloads: Downloads) -> None:
    remote.served["tokenizer.json"] = b"[]"
    with pytest.raises(IntegrityError, match=r"acme/tiny/tokenizer\.json: expected git blob"):
        hub.pin(ASKED, downloads)
    remote.served["tokenizer.json"] = b"[] and more"
    with pytest.raises(IntegrityError, match="expected 2 bytes, got more"):
        hub.pin(ASKED, downloads)


def test_a_large_file_without_a_digest_is_not_downloaded_to_learn_it(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_LARGEST_SMALL", 10)
    assert "the hub gives no sha256 for a file of" in fault(downloads).message


def test_wrong_bytes_of_the_right_size(remote: Hub, downloads: Downloads) -> None:
    pinned = hub.pin(ASKED, downloads)
    data = model()["model.safetensors"]
    wrong = remote.served["model.safetensors"] = data[:-1] + b"\x08"
    with pytest.raises(IntegrityError) as caught:
        hub.fetch(pinned, downloads)
    assert "acme/tiny/model.safetensors" in caught.value.message
    assert hashlib.sha256(data).hexdigest() in caught.value.message
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message


def test_a_header_that_was_not_the_files_own_is_noticed(remote: Hub, downloads: Downloads) -> None:
    data = model()["model.safetensors"]
    remote.served["model.safetensors"] = data.replace(b'"BF16"', b'"F16" ')
    pinned = hub.pin(ASKED, downloads)
    del remote.served["model.safetensors"]
    with pytest.raises(IntegrityError, match="expected 0 bytes of BF16 tensors, got 16"):
        models.fetch(pinned, None, Path(), downloads)


def test_a_broken_download_goes_on_where_it_broke(remote: Hub, downloads: Downloads) -> None:
    data = safetensors({"a": tensor(0, 600_000)}, 600_000)
    remote.commit(model() | {"model.safetensors": data})
    pinned = hub.pin(ASKED, downloads)
    remote.cuts["model.safetensors"] = [300_000]
    remote.requests.clear()
    paths = hub.fetch(pinned, downloads)
    assert paths["model.safetensors"].read_bytes() == data
    assert {r.span for r in remote.requests if r.span} == {"bytes=300000-"}


def test_a_token_that_expires_in_the_middle_is_explained_and_nothing_is_lost(
    remote: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = safetensors({"a": tensor(0, 600_000)}, 600_000)
    remote.commit(model() | {"model.safetensors": data})
    remote.gated = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pinned = hub.pin(ASKED, downloads)
    remote.gates["model.safetensors"] = 300_000
    remote.cuts["model.safetensors"] = [300_000]
    interrupt = threading.Thread(target=expire, args=(remote,))
    interrupt.start()
    with pytest.raises(ResolveError) as caught:
        hub.fetch(pinned, downloads)
    interrupt.join()
    assert caught.value.message == "acme/tiny: the hub refused access (401)"
    assert caught.value.hint.splitlines() == [
        "set HF_TOKEN to a valid token that may read it, or unset it",
        "what has arrived is kept: the next run goes on from there",
    ]
    remote.revoked.clear()
    remote.gates.clear()
    remote.requests.clear()
    assert hub.fetch(pinned, downloads)["model.safetensors"].read_bytes() == data
    assert {request.span for request in remote.requests} == {"bytes=300000-"}


def expire(remote: Hub) -> None:
    """Let the token expire while the weights are on their way."""
    assert remote.stalled.wait(10)
    remote.revoked.add(TOKEN)
    remote.opened.set()


def test_a_busy_host_of_files_is_waited_for_and_the_person_is_told(
    remote: Hub,
    downloads: Downloads,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pinned = hub.pin(ASKED, downloads)
    naps: list[float] = []
    monkeypatch.setattr("builder.sources.patience.time.sleep", naps.append)
    remote.busy_files = [{"retry-after": "120"}]
    hub.fetch(pinned, downloads)
    assert naps == [120.0]
    url = f"{remote.endpoint}/acme/tiny/resolve/{pinned.commit}"
    said = [line for line in capsys.readouterr().err.splitlines() if "busy" in line]
    assert said == [f"{url}/model.safetensors: busy, next attempt in 2 min 0 s"]


def test_a_host_of_files_that_asks_for_hours_is_an_error(remote: Hub, downloads: Downloads) -> None:
    pinned = hub.pin(ASKED, downloads)
    remote.busy_files = [{"retry-after": "7200"}] * 9
    with pytest.raises(ResolveError) as caught:
        hub.fetch(pinned, downloads)
    assert caught.value.message.endswith(": answered 429 and asks to wait 2 h 0 min")
    assert caught.value.hint == "run the command again later"


def test_a_file_that_is_gone(remote: Hub, downloads: Downloads) -> None:
    pinned = hub.pin(ASKED, downloads)
    remote.commits[pinned.commit or ""].pop("model.safetensors")
    with pytest.raises(ResolveError, match=r"model\.safetensors: the hub does not have it at"):
        hub.fetch(pinned, downloads)


def test_a_locked_commit_needs_nothing_but_the_cache(remote: Hub, downloads: Downloads) -> None:
    pinned = Model.model_validate_json(hub.pin(ASKED, downloads).model_dump_json(), strict=False)
    hub.fetch(pinned, downloads)
    remote.requests.clear()
    hub.fetch(pinned, downloads)
    assert not remote.requests


def test_odd_names_and_empty_files_are_found(remote: Hub, downloads: Downloads) -> None:
    odd = {"a b#c?.json": json.dumps({"x": 1}).encode(), "ü/é.txt": b"y", "empty": b""}
    remote.commit(model() | odd)
    pinned = hub.pin(ASKED, downloads)
    paths = hub.fetch(pinned, downloads)
    assert {path: paths[path].read_bytes() for path in odd} == odd


def test_signing_in_again_without_a_token_forgets_it(remote: Hub) -> None:
    web.sign_in(remote.endpoint, TOKEN)
    hub_api.url(REPO, "0" * 40, "config.json")
    assert web.read(f"{remote.endpoint}/api/models/{REPO}/revision/main")
    assert remote.requests[-1].authorization is None
