"""What the image promises before anything is started."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from builder import lock as locks
from smoke import containers, scan

if TYPE_CHECKING:
    from smoke.image import Image

PYTHON, LAUNCHER = ["/usr/bin/python3", "-I", "-S"], "/opt/builder"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
SILENT = ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
LABELS = ("builder.stack", "builder.engine", "builder.model", "builder.lock")
WRITABLE = ("/cache/", "/tmp/")
CACHES = re.compile(r"_(?:CACHE|CACHE_DIR|CACHE_HOME|CACHE_ROOT|CACHE_PATH)$")
SCAN = scan.__file__


@pytest.fixture(scope="module")
def found(image: Image) -> dict[str, list[str]]:
    """What a walk through all files found; also shows that `-- COMMAND` bypasses the engine."""
    with open(SCAN, encoding="utf-8") as file:  # noqa: PTH123 - one line
        argv = [*containers.PYTHON, "-c", file.read()]
    findings: dict[str, list[str]] = json.loads(containers.printed_by(image, argv, "0:0"))
    return findings


def test_entry_point_is_the_launcher(image: Image) -> None:
    entry_point = image.config["Entrypoint"]
    assert (entry_point[:3], entry_point[-1]) == (PYTHON, LAUNCHER)
    assert not image.config.get("Cmd")


def test_user_is_not_root(image: Image) -> None:
    assert image.config["User"] == "10001:0"


def test_serve_is_one_json_value(image: Image) -> None:
    assert image.serve["version"] == 1
    assert image.serve["argv"]


def test_environment_is_offline_and_silent(image: Image) -> None:
    unset = [name for name in (*OFFLINE, *SILENT) if image.environment.get(name) != "1"]
    assert not unset, f"expected to be 1: {', '.join(unset)}"


def test_home_and_language_are_set(image: Image) -> None:
    chosen = {name: image.environment.get(name) for name in ("HOME", "LANG")}
    assert chosen == {"HOME": "/tmp/home", "LANG": "C.UTF-8"}


def test_caches_lie_where_can_be_written(image: Image) -> None:
    places = {name: text for name, text in image.environment.items() if CACHES.search(name)}
    wrong = {name: text for name, text in places.items() if not text.startswith(WRITABLE)}
    assert not wrong, f"cannot be written: {wrong}"


def test_gpu_is_asked_for(image: Image) -> None:
    """A CPU image asks for none; a GPU image also names the CUDA that a driver must know."""
    asks = image.environment.get("NVIDIA_VISIBLE_DEVICES")
    if not image.serve["require"]["gpus"]:
        assert asks is None
        return
    assert asks == "all"
    assert image.environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert image.environment["NVIDIA_REQUIRE_CUDA"].startswith("cuda>=")
    assert image.config["Labels"]["builder.driver-floor"]


def test_ports_are_exposed(image: Image) -> None:
    ports = {f"{image.serve[name]}/tcp" for name in ("port", "probe_port")}
    assert set(image.config["ExposedPorts"]) == ports


def test_health_check_asks_the_launcher(image: Image) -> None:
    check = image.config["Healthcheck"]
    assert check["Test"] == ["CMD", *image.config["Entrypoint"], "healthcheck"]
    assert check["StartPeriod"] >= image.serve["start_budget"] * 10**9


def test_stops_by_sigterm(image: Image) -> None:
    assert image.config.get("StopSignal", "SIGTERM") == "SIGTERM"


def test_labels_say_what_is_inside(image: Image) -> None:
    labels = image.config["Labels"]
    missing = [name for name in LABELS if not labels.get(name)]
    assert not missing, f"no label {', '.join(missing)}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", labels["builder.lock"])


def test_label_names_the_lock(image: Image) -> None:
    label = image.config["Labels"]["builder.lock"]
    if image.lock is None:
        assert label.startswith("sha256:")
        return
    digest = hashlib.sha256(locks.dumps(image.lock).encode()).hexdigest()
    assert label == f"sha256:{digest}", "the image was made from another lock"


def test_config_and_history_hold_no_secret(image: Image) -> None:
    text = json.dumps([image.config, image.history]).encode()
    assert scan.SECRET.search(text) is None, "something in it looks like a secret"


def test_environment_names_no_secret(image: Image) -> None:
    named = re.compile(r"(?:TOKEN|PASSWORD|SECRET|API_KEY|INDEX_URL|CREDENTIAL)S?$")
    assert not [name for name in image.environment if named.search(name)]


def test_files_hold_no_secret(found: dict[str, list[str]]) -> None:
    assert found["secret"] == [], f"looks like a secret: {_first(found['secret'])}"


def test_no_file_is_made_for_credentials(found: dict[str, list[str]]) -> None:
    assert found["place"] == [], f"made for credentials: {_first(found['place'])}"


def test_no_file_changes_its_user(found: dict[str, list[str]]) -> None:
    assert found["setuid"] == [], f"setuid or setgid: {_first(found['setuid'])}"


def test_files_belong_to_root(found: dict[str, list[str]]) -> None:
    assert found["foreign"] == [], f"not owned by 0:0: {_first(found['foreign'])}"


def _first(paths: list[Any]) -> str:
    return ", ".join(paths[:5])
