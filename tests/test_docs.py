"""What the documents claim is what the program does."""

import re
from pathlib import Path

import pytest
import typer.main

from builder import errors
from builder.cli.app import app
from builder.stack import canonical, load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def commands() -> set[str]:
    group = typer.main.get_command(app)
    return set(getattr(group, "commands", {}))


def kinds() -> list[type[errors.BuilderError]]:
    return [errors.BuilderError, *errors.BuilderError.__subclasses__()]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_lists_every_command_and_no_other() -> None:
    assert set(re.findall(r"^\| `builder (\w+)", README, re.MULTILINE)) == commands()


def test_the_readme_lists_every_exit_code() -> None:
    table = README.partition("## Exit codes")[2].partition("##")[0]
    listed = {int(code) for code in re.findall(r"\| (\d+) \|", table)}
    assert listed == {0} | {each.exit_code for each in kinds()}


def test_every_kind_of_failure_has_its_own_exit_code() -> None:
    codes = [each.exit_code for each in kinds()]
    assert len(set(codes)) == len(codes)


def test_the_stack_in_the_readme_is_the_one_in_stacks(tmp_path: Path) -> None:
    text = README.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "models" / "tiny-llama").mkdir(parents=True)
    copy = tmp_path / "tiny-llama-cpu.yaml"
    copy.write_text(text)
    assert canonical(load(copy)) == canonical(load(ROOT / "stacks" / "tiny-llama-cpu.yaml"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8"))
    assert [name for name in targets if not (path.parent / name).exists()] == []


STACKS = sorted((ROOT / "stacks").glob("*.yaml"))


def has_lock(path: Path) -> bool:
    return (ROOT / "lockfiles" / f"pylock.{path.stem}.toml").exists()


@pytest.mark.parametrize("path", [p for p in STACKS if has_lock(p)], ids=lambda path: path.stem)
def test_a_committed_lock_is_current(path: Path) -> None:
    from builder import pipeline

    locked, differences = pipeline.drift(path)
    assert (locked.lock.name, differences) == (path.stem, ())


def test_every_committed_lock_belongs_to_a_stack() -> None:
    names = {path.name for path in (ROOT / "lockfiles").glob("pylock.*.toml")}
    assert names <= {f"pylock.{path.stem}.toml" for path in STACKS}


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.stem)
def test_a_stack_without_a_lock_says_so(path: Path) -> None:
    says = "# No lock is committed" in path.read_text("utf-8")
    assert says is not has_lock(path)
