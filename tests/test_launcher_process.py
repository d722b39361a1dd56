"""The whole launcher as in the image, with `fake_engine.py` as its child."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from builder.launcher.exits import ExitCode

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "builder" / "launcher"
PYTHON = os.environ.get("LAUNCHER_PYTHON", sys.executable)
"""Another interpreter for the launcher: the image's may be Python 3.10."""

PATIENCE = 15.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        pause.wait(0.02)


def free_port() -> int:
    """A port below those that connections get: polling such a one can connect to itself."""
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def ask(port: int, path: str, body: object = None) -> tuple[int, Any]:
    """Status and decoded body; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def child(process: int) -> int:
    """The only child of a process, started by its main thread."""
    return int(Path(f"/proc/{process}/task/{process}/children").read_text())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`/opt/builder` as the recipe packs it."""
    root = tmp_path_factory.mktemp("opt") / "builder"
    (root / "builder" / "launcher").mkdir(parents=True)
    (root / "builder" / "__init__.py").touch()
    for source in PACKAGE.glob("*.py"):
        shutil.copy(source, root / "builder" / "launcher")
    shutil.copy(PACKAGE / "__main__.py", root)
    return root


class Launcher:
    """One run: what it is told, what it prints, how it ends."""

    def __init__(self, image: Path, scratch: Path) -> None:
        self.command = [PYTHON, "-I", "-S", str(image)]
        self.scratch = scratch
        self.port, self.probe_port = free_port(), free_port()
        self.behaviour: dict[str, Any] = {}
        self.env: dict[str, str] = {}
        self.spec: dict[str, Any] = {
            "version": 1,
            "argv": [sys.executable, str(HERE / "fake_engine.py"), "--port", str(self.port)],
            "model": "tiny",
            "port": self.port,
            "probe_port": self.probe_port,
            "start_budget": 30,
            "drain": 20,
            "max_model_len": 512,
            "health": "/health",
            "routes": ["/v1/completions", "/v1/chat/completions"],
            "metrics": {
                "path": "/metrics",
                "waiting": ["vllm:num_requests_waiting"],
                "running": ["vllm:num_requests_running"],
                "tokens": ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"],
            },
            "stall": 120,
            "require": {
                "gpus": 0,
                "gpu": None,
                "compute_capability": None,
                "memory_bytes": 0,
                "driver": None,
                "shm_bytes": 0,
            },
        }
        self.process: subprocess.Popen[bytes] | None = None

    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "BUILDER_CACHE": str(self.scratch / "cache"),
            "BUILDER_SERVE": json.dumps(self.spec),
            "FAKE_ENGINE": json.dumps(self.behaviour),
            **self.env,
        }

    def start(self, *arguments: str) -> Self:
        (self.scratch / "cache").mkdir(exist_ok=True)
        with self.log("out").open("wb") as out, self.log("err").open("wb") as err:
            self.process = subprocess.Popen(
                [*self.command, *arguments], env=self.environ(), stdout=out, stderr=err
            )
        return self

    def started(self, *arguments: str) -> Self:
        self.start(*arguments)
        until(self.is_ready, f"ready; {self.out}{self.err}")
        return self

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command in the same environment."""
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def is_ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"ended: {self.out}{self.err}"
        return self.probe("readyz")[0] == 200

    def probe(self, name: str) -> tuple[int, Any]:
        return ask(self.probe_port, f"/{name}")

    def state(self) -> str | None:
        content = self.probe("readyz")[1]
        return content["state"] if content else None

    def control(self, **changes: object) -> None:
        assert ask(self.port, "/_control", changes)[0] == 200

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process
        self.process.send_signal(number)

    def ended(self) -> int:
        assert self.process
        return self.process.wait(PATIENCE)

    def engine(self) -> int:
        """Process id of the running engine."""
        assert self.process
        return child(self.process.pid)

    def log(self, name: str) -> Path:
        return self.scratch / name

    @property
    def out(self) -> str:
        return self.log("out").read_text()

    @property
    def err(self) -> str:
        return self.log("err").read_text()


@pytest.fixture
def launcher(image: Path, tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(image, tmp_path)
    yield launcher
    process = launcher.process
    if process and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(launcher.engine(), signal.SIGKILL)
        process.kill()
        process.wait()


def test_becomes_ready_after_warm_up_and_stops_with_code_0(launcher: Launcher) -> None:
    launcher.started()
    assert launcher.probe("livez")[0] == 200
    assert launcher.probe("startupz")[0] == 200
    assert launcher.probe("elsewhere")[0] == 404
    status = launcher.probe("readyz")[1]
    assert set(status) == {"state", "reason", "since", "seconds"}
    assert status["state"] == "ready"
    seen = ask(launcher.port, "/_seen")[1]
    prompts = [len(one["body"]["prompt"]) for one in seen if one["path"] == "/v1/completions"]
    assert prompts == [1, 4, 16, 64, 256, 496]
    assert seen[0]["body"]["max_tokens"] == 32
    assert seen[-1]["path"] == "/v1/chat/completions"
    launcher.signal()
    assert launcher.ended() == 0
    assert "launcher: ready after" in launcher.out
    assert "launcher: drained: no request is running, stopping the engine" in launcher.out
    assert launcher.err == ""


def test_healthcheck_follows_the_state(launcher: Launcher) -> None:
    launcher.behaviour = {"healthy": False}
    nobody = launcher.run("healthcheck")
    assert (nobody.returncode, nobody.stdout.split(":")[0]) == (1, "unreachable")
    launcher.start()
    until(lambda: launcher.state() == "starting", "starting")
    assert launcher.probe("livez")[0] == 200
    assert launcher.probe("startupz")[0] == 503
    starting = launcher.run("healthcheck")
    assert starting.returncode == 1
    assert starting.stdout.startswith("starting for ")
    launcher.signal()
    assert launcher.ended() == 0


def test_healthcheck_of_a_ready_container(launcher: Launcher) -> None:
    other = free_port()
    launcher.env = {"BUILDER_PROBE_PORT": str(other)}
    launcher.start()
    launcher.probe_port = other
    until(launcher.is_ready, "ready")
    done = launcher.run("healthcheck")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ready for ")


def test_stream_in_flight_finishes_before_the_engine_stops(launcher: Launcher) -> None:
    launcher.started()
    connection = http.client.HTTPConnection("127.0.0.1", launcher.port, timeout=PATIENCE)
    connection.request("POST", "/v1/completions", json.dumps({"stream": True}))
    response = connection.getresponse()
    assert response.readline() == b"data: first\n"
    launcher.signal()
    until(lambda: launcher.state() == "draining", "draining")
    assert launcher.probe("livez")[0] == 200
    launcher.control(release=True)
    assert response.read() == b"\ndata: last\n\ndata: [DONE]\n\n"
    connection.close()
    assert launcher.ended() == 0


def test_drain_has_an_end(launcher: Launcher) -> None:
    launcher.spec["drain"] = 1
    launcher.started()
    launcher.control(running=3)
    launcher.signal()
    assert launcher.ended() == 0
    assert "drain of 1 s is over, 3 requests cut off, stopping the engine" in launcher.out


def test_second_signal_stops_at_once(launcher: Launcher) -> None:
    launcher.started()
    launcher.control(running=1)
    launcher.signal(signal.SIGINT)
    until(lambda: launcher.state() == "draining", "draining")
    launcher.signal(signal.SIGINT)
    assert launcher.ended() == 0
    assert "SIGINT again: stopping now" in launcher.out


def test_engine_that_ignores_sigterm_is_killed_by_a_third_signal(launcher: Launcher) -> None:
    launcher.behaviour = {"ignore_term": True}
    launcher.started()
    for _ in range(3):
        launcher.signal()
        until(lambda: launcher.out.count("SIGTERM"), "signal noticed")
        threading.Event().wait(0.05)
    assert launcher.ended() == 137
    assert "killing the engine" in launcher.err


def test_stop_while_starting_is_immediate(launcher: Launcher) -> None:
    launcher.behaviour = {"deaf": True}
    launcher.start()
    until(lambda: "starting" in launcher.out, "engine started")
    launcher.signal()
    assert launcher.ended() == 0
    assert "SIGTERM before ready: stopping now" in launcher.out


def test_engine_that_dies_at_start_keeps_its_code_and_tells_why(launcher: Launcher) -> None:
    text = (
        "INFO loading\n"
        "Traceback (most recent call last):\n"
        '  File "engine.py", line 1, in <module>\n'
        "ValueError: no such model\n"
        "50%|#####     | 1/2 [00:01<00:01,  1.0it/s]\n"
    )
    launcher.behaviour = {"die": {"code": 3, "text": text}}
    assert launcher.start().ended() == 3
    assert text in launcher.out
    assert "launcher: error: engine ended with code 3 while starting\n" in launcher.err
    assert launcher.err.endswith("launcher: | ValueError: no such model\n")
    assert "it/s" not in launcher.err


def test_engine_that_never_answers_is_killed_at_the_budget(launcher: Launcher) -> None:
    launcher.spec["start_budget"] = 0.5
    launcher.spec["argv"] = ["sh", "-c", "echo waiting for a miracle; sleep 60"]
    assert launcher.start().ended() == ExitCode.START_BUDGET
    assert "engine did not answer within 0.5 s (start_budget)" in launcher.err
    assert "launcher: | waiting for a miracle" in launcher.err


def test_killed_engine_gives_137(launcher: Launcher) -> None:
    launcher.started()
    os.kill(launcher.engine(), signal.SIGKILL)
    assert launcher.ended() == 137
    assert "error: engine ended by SIGKILL while ready" in launcher.err


def test_stall_is_not_live_until_tokens_move(launcher: Launcher) -> None:
    launcher.spec["stall"] = 0.4
    launcher.started()
    launcher.control(waiting=2)
    until(lambda: launcher.probe("livez")[0] == 503, "stalled")
    status = launcher.probe("readyz")
    assert status[0] == 503
    assert status[1]["state"] == "failed"
    assert status[1]["reason"] == "no token for 0 s with 2 unfinished requests"
    assert launcher.probe("startupz")[0] == 200
    launcher.control(tokens=10_000, waiting=0)
    until(lambda: launcher.probe("livez")[0] == 200, "recovered")
    assert launcher.state() == "ready"


def test_counters_that_cannot_be_read_are_a_stall(launcher: Launcher) -> None:
    launcher.spec["stall"] = 0.4
    launcher.started()
    launcher.control(metrics=500)
    until(lambda: launcher.probe("livez")[0] == 503, "stalled")
    assert "has not answered" in launcher.probe("livez")[1]["reason"]
    launcher.control(metrics=200)
    until(lambda: launcher.probe("livez")[0] == 200, "recovered")


def test_refused_chat_is_noted_and_no_failure(launcher: Launcher) -> None:
    launcher.behaviour = {"refuse": {"/v1/chat/completions": 400}}
    launcher.started()
    assert "/v1/chat/completions one message: not served, 400" in launcher.out


@pytest.mark.parametrize("route", ["/v1/embeddings", "/pooling"])
def test_model_that_writes_no_text_is_warmed_up_on_its_own_route(
    launcher: Launcher, route: str
) -> None:
    launcher.spec["routes"] = [route]
    launcher.behaviour = {"refuse": {"/v1/completions": 404, "/v1/chat/completions": 404}}
    launcher.started()
    seen = ask(launcher.port, "/_seen")[1]
    assert {one["path"] for one in seen} == {route}
    assert [len(one["body"]["input"]) for one in seen] == [1, 4, 16, 64, 256, 496]


@pytest.mark.parametrize(
    "refuse",
    [
        pytest.param({"/v1/completions": 401, "/v1/chat/completions": 404}, id="all-refuse"),
        pytest.param({"/v1/chat/completions": 500}, id="one-breaks"),
    ],
)
def test_warm_up_that_cannot_be_served_fails(launcher: Launcher, refuse: dict[str, int]) -> None:
    launcher.behaviour = {"refuse": refuse}
    assert launcher.start().ended() == ExitCode.WARM_UP
    assert "error: warm-up failed: /v1/" in launcher.err


def test_taken_probe_port_is_a_clear_error(launcher: Launcher) -> None:
    with socket.socket() as other:
        other.bind(("", launcher.probe_port))
        other.listen()
        assert launcher.start().ended() == ExitCode.PORT_TAKEN
    assert f"cannot listen on the probe port {launcher.probe_port}: " in launcher.err


def test_taken_engine_port_is_a_clear_error(launcher: Launcher) -> None:
    with socket.socket() as other:
        other.bind(("", launcher.port))
        other.listen()
        assert launcher.start().ended() == ExitCode.PORT_TAKEN
    assert f"cannot serve on port {launcher.port}: " in launcher.err


def test_arguments_after_the_image_name_win(launcher: Launcher) -> None:
    port = free_port()
    launcher.start("--port", str(port), "--served-model-name=other", "--api-key", "hush")
    launcher.port = port
    until(launcher.is_ready, "ready")
    seen = ask(port, "/_seen")[1]
    assert {one["body"]["model"] for one in seen} == {"other"}
    assert {one["headers"]["Authorization"] for one in seen} == {"Bearer hush"}
    assert "hush" not in launcher.out + launcher.err


def test_command_after_dashes_replaces_everything(launcher: Launcher) -> None:
    del launcher.spec["version"]
    script = "import os, signal; print(os.environ['HF_HUB_OFFLINE'], os.getppid())"
    done = launcher.run("--", sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (0, f"1 {os.getpid()}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        pytest.param(["--"], 80, "no command after `--`", id="nothing"),
        pytest.param(["--", "no-such-program"], 127, "cannot execute", id="missing"),
        pytest.param(["--", "/etc/passwd"], 126, "cannot execute", id="no-program"),
    ],
)
def test_command_that_cannot_be_run(
    launcher: Launcher, arguments: list[str], code: int, fault: str
) -> None:
    done = launcher.run(*arguments)
    assert done.returncode == code
    assert fault in done.stderr


def test_missing_engine_program_is_127(launcher: Launcher) -> None:
    launcher.spec["argv"] = ["/opt/venv/bin/no-such-python"]
    done = launcher.run()
    assert done.returncode == 127
    assert "cannot execute `/opt/venv/bin/no-such-python`: No such file" in done.stderr


def test_bad_spec_lists_its_faults(launcher: Launcher) -> None:
    launcher.spec |= {"port": "8000", "drain": -1}
    done = launcher.run()
    assert done.returncode == ExitCode.SPEC
    assert 'error: BUILDER_SERVE.port: must be a whole number from 1 to 65535, got "8000"' in (
        done.stderr
    )
    assert "BUILDER_SERVE.drain" in done.stderr


def test_preflight_refuses_warns_or_is_silent(launcher: Launcher) -> None:
    launcher.spec["require"]["shm_bytes"] = 2**60
    refused = launcher.run()
    assert refused.returncode == ExitCode.SMALL_SHM
    assert "error: shared memory is too small" in refused.stderr
    launcher.env = {"BUILDER_PREFLIGHT": "warn"}
    launcher.started()
    assert "warning: shared memory is too small" in launcher.err
    launcher.env = {"BUILDER_PREFLIGHT": "maybe"}
    assert launcher.run().returncode == ExitCode.SPEC


def unshare(*options: str) -> list[str]:
    """The command that starts another in namespaces of its own."""
    command = ["unshare", "--user", *options]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    return command


def test_uid_without_passwd_entry_has_a_name(launcher: Launcher) -> None:
    launcher.command = [*unshare("--map-user=54321"), *launcher.command]
    script = "import getpass, os; print(os.getuid(), getpass.getuser())"
    done = launcher.run("--", sys.executable, "-c", script)
    assert done.stdout == "54321 builder\n", done.stderr


def test_process_1_notices_signals(launcher: Launcher) -> None:
    namespaces = unshare("--map-root-user", "--pid", "--fork", "--kill-child")
    launcher.command = [*namespaces, *launcher.command]
    launcher.started()
    assert launcher.process
    os.kill(child(launcher.process.pid), signal.SIGTERM)
    assert launcher.ended() == 0
    assert "launcher: drained" in launcher.out


def test_orphans_are_reaped_as_process_1(launcher: Launcher) -> None:
    namespaces = unshare("--map-root-user", "--pid", "--fork", "--kill-child")
    launcher.command = [*namespaces, *launcher.command]
    launcher.spec["argv"] = [sys.executable, "-c", ORPHAN]
    done = launcher.run()
    assert done.returncode == 7, done.stdout + done.stderr


ORPHAN = """
import os, signal, threading
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    orphan = os.fork()
    os.write(writer, str(orphan).encode()) if orphan else threading.Event().wait(0.2)
    os._exit(0)
os.waitpid(child, 0)
orphan = int(os.read(reader, 20))
for _ in range(500):  # a zombie still takes signals, a reaped process is gone
    try:
        os.kill(orphan, 0)
    except ProcessLookupError:
        os._exit(7 if os.getppid() == 1 else 8)
    threading.Event().wait(0.02)
os._exit(9)
"""
"""Leaves a child behind, and ends with 7 when the launcher has reaped it."""


def test_huge_and_partial_lines_pass_through(launcher: Launcher) -> None:
    launcher.behaviour = {"print": ["x" * 1000, 3000]}
    launcher.started()
    # The line is still open when the launcher speaks, which then starts a line of its own.
    assert "x" * 3_000_000 + "\nlauncher: engine answers" in launcher.out
