"""A lock and the GPU code in its wheels: compared, completed, remembered."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import lock as locks
from builder import pipeline
from builder.errors import IntegrityError
from builder.lock import Code, Lock
from builder.pipeline.building import BuildOptions
from builder.sources import code_check
from builder.sources.cubins import CodeMemo
from tests import fatbin_maker as maker
from tests import lock_maker, wheel_maker
from tests.lock_maker import code
from tests.small_stack import SmallStack

NEW = "acme_kernels-1.0-py3-none-any.whl"
VLLM = "vllm-0.32.0-py3-none-any.whl"
OBJECT = "vllm/_C_stable_libtorch.abi3.so"


def library(*names: str) -> bytes:
    return maker.library(maker.container(*map(maker.entry, names)))


@pytest.fixture
def memo(tmp_path: Path) -> CodeMemo:
    return CodeMemo(tmp_path / "cache")


Wheels = tuple[Lock, dict[str, Path]]


def wheels(folder: Path, rows: dict[str, Code] | None = None) -> Wheels:
    """A lock of an engine, of a wheel that nobody knows, and of one without code."""
    made: dict[str, dict[str, wheel_maker.Content]] = {
        VLLM: {OBJECT: library("80", "90a"), "vllm/optional.so": library("100f")},
        NEW: {"acme/a.so": library("80"), "acme/b.so": library("90")},
        "plain-1.0-py3-none-any.whl": {"plain.py": "x = 1"},
    }
    pins = [wheel_maker.write(folder, file, members) for file, members in made.items()]
    engine = lock_maker.lock().engine.model_copy(update={"name": "vllm"})
    dated = [pin.model_copy(update={"uploaded": lock_maker.MAY}) for pin in pins]
    lock = lock_maker.lock(wheels=tuple(dated), engine=engine, code=rows or {})
    return lock, {pin.sha256: folder / pin.file for pin in pins}


def test_what_a_lock_does_not_say_is_added(tmp_path: Path, memo: CodeMemo) -> None:
    lock, places = wheels(tmp_path)
    found = code_check.examine(lock, places, memo)
    assert found.code == {"acme-kernels": code("80 90"), "vllm": code("80 90a")}
    assert found.model_copy(update={"code": {}}) == lock


def test_what_a_lock_says_rightly_stays(tmp_path: Path, memo: CodeMemo) -> None:
    rows = {"acme-kernels": code("80 90"), "vllm": code("80 90a", origin="catalogue")}
    lock, places = wheels(tmp_path, rows)
    assert code_check.examine(lock, places, memo) == lock


def refused(lock: Lock, places: dict[str, Path], memo: CodeMemo) -> tuple[str, str]:
    with pytest.raises(IntegrityError) as caught:
        code_check.examine(lock, places, memo)
    return caught.value.message, caught.value.hint


def test_every_wheel_with_other_code_is_named(tmp_path: Path, memo: CodeMemo) -> None:
    rows = {
        "acme-kernels": code("80", "90"),
        "plain": code("75"),
        "vllm": code("80 90a 100f", origin="catalogue"),
    }
    message, hint = refused(*wheels(tmp_path, rows), memo)
    assert message.splitlines() == [
        f"{NEW}: GPU code: expected 80, PTX 90 as the lock says, got 80 90",
        "plain-1.0-py3-none-any.whl: GPU code: expected 75 as the lock says, got none",
        f"{VLLM}: GPU code: expected 80 90a 100f as the lock says, got 80 90a",
    ]
    assert hint == "run builder lock -P acme-kernels with the stack, then builder fetch"


def test_a_wrong_catalogue_is_named(tmp_path: Path, memo: CodeMemo) -> None:
    message, hint = refused(*wheels(tmp_path, {"vllm": code("80", origin="catalogue")}), memo)
    assert message == f"{VLLM}: GPU code: expected 80 as the lock says, got 80 90a"
    assert hint.startswith("the catalogue that the lock was made from is wrong")


def test_a_wheel_is_read_once(tmp_path: Path, memo: CodeMemo) -> None:
    lock, places = wheels(tmp_path)
    assert code_check.unknown(lock, memo) == places.keys()
    found = code_check.examine(lock, places, memo)
    for path in places.values():
        path.unlink()
    assert code_check.examine(lock, places, memo) == found
    assert code_check.unknown(lock, memo) == frozenset()
    # What was read counts although the wheel is not here.
    wrong = lock.model_copy(update={"code": {"vllm": code("75")}})
    with pytest.raises(IntegrityError, match="expected 75"):
        code_check.examine(wrong, {}, memo)


def test_a_wheel_that_is_not_here_is_left_out(tmp_path: Path, memo: CodeMemo) -> None:
    lock, places = wheels(tmp_path, {"vllm": code("75")})
    here = {sha256: path for sha256, path in places.items() if path.name != VLLM}
    found = code_check.examine(lock, here, memo)
    assert found.code == {"acme-kernels": code("80 90"), "vllm": code("75")}
    assert code_check.unknown(lock, CodeMemo(tmp_path / "other")) == here.keys()


def test_a_damaged_wheel_is_named_and_not_remembered(tmp_path: Path, memo: CodeMemo) -> None:
    lock, places = wheels(tmp_path)
    path = tmp_path / NEW
    path.write_bytes(path.read_bytes()[:-30])
    message, hint = refused(lock, places, memo)
    assert message == f"{NEW}: cannot be read: File is not a zip file"
    assert hint == f"remove {path}, then run builder fetch"
    (damaged,) = (sha256 for sha256, place in places.items() if place == path)
    assert memo.recall(damaged) is None


def test_an_engine_for_the_cpu_has_no_code() -> None:
    assert not code_check.concerns(lock_maker.lock())
    engine = lock_maker.lock().engine.model_copy(update={"name": "vllm"})
    assert code_check.concerns(lock_maker.lock(engine=engine))


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStack:
    made = SmallStack(
        tmp_path / "stack",
        objects={OBJECT: library("80", "90a")},
        engine="vllm",
        gpu="h100-sxm-80gb",
    )
    monkeypatch.setenv("BUILDER_CACHE", str(made.cache))
    return made


def fetch(stack: SmallStack) -> Lock:
    return pipeline.fetch(stack.path)[0].lock


def build(stack: SmallStack, *, may_lock: bool = True) -> Lock:
    return pipeline.build(stack.path, BuildOptions(may_lock=may_lock)).locked.lock


def render(stack: SmallStack) -> Lock:
    folder = stack.path.parent / "context"
    pipeline.render(stack.path, pipeline.RenderOptions(folder, force=True))
    return stack.lock


@pytest.mark.parametrize("command", [fetch, build, render])
def test_a_command_completes_the_lock(
    stack: SmallStack, command: Callable[[SmallStack], Lock], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(stack).code == stack.lock.code == {"vllm": code("80 90a")}
    told = f"{stack.lock_path}: added the GPU code that was read in vllm"
    assert told in capsys.readouterr().err.splitlines()
    text = stack.lock_path.read_bytes()
    command(stack)
    assert stack.lock_path.read_bytes() == text
    assert told not in capsys.readouterr().err


@pytest.mark.parametrize("command", [fetch, build, render])
def test_a_command_refuses_other_code(
    stack: SmallStack, command: Callable[[SmallStack], Lock]
) -> None:
    wrong = stack.lock.model_copy(update={"code": {"vllm": code("80 90", origin="catalogue")}})
    locks.write(stack.lock_path, wrong)
    with pytest.raises(IntegrityError, match="expected 80 90 as the lock says, got 80 90a"):
        command(stack)


def test_a_locked_build_only_warns(stack: SmallStack, capsys: pytest.CaptureFixture[str]) -> None:
    before = stack.lock_path.read_bytes()
    made = build(stack, may_lock=False)
    assert made.code == {"vllm": code("80 90a")}
    assert stack.lock_path.read_bytes() == before
    lacks = f"{stack.lock_path}: lacks the GPU code of vllm: build without --locked"
    assert f"warning: {lacks}" in capsys.readouterr().err.splitlines()


def test_an_image_does_not_depend_on_what_the_cache_knew(stack: SmallStack) -> None:
    bare = stack.lock
    first = pipeline.build(stack.path, BuildOptions()).image.digest
    # A cache that has the layers and knows nothing of the code, and the lock as it was.
    shutil.rmtree(stack.cache / "code")
    locks.write(stack.lock_path, bare)
    assert pipeline.build(stack.path, BuildOptions()).image.digest == first
    assert stack.lock.code == {"vllm": code("80 90a")}


def test_a_build_without_changes_reads_no_wheel(stack: SmallStack) -> None:
    build(stack)
    for wheel in stack.lock.wheels:
        (stack.cache / "downloads" / "sha256" / wheel.sha256).unlink()
    assert build(stack).code == {"vllm": code("80 90a")}


def test_a_stack_for_the_cpu_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SmallStack(tmp_path / "cpu", objects={"vllm_cpu/_C.so": library("80")})
    monkeypatch.setenv("BUILDER_CACHE", str(made.cache))
    assert fetch(made).code == build(made).code == {}
    assert not (made.cache / "code").exists()
