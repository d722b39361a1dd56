"""The engine's environment: caches in one place, offline, and what is set already wins."""

from pathlib import Path

import pytest

from builder.launcher.environment import (
    choose_root,
    environment,
    has_bytecode,
    is_writable,
    prepare,
)


def made(existing: dict[str, str], *, baked: bool = False) -> dict[str, str]:
    return environment(existing, "/cache", "builder", bytecode_is_baked=baked)


def test_everything_that_is_set() -> None:
    assert made({}) == {
        "HOME": "/tmp/home",
        "LANG": "C.UTF-8",
        "USER": "builder",
        "LOGNAME": "builder",
        "XDG_CACHE_HOME": "/cache/xdg",
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
        "TRITON_CACHE_DIR": "/cache/triton",
        "NUMBA_CACHE_DIR": "/cache/numba",
        "FLASHINFER_WORKSPACE_BASE": "/cache/flashinfer",
        "CUDA_CACHE_PATH": "/cache/cuda",
        "HF_HOME": "/cache/huggingface",
        "MPLCONFIGDIR": "/cache/matplotlib",
        "PYTHONPYCACHEPREFIX": "/cache/pycache",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }


def test_bytecode_of_other_software_is_never_used() -> None:
    one, other = ({"BUILDER_SOFTWARE": name} for name in ("0123", "4567"))
    assert made(one)["PYTHONPYCACHEPREFIX"] == "/cache/pycache/0123"
    assert made(other)["PYTHONPYCACHEPREFIX"] == "/cache/pycache/4567"


def test_what_is_set_wins() -> None:
    existing = {"HF_HUB_OFFLINE": "0", "HOME": "/home/me", "PYTHONPYCACHEPREFIX": "", "X": "y"}
    values = made(existing)
    assert {name: values[name] for name in existing} == existing


@pytest.mark.parametrize("home", ["", "/", "/nonexistent"])
def test_home_of_a_user_without_one_is_replaced(home: str) -> None:
    assert made({"HOME": home})["HOME"] == "/tmp/home"


@pytest.mark.parametrize("name", ["USER", "LOGNAME"])
def test_name_of_the_user_is_kept_whole(name: str) -> None:
    values = made({name: "alice"})
    assert (values["USER"], values["LOGNAME"]) == ("alice", "alice")


def test_baked_bytecode_is_not_hidden() -> None:
    assert "PYTHONPYCACHEPREFIX" not in made({}, baked=True)


@pytest.mark.parametrize(
    "folder",
    [
        "opt/venv/lib/python3.11/site-packages/torch/__pycache__",
        "usr/local/lib/python3.12/dist-packages/vllm/__pycache__",
    ],
    ids=["ours", "upstream"],
)
def test_baked_bytecode_is_found(tmp_path: Path, folder: str) -> None:
    assert not has_bytecode(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    assert has_bytecode(tmp_path)


def test_first_writable_root_is_chosen(tmp_path: Path) -> None:
    volume, own = tmp_path / "volume", str(tmp_path / "own")
    assert choose_root([str(volume), own]) == (own, ())
    volume.mkdir()
    assert choose_root([str(volume), own]) == (str(volume), ())


def test_root_that_cannot_be_written_is_passed_over() -> None:
    assert not is_writable("/proc/self")
    assert choose_root(["/proc/self", "/x"]) == ("/x", ("/proc/self",))


def test_folders_are_made(tmp_path: Path) -> None:
    cache, home = tmp_path / "cache", tmp_path / "home"
    prepared = prepare({"BUILDER_CACHE": str(cache), "HOME": str(home), "PATH": "/bin"})
    assert prepared.cache_root == str(cache)
    assert prepared.values["PATH"] == "/bin"
    assert prepared.values["HOME"] == "/tmp/home"  # the one given is not there
    made = {"xdg", "vllm", "inductor", "triton", "numba", "flashinfer", "cuda", "huggingface"}
    assert made <= {folder.name for folder in cache.iterdir()}


def test_folders_that_cannot_be_made_are_left_to_the_preflight() -> None:
    assert prepare({"BUILDER_CACHE": "/proc/nowhere"}).cache_root == "/proc/nowhere"
