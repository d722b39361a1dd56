"""`builder check` and `builder explain`: what they print where, and their exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import Run, runner

STACK = """\
name: {name}
target: {{platform: linux/amd64, gpu: {gpu}, driver: "{driver}"}}
engine: {{name: vllm, version: "0.20.2"}}
base: {{debian: bookworm}}
model: {{repo: Qwen/Qwen2.5-7B-Instruct-AWQ, revision: "{revision}"}}
serve: {{max_model_len: 8192, max_num_seqs: 64, gpu_memory_utilization: 0.9}}
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `builder` in this process; returns exit code, stdout and stderr."""
    return runner(monkeypatch, capsys)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a stack into the current folder; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str = "demo", gpu: str = "rtx-4090-24gb", driver: str = ">=580") -> str:
        text = STACK.format(name=name, gpu=gpu, driver=driver, revision="0" * 40)
        Path(f"{name}.yaml").write_text(text)
        return f"{name}.yaml"

    return write


def test_a_stack_that_works_ends_with_0(run: Run, stack: Callable[..., str]) -> None:
    code, out, _ = run("check", stack())
    assert code == 0
    assert out.startswith("demo.yaml: works")
    assert "error" not in out


def test_a_refused_stack_ends_with_3_and_says_where_why_and_what(
    run: Run, stack: Callable[..., str]
) -> None:
    code, out, err = run("check", stack(driver=">=570"))
    assert code == 3
    assert "demo.yaml: refused on rtx-4090-24gb" in out
    assert "error: demo.yaml:2: target.driver: allows hosts with driver 570" in out
    assert 'hint: write driver: ">=580"' in out
    assert "rule: driver-floor; source: NVIDIA" in out
    assert "nearest that works: " in out
    assert "error: 1 of 1 stack refused: demo.yaml" in err


def test_lines_fit_a_terminal(run: Run, stack: Callable[..., str]) -> None:
    _, out, _ = run("check", stack(driver=">=570"))
    assert max(map(len, out.splitlines())) <= 80


def test_json_holds_every_finding(run: Run, stack: Callable[..., str]) -> None:
    code, out, _ = run("check", "--json", stack(driver=">=570"))
    (found,) = json.loads(out)
    (cell,) = found["cells"]
    finding = next(each for each in cell["findings"] if each["rule"] == "driver-floor")
    assert code == 3
    assert (found["name"], cell["gpu"], cell["verdict"]) == ("demo", "rtx-4090-24gb", "refused")
    assert (finding["severity"], finding["place"], finding["line"]) == ("error", "target.driver", 2)
    assert finding["nearest"] == cell["nearest"] != None  # noqa: E711


def test_what_is_true_of_every_cell_is_said_once(run: Run, stack: Callable[..., str]) -> None:
    _, out, _ = run("check", stack(gpu="[rtx-4090-24gb, l40s-48gb]", driver=">=570"))
    assert out.count("refused on") == 2
    assert "(rtx-4090-24gb)" in out.replace("\n      ", " ")


def test_a_wrong_file_does_not_hide_the_others(run: Run, stack: Callable[..., str]) -> None:
    good = stack()
    Path("bad.yaml").write_text("name: bad\nengin: {}\n")
    code, out, err = run("check", "bad.yaml", good)
    assert code == 3
    assert "demo.yaml: works" in out
    assert "bad.yaml" in err
    assert "1 of 2 stacks refused: bad.yaml" in err


def test_strict_refuses_warnings(run: Run, stack: Callable[..., str]) -> None:
    path = stack()
    text = Path(path).read_text().replace("Qwen/Qwen2.5-7B-Instruct-AWQ", "nobody/knows-it")
    Path(path).write_text(text)
    assert run("check", path)[0] == 0
    assert run("check", "--strict", path)[0] == 3


def test_notes_are_named_and_shown_when_asked_for(run: Run, stack: Callable[..., str]) -> None:
    path = stack()
    _, short, _ = run("check", path)
    assert "notes (--notes shows them): " in short
    assert "unlocked" in short
    assert "note: " not in short
    _, long, _ = run("check", "--notes", path)
    assert "rule: unlocked" in long
    assert max(map(len, long.splitlines())) <= 80


def test_explain_prints_the_page(run: Run) -> None:
    code, out, _ = run("explain", "driver-floor")
    assert code == 0
    assert out.startswith("# driver-floor\n")


def test_explain_lists_the_rules(run: Run) -> None:
    code, out, _ = run("explain")
    assert code == 0
    assert "driver-floor" in out


def test_an_unknown_rule_is_a_usage_error(run: Run) -> None:
    code, _, err = run("explain", "driver-flor")
    assert code == 2
    assert "driver-floor" in err


# --- what else asks the rules --------------------------------------------------------------------


def test_lock_refuses_before_it_asks_the_network(
    run: Run, stack: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    code, _, err = run("lock", stack(driver=">=570"))
    assert code == 3
    assert "demo.yaml:2: target.driver: allows hosts with driver 570" in err
    assert "(driver-floor)" in err
    assert "builder check demo.yaml says more" in err


def test_an_exception_with_its_reason_lets_a_stack_pass(
    run: Run, stack: Callable[..., str]
) -> None:
    path = stack(driver=">=570")
    with Path(path).open("a") as file:
        file.write('rules: {driver-floor: "the hosts get 580 before the image"}\n')
    code, out, _ = run("check", path)
    assert code == 0
    assert "works with warnings" in out
    assert "the hosts get 580 before the image" in out.replace("\n      ", " ")


def test_an_exception_from_a_rule_that_is_not_there_is_said(
    run: Run, stack: Callable[..., str]
) -> None:
    path = stack()
    with Path(path).open("a") as file:
        file.write("rules: {driver-flor: typo}\n")
    _, out, _ = run("check", path)
    assert "there is no rule `driver-flor`" in out


def test_more_than_is_free_is_no_shortage_below_zero(run: Run, stack: Callable[..., str]) -> None:
    name = stack()
    path = Path(name)
    path.write_text(path.read_text("utf-8").replace("utilization: 0.9", "utilization: 1.0"))
    code, out, _ = run("check", name)
    assert code != 0
    assert "GiB more than is free at the start" in out
    assert "short of -" not in out


@pytest.mark.parametrize("lock", ["", "[tool.builder]\nversion = 99\n"], ids=["damaged", "newer"])
def test_a_lock_that_cannot_be_read_does_not_hide_the_others(
    run: Run, stack: Callable[..., str], lock: str
) -> None:
    Path("pylock.bad.toml").write_text(lock)
    code, out, err = run("check", stack("bad"), stack("good"), "--json")
    assert code == 3
    assert [row["verdict"] for row in json.loads(out)] == ["works", "invalid"]
    assert "pylock.bad.toml" in err
    assert run("check", "bad.yaml")[0] == (10 if not lock else 4)


@pytest.mark.parametrize(
    "config",
    [b"{" * 9, b"\xff", b'{"rope_scaling":' + b'{"a":' * 900 + b"1" + b"}" * 901, b"[" * 99_999],
    ids=["cut", "no text", "deep", "deeper than JSON"],
)
def test_a_config_that_cannot_be_read_is_a_fault(
    run: Run, stack: Callable[..., str], config: bytes
) -> None:
    path = Path(stack())
    Path("model").mkdir()
    Path("model/config.json").write_bytes(config)
    lines = ["model: {path: model}" if "repo:" in x else x for x in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    code, out, err = run("check", str(path))
    assert (code, out) == (3, "")
    assert "config.json" in err


@pytest.mark.parametrize(
    "part",
    [
        "args: {hf-tokenx: %s}",
        "args: {hf-token: [%s]}",
        "args: {api-key: %s}",
        "env: {VLLM_API_KEYS: %s}",
        "env: {HF_TOKEN: %s}",
        "env: {HTTPS_PROXY: 'http://user:%s@proxy:3128'}",
        "args: {load-format: 'https://user:%s@host/x'}",
    ],
)
def test_a_secret_is_not_repeated(run: Run, stack: Callable[..., str], part: str) -> None:
    path = Path(stack())
    secret = "correct-horse-battery"
    text = path.read_text().replace("serve: {", "serve: {" + part.replace("%s", secret) + ", ")
    path.write_text(text)
    for words in (("check", str(path), "--notes"), ("check", str(path), "--json"), ("plan",)):
        _, out, err = run(*words, *([str(path)] if words == ("plan",) else []))
        assert secret not in out + err
