"""The forecast: what is counted, what is found, how it reads."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from builder import lock as locks
from builder import plan
from builder.assemble import Assembler
from builder.cli import colour
from builder.cli import plan as screens
from builder.cli.app import app
from builder.errors import UsageError
from builder.lock import Lock, ModelFile
from builder.oci.profiles import Profile
from builder.oci.store import Store
from builder.pipeline import planning
from builder.pipeline.locking import Locked
from builder.plan import Contents, Forecast, Situation
from builder.recipe import recipe
from tests.lock_maker import digest, lock, model, model_file, stack_values, wheel

GB, MB = 10**9, 10**6
GBIT = 10**9
LIMITS = Profile(
    name="Small",
    layer_bytes=5 * GB,
    upload_seconds=600,
    chunks=False,
    manifest_bytes=4000,
    source="its documents",
    verified=True,
)
SITUATION = Situation(
    download_bytes=0, download_files=0, weight_download_bytes=0, bandwidths=(GBIT, 10 * GBIT)
)


def weights(size: int, title: str = "w", digest: str | None = "sha256:1") -> Contents:
    return Contents(
        title=title, kind="weights", files=1, input_bytes=size, size=size, digest=digest
    )


def wheels(input_bytes: int, title: str = "torch", size: int | None = None) -> Contents:
    return Contents(title=title, kind="wheels", files=1, input_bytes=input_bytes, size=size)


def forecast(*contents: Contents, **situation: Any) -> Forecast:
    return plan.forecast(lock(), {}, contents, replace(SITUATION, **situation))


def found(made: Forecast) -> list[tuple[str, str]]:
    return [(finding.rule, finding.severity) for finding in made.findings]


def shown(made: Forecast) -> list[str]:
    return ["head", *(text for text, _ in screens.of_image(made))]


# --- sizes ---------------------------------------------------------------------------------------


def test_known_layers_are_exact_and_others_estimates() -> None:
    made = forecast(wheels(100 * MB), wheels(100 * MB, size=80 * MB), weights(5 * GB))
    assert [(layer.size, layer.is_exact) for layer in made.layers] == [
        (90 * MB, False),
        (80 * MB, True),
        (5 * GB, True),
    ]
    assert (made.size, made.is_exact) == (5 * GB + 170 * MB, False)


def test_what_releases_send() -> None:
    made = forecast(wheels(0, size=2 * GB), weights(5 * GB))
    first, new_weights, new_engine, settings = made.transfers
    small = settings.size
    assert small < 2000
    assert (first.size, new_weights.size, new_engine.size) == (
        7 * GB + small,
        5 * GB + small,
        2 * GB + small,
    )
    assert first.seconds == pytest.approx((56, 5.6), rel=1e-3)
    assert all(transfer.is_exact for transfer in made.transfers)


def test_what_outputs_take() -> None:
    layers = wheels(200 * MB, size=100 * MB), weights(5 * GB)
    made = forecast(*layers, download_bytes=6 * GB, weight_download_bytes=5 * GB)
    assert {disk.what: disk.size for disk in made.disks} == {
        "the cache": 6 * GB,
        "with oci:DIR": 11 * GB + 100 * MB,
        "with oci-archive:FILE": 11 * GB + 100 * MB,
        "with docker": 16 * GB + 800 * MB,
        "with --push": 6 * GB,
        "with --push --stream": 1 * GB,
        "a node that runs it": 10 * GB + 800 * MB,
    }
    remarks = {disk.what: disk.remark for disk in made.disks}
    assert remarks["with oci:DIR"] == "6.1 GB where blocks are shared (XFS)"
    assert remarks["with --push"] == "1.0 GB if the registry has the weights"
    assert remarks["the cache"] == "downloads 6.0 GB"


def test_layers_to_be_written_grow_the_cache() -> None:
    cache = forecast(wheels(100 * MB)).disks[0]
    assert (cache.size, cache.is_exact, cache.remark) == (90 * MB, False, "layers ~90.0 MB")
    assert forecast(weights(GB)).disks[0].remark == "all is there"


def test_the_manifest_is_as_long_as_the_real_one(tmp_path: Path) -> None:
    from builder.oci.image import make_image
    from builder.oci.weights import WeightFile, weight_layer

    file = model_file("model.safetensors", 5000)
    layer = weight_layer(
        [WeightFile(tmp_path, file.sha256, file.size)], locks_digest(file), "weights"
    )
    image = make_image("demo", "linux/amd64", (layer,), {}, "2026-01-01T00:00:00Z")
    assert forecast(weights(layer.size)).manifest_bytes == len(image.manifest)


def locks_digest(file: ModelFile) -> Any:
    return f"sha256:{file.sha256}"


# --- findings ------------------------------------------------------------------------------------


def test_nothing_to_say_of_an_image_that_fits() -> None:
    assert found(forecast(weights(5 * GB), limits=LIMITS, bandwidths=(GBIT,))) == []


def test_every_layer_beyond_the_limit_is_found() -> None:
    made = forecast(weights(6 * GB, "a"), weights(5 * GB, "b"), weights(7 * GB, "c"), limits=LIMITS)
    assert found(made) == [("registry-layer-size", "error")] * 2
    assert [finding.text for finding in made.findings] == [
        "a: 6.0 GB, Small takes 5.0 GB a layer",
        "c: 7.0 GB, Small takes 5.0 GB a layer",
    ]
    assert made.findings[0].hint == (
        'save the model with save_pretrained(…, max_shard_size="4GB"), or push to another registry'
    )


def test_shards_that_would_be_too_many_are_not_proposed() -> None:
    made = forecast(weights(400 * GB), limits=replace(LIMITS, upload_seconds=None))
    assert made.findings[0].hint == (
        "push to another registry: so much does not fit into 82 layers of this one"
    )


def test_a_wheel_beyond_the_limit_goes_elsewhere() -> None:
    made = forecast(wheels(6 * GB), limits=LIMITS)
    assert [(finding.text, finding.hint) for finding in made.findings] == [
        ("torch: ~5.4 GB, Small takes 5.0 GB a layer", "push to another registry")
    ]


def test_uploads_that_end_too_late_are_found_at_the_slowest_rate() -> None:
    layers = [weights(5 * GB, str(number)) for number in range(12)]
    assert found(forecast(*layers, limits=LIMITS)) == []
    slow = forecast(*layers, limits=LIMITS, bandwidths=(GBIT // 2, GBIT))
    assert found(slow) == [("registry-upload-time", "warning")]
    assert slow.findings[0].text == (
        "Small ends an upload after 10 min 0 s: the largest layers, sent side by side, take "
        "10 min 40 s at 500 Mbit/s"
    )


def test_a_manifest_beyond_the_limit_is_found() -> None:
    layers = [weights(MB, str(number)) for number in range(60)]
    assert found(forecast(*layers, limits=LIMITS)) == [("registry-manifest-size", "error")]


def test_more_layers_than_engines_take_are_found() -> None:
    layers = [weights(MB, str(number)) for number in range(121)]
    assert found(forecast(*layers)) == [("image-layers", "error")]


@pytest.mark.parametrize(
    ("free", "severities"), [(6 * GB, []), (6 * GB - 1, ["warning"]), (GB - 1, ["error"])]
)
def test_a_full_disk_is_found(free: int, severities: list[str]) -> None:
    made = forecast(
        weights(5 * GB), download_bytes=6 * GB, weight_download_bytes=5 * GB, free_bytes=free
    )
    assert [finding.severity for finding in made.findings] == severities
    assert all(finding.rule == "disk-cache" for finding in made.findings)
    assert ["--stream" in finding.hint for finding in made.findings] == [
        severity == "warning" for severity in severities
    ]


def test_weights_that_nobody_hashed_are_found() -> None:
    made = forecast(weights(5 * GB, digest=None), weights(GB))
    assert found(made) == [("weights-no-digest", "note")]


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10Gbit/s", 10**10),
        ("10 Gbit/s", 10**10),
        ("10Gbps", 10**10),
        ("1.5Gb/s", 1_500_000_000),
        ("1.25GB/s", 10**10),
        ("125 MB/s", 10**9),
        ("100Mbit", 10**8),
        ("1GiB/s", 8 * 2**30),
        ("512kbit/s", 512_000),
        ("9600 bit/s", 9600),
    ],
)
def test_rates(text: str, bits: int) -> None:
    assert plan.rate(text) == bits


@pytest.mark.parametrize(
    "text", ["", "10", "fast", "10 G", "0Gbit/s", "-1Gbit/s", "1Gbit/h", "1e9"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError, match=r"--bandwidth: expected a rate such as `10Gbit/s`"):
        plan.rate(text)


@pytest.mark.parametrize(
    ("bits", "text"),
    [(10**9, "1 Gbit/s"), (2_500_000_000, "2.5 Gbit/s"), (10**8, "100 Mbit/s"), (5, "5 bit/s")],
)
def test_rates_as_people_read_them(bits: int, text: str) -> None:
    assert plan.human_rate(bits) == text


# --- the screen ----------------------------------------------------------------------------------


def test_one_screen_for_many_layers() -> None:
    layers = [wheels(GB, f"wheel {number}") for number in range(20)]
    layers += [weights(12 * GB, f"model-{number:05}-of-00163.safetensors") for number in range(80)]
    lines = shown(forecast(*layers, limits=LIMITS, repository="r.test/a", download_bytes=GB))
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    assert lines[3] == "  1-20     20 big wheels, up to ~900.0 MB            ~18.0 GB  engine"
    assert (
        "  21-100   80 weight layers, up to 12.0 GB           960.0 GB  its file; shared" in lines
    )
    assert any("and 77 more layers" in line for line in lines)


def test_runs_of_shards_are_one_line_however_long() -> None:
    layers = [replace(weights(GB), files=1 + number % 2) for number in range(80)]
    lines = shown(forecast(*layers))
    assert (
        lines[3]
        == "  1-80     80 weight layers, up to 1.0 GB             80.0 GB  its file; shared"
    )
    assert lines[4] == ""


def test_long_titles_are_cut() -> None:
    lines = shown(forecast(weights(GB, "x" * 100)))
    assert lines[3] == f"  1        {'x' * 37}…      1.0 GB  its file; shared"


def test_a_registry_nobody_named_is_asked_for() -> None:
    assert "  no registry is named: give --push REF, or image.repository in the stack" in shown(
        forecast(weights(GB))
    )


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (LIMITS, "Small takes layers of up to 5.0 GB in 10 min 0 s"),
        (
            replace(LIMITS, verified=False, upload_seconds=None),
            "Small takes layers of perhaps up to 5.0 GB",
        ),
        (replace(LIMITS, layer_bytes=None), "no limit of a layer's size is known"),
    ],
)
def test_limits_are_told(limits: Profile, text: str) -> None:
    lines = shown(forecast(weights(GB), limits=limits, repository="r.test/a"))
    assert any(line.startswith(f"  {text};") for line in lines)


# --- a lock and this machine ---------------------------------------------------------------------


def shards(count: int, size: int, layer: str | None = None) -> list[ModelFile]:
    files = [model_file(f"model-{n:05}-of-{count:05}.safetensors", size) for n in range(count)]
    return [file.model_copy(update={"layer": layer}) for file in files]


def locked(made: Lock, folder: Path) -> Locked:
    path = folder / "demo.yaml"
    return Locked(path, locks.path_for(path, made.name), made)


def hub_lock(*files: ModelFile, **image: str) -> Lock:
    values = stack_values(model={"repo": "acme/m", "revision": "main"}, image=image)
    made = model(model_file("config.json", 1000), *files, repo="acme/m", commit="a" * 40)
    return lock(values, models=(made,))


def test_a_lock_on_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hub_lock(*shards(163, 6 * GB), repository="ghcr.io/acme/m")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100 * GB))
    result = planning.plan_lock(locked(made, tmp_path), tmp_path / "none", planning.PlanOptions())
    assert [layer.kind for layer in result.layers[:4]] == ["base", "wheels", "wheels", "launcher"]
    assert len(result.layers) == 87
    assert sum(layer.files for layer in result.layers if layer.kind == "weights") == 163
    situation = result.situation
    assert situation.weight_download_bytes == 163 * 6 * GB
    assert situation.download_files == 163 + 1 + len(made.wheels) + len(made.base.packages)
    assert situation.repository == "ghcr.io/acme/m"
    assert set(found(result)) == {
        ("registry-layer-size", "error"),
        ("registry-upload-time", "warning"),
        ("disk-cache", "warning"),
        ("weights-no-digest", "note"),
    }


def test_push_wins_over_the_stack(tmp_path: Path) -> None:
    made = hub_lock(repository="ghcr.io/acme/m")
    options = planning.PlanOptions(push="r.test:5000/b/c:v1")
    situation = planning.plan_lock(locked(made, tmp_path), tmp_path, options).situation
    assert situation.repository == "r.test:5000/b/c"


def test_a_stack_without_a_repository_has_no_registry(tmp_path: Path) -> None:
    options = planning.PlanOptions()
    situation = planning.plan_lock(locked(hub_lock(), tmp_path), tmp_path, options).situation
    assert (situation.repository, situation.limits) == (None, None)


def test_weight_layers_are_exact_and_known_by_the_lock(tmp_path: Path) -> None:
    layer = f"sha256:{digest('layer')}"
    made = hub_lock(*shards(1, 4 * GB, layer))
    result = planning.plan_lock(locked(made, tmp_path), tmp_path, planning.PlanOptions())
    weight = next(each for each in result.layers if each.kind == "weights")
    assert (weight.size, weight.is_exact, weight.digest) == (4 * GB + 4096 + 1024, True, layer)


def test_a_layer_of_the_store_is_exact_and_needs_no_download(tmp_path: Path) -> None:
    made = hub_lock(*shards(1, GB))
    before = planning.plan_lock(locked(made, tmp_path), tmp_path, planning.PlanOptions())
    store, asked = Store(tmp_path), recipe(made)
    names = asked.parts[-1]
    key = Assembler(asked, store, "zstd").key(names)
    layer = store.build_layer("names", "zstd", lambda tar: tar.directory("models"))
    store.remember(key, layer)
    after = planning.plan_lock(locked(made, tmp_path), tmp_path, planning.PlanOptions())
    assert (after.layers[-1].size, after.layers[-1].is_exact) == (layer.size, True)
    assert before.situation.download_files - after.situation.download_files == 1


def test_planning_changes_nothing(tmp_path: Path) -> None:
    planning.plan_lock(locked(hub_lock(), tmp_path), tmp_path / "cache", planning.PlanOptions())
    assert list(tmp_path.iterdir()) == []


# --- the command ---------------------------------------------------------------------------------

STACK = str(Path(__file__).parents[1] / "stacks" / "tiny-llama-cpu.yaml")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))


def test_the_command_prints_plain_text_to_a_pipe() -> None:
    done = CliRunner().invoke(app, ["plan", STACK])
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny-llama-cpu: 9 layers, ~")
    assert "\x1b" not in done.stdout
    assert "1 Gbit/s       10 Gbit/s" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_command_answers_in_json() -> None:
    arguments = ["plan", STACK, "--json", "--push", "ghcr.io/a/b", "--bandwidth", "1.25GB/s"]
    values = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert values["name"] == "tiny-llama-cpu"
    assert values["size"] == sum(layer["size"] for layer in values["layers"])
    assert values["situation"]["bandwidths"] == [10**10]
    assert values["situation"]["limits"]["layer_bytes"] == 10 * GB
    assert [len(transfer["seconds"]) for transfer in values["transfers"]] == [1, 1, 1, 1]
    assert set(values) >= {"disks", "findings", "manifest_bytes", "is_exact"}


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_alone(
    environment: dict[str, str],
    is_terminal: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colour.has_colour(is_terminal=is_terminal) is expected


def test_colours_surround_lines() -> None:
    assert colour.coloured(("text", "error")) == "\x1b[1;31mtext\x1b[0m"
    assert colour.coloured(("text", "")) == "text"


def test_many_wheels_of_a_lock_are_apart_from_the_rest(tmp_path: Path) -> None:
    big = [wheel(f"w{number:02}", size=50 * MB) for number in range(9)]
    made = lock(wheels=(*big, wheel("small"), wheel("tiny")))
    result = planning.plan_lock(locked(made, tmp_path), tmp_path, planning.PlanOptions())
    lines = shown(result)
    assert lines[4] == "  2-10     9 big wheels, up to ~45.0 MB             ~405.0 MB  engine"
    assert lines[5] == "  11       2 wheels                                   ~1.8 kB  engine"


# --- the overview --------------------------------------------------------------------------------

HUB = """\
name: {name}
target: {{platform: linux/amd64, gpu: {gpu}, driver: ">=580"}}
engine: {{name: vllm, version: "0.25.1", cuda: "13.0"}}
base: {{debian: bookworm}}
model: {{repo: Qwen/Qwen3-8B, revision: main}}
serve: {{max_model_len: 16384, max_num_seqs: 32, gpu_memory_utilization: 0.92}}
"""


def planned(folder: Path, gpu: str, *words: str) -> Result:
    path = folder / "hub.yaml"
    path.write_text(HUB.format(name="hub", gpu=gpu))
    return CliRunner().invoke(app, ["plan", str(path), *words])


def test_a_stack_without_a_lock_has_pins_and_memory(tmp_path: Path) -> None:
    done = planned(tmp_path, "l4-24gb")
    assert done.exit_code == 0
    head = "hub: no lock yet, so no layers are known; weights of 16.4 GB\n"
    assert done.stdout.startswith(head)
    assert "torch 2.11.0         the one version that vLLM 0.25.1 asks for" in done.stdout
    assert "driver >= 580.65.06  vLLM 0.25.1 is compiled with CUDA 13.0" in done.stdout
    assert re.search(r"  l4-24gb: [\d.]+ of 20\.\d GiB taken, cache for [\d,]+ tokens", done.stdout)
    assert re.search(r"^  \[W+A?o?g?:+\.+\]$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_several_cells_have_a_line_each_and_no_bar(tmp_path: Path) -> None:
    text = planned(tmp_path, "[l4-24gb, rtx-4090-24gb]").stdout
    assert len(re.findall(r"^  (?:l4-24gb|rtx-4090-24gb): ", text, re.MULTILINE)) == 2
    assert "[W" not in text


def test_the_overview_in_json_holds_memory_pins_and_findings(tmp_path: Path) -> None:
    values = json.loads(planned(tmp_path, "rtx-3060-12gb", "--json").stdout)
    (cell,) = values["cells"]
    assert values["locked"] is False
    assert "layers" not in values
    assert cell["verdict"] == "refused"
    assert cell["memory"]["fits"] is False
    assert {"what": "torch 2.11.0", "why": "the one version that vLLM 0.25.1 asks for"} in values[
        "pins"
    ]
    assert "memory-fit" in {finding["rule"] for finding in values["findings"]}


def test_a_refused_cell_is_shown_with_the_nearest_that_works(tmp_path: Path) -> None:
    text = planned(tmp_path, "rtx-3060-12gb").stdout
    assert "(memory-fit)" in text
    assert "nearest that works: " in text


def test_pins_of_a_lock_say_why_they_are_what_they_are() -> None:
    done = CliRunner().invoke(app, ["plan", STACK])
    lines = done.stdout.splitlines()
    assert "  Python 3.11.2                    that of Debian bookworm" in lines
    assert any(line.startswith("  147 wheels ") for line in lines)
    assert any("this builder's own" in line for line in lines)


def test_one_cell_of_several_is_planned_alone(tmp_path: Path) -> None:
    text = planned(tmp_path, "[l4-24gb, rtx-4090-24gb]", "--gpu", "rtx-4090-24gb").stdout
    assert "  rtx-4090-24gb: " in text
    assert "l4-24gb" not in text
    assert "[W" in text


def test_a_gpu_that_the_stack_is_not_for_is_refused(tmp_path: Path) -> None:
    done = planned(tmp_path, "[l4-24gb, rtx-4090-24gb]", "--gpu", "rtx-4080-16gb")
    assert isinstance(done.exception, UsageError)
