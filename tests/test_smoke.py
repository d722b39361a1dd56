"""`builder smoke` without an engine: what the suite reports, how it is shown, what is missing."""

import errno
import importlib.util
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder import pipeline, smoke
from builder.engine.docker import Docker
from builder.errors import BuilderError, HostError, SmokeError, UsageError
from builder.files import data_path
from smoke import inside, scan
from smoke.image import Image, narrowed
from tests import lock_maker

LINES = """
{"kind": "note", "text": "first start: ready after 61 s"}
{"kind": "check", "id": "test_static.py::test_user_is_not_root", "outcome": "passed", "seconds": 0.01, "reason": ""}
{"kind": "check", "id": "test_first_start.py::test_chat_answers", "outcome": "failed", "seconds": 61.26, "reason": "404: no chat template"}
{"kind": "check", "id": "test_restart.py::test_exit_code_is_kept", "outcome": "skipped", "seconds": 0.0, "reason": "no GPU"}
""".strip().splitlines()  # noqa: E501 - as they come

CHECKS = (
    smoke.Check("static", "user is not root", "passed", 0.01, ""),
    smoke.Check("first start", "chat answers", "failed", 61.26, "404: no chat template"),
    smoke.Check("restart", "exit code is kept", "skipped", 0.0, "no GPU"),
)
REPORT = smoke.Report("demo:1", CHECKS, 75.0, Path("/tmp/smoke.log"))
SUITE = f"""
import sys
print("chatter")
with open(sys.argv[-1], "w") as file:
    print(*{LINES!r}, sep="\\n", file=file)
"""
BROKEN = "import sys; print('no such option'); sys.exit(4)"


def test_report_is_read_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(smoke.read(LINES)) == CHECKS
    assert capsys.readouterr().err.splitlines() == [
        "first start: ready after 61 s",
        "static: user is not root: passed",
        "first start: chat answers: failed: 404: no chat template",
        "restart: exit code is kept: skipped: no GPU",
    ]


def test_table_has_a_line_per_check() -> None:
    assert REPORT.table().splitlines() == [
        "start        check              result   seconds  reason",
        "static       user is not root   passed       0.0",
        "first start  chat answers       failed      61.3  404: no chat template",
        "restart      exit code is kept  skipped      0.0  no GPU",
    ]


def test_summary_counts_outcomes() -> None:
    assert REPORT.summary == "3 checks: 1 passed, 1 failed, 1 skipped in 1 min 15 s"


def test_json_has_every_check() -> None:
    values = json.loads(json.dumps(REPORT.values()))
    assert (values["image"], values["seconds"], len(values["checks"])) == ("demo:1", 75.0, 3)
    assert values["checks"][1]["reason"] == "404: no chat template"


def test_failed_check_is_an_error_that_names_it() -> None:
    with pytest.raises(SmokeError) as caught:
        REPORT.require_passed()
    assert caught.value.message == "demo:1: 1 of 3 checks failed:\n  first start: chat answers"
    assert caught.value.hint == "see /tmp/smoke.log"


def test_skipped_check_is_none() -> None:
    smoke.Report("demo:1", (CHECKS[0], CHECKS[2]), 1.0).require_passed()


def test_suite_speaks_through_a_pipe(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert smoke.run_suite([sys.executable, "-c", SUITE], log) == CHECKS
    assert log.read_text() == "chatter\n"


def test_broken_suite_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(BuilderError) as caught:
        smoke.run_suite([sys.executable, "-c", BROKEN], log)
    assert caught.value.message == "the smoke suite ended with exit code 4\nno such option"
    assert caught.value.hint == f"see {log}"


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError) as caught:
        smoke.run("demo:1", None)
    assert caught.value.message == (
        "pytest and testcontainers: not installed, and builder smoke needs them"
    )
    assert caught.value.hint == "pip install pytest testcontainers"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "join the group docker, or set DOCKER_HOST"),
        (errno.ECONNREFUSED, "start Docker, or use builder run, which needs none"),
    ],
)
def test_an_engine_that_refuses_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        self.close()
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("DOCKER_HOST", "unix:///somewhere/docker.sock")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(HostError) as caught:
        Docker.connect()
    reason = os.strerror(number).lower()
    assert caught.value.message == f"no container engine answers: {reason}"
    assert caught.value.hint == hint


def test_without_an_engine_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "builder", "smoke", "demo:1"],
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (HostError.exit_code, "")
    assert done.stderr.splitlines() == [
        "error: no container engine answers: no such file or directory",
        "hint: start Docker, or use builder run, which needs none",
    ]


def test_stack_has_a_lock_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"^--lock: x\.yaml has a lock of its own$"):
        pipeline.smoke("x.yaml", Path("pylock.x.toml"))


def test_suite_travels_with_the_package() -> None:
    names = {path.name for path in data_path("smoke").iterdir()}
    assert names >= {"pytest.ini", "conftest.py", "inside.py", "scan.py", "test_first_start.py"}


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "a" * 34,
        "token=ghp_" + "A1" * 18,
        "AKIA" + "ABCD" * 4,
        "glpat-" + "x" * 20,
        "Bearer eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
        "--index-url https://robot:s3cret@pypi.example.com/simple",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3Bl" * 10,
    ],
)
def test_scan_knows_a_secret(text: str) -> None:
    assert scan.SECRET.search(text.encode())


@pytest.mark.parametrize(
    "text", ["hf_hub_download", "https://example.com/a:b@c", "AKIA", "git@github.com:a/b"]
)
def test_scan_knows_what_is_none(text: str) -> None:
    assert not scan.SECRET.search(text.encode())


def test_scan_names_every_fault_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pip.conf"
    path.write_text("index-url = https://robot:s3cret@pypi.example.com/simple")
    status = os.stat_result((stat.S_IFREG | 0o4755, 1, 1, 1, 0, 7, 60, 0, 0, 0))
    assert list(scan.faults(str(path), status)) == ["foreign", "setuid", "place", "secret"]


class Server(BaseHTTPRequestHandler):
    """Ready at the third look; streams two events."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        is_ready = self.looks > 2
        self._answer(200 if is_ready else 503, {"state": "ready" if is_ready else "warming"})

    def do_POST(self) -> None:
        got = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not got.get("stream"):
            self._answer(400, {"prompt": len(got["prompt"])})
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: {}\n\ndata: [DONE]\n\n")

    def _answer(self, code: int, values: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(values).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited name
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Server.looks = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_inside_watches_until_ready(port: int) -> None:
    looks = [(look["status"], look["state"]) for look in inside.watch(port, 10)]
    assert looks == [(503, "warming"), (200, "ready")]


def test_inside_gives_up_in_time() -> None:
    looks = list(inside.watch(1, 0.3))
    assert [(look["status"], look["state"]) for look in looks] == [(0, "no answer")]


def test_inside_makes_long_prompts_itself(port: int) -> None:
    (answer,) = inside.ask(port, "POST", "/", "{}", prompt_tokens=70_000)
    assert (answer["status"], json.loads(answer["body"])) == (400, {"prompt": 70_000})


def test_inside_times_every_event(port: int) -> None:
    (answer,) = inside.stream(port, "/", '{"stream": true}')
    assert [event["text"] for event in answer["events"]] == ["{}", "[DONE]"]


def test_inside_hashes_files_and_names_their_place(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"")
    link.symlink_to(file)
    (answer,) = inside.digests([str(link)])
    assert (answer["real"], answer["sha256"][:8]) == (str(file), "e3b0c442")
    (missing,) = inside.digests([str(tmp_path / "none")])
    assert "No such file" in missing["sha256"]


def test_inside_lists_processes_but_itself() -> None:
    listed = {one["pid"]: one for one in inside.processes()}
    assert os.getpid() not in listed
    assert os.getppid() in listed


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ({"pid": 70, "parent": 0, "command": ["runc", "init", ""]}, True),
        ({"pid": 70, "parent": 0, "command": ["/usr/bin/python3", "-I", ""]}, False),
        ({"pid": 70, "parent": 9, "command": ["runc", "init", ""]}, False),
        ({"pid": 1, "parent": 0, "command": ["runc", "init", ""]}, False),
        ({"pid": 70, "parent": 0, "command": [""]}, False),
    ],
    ids=["on its way in", "arrived", "made inside", "process 1", "no command"],
)
def test_only_the_engines_own_process_is_not_counted(one: dict[str, Any], expected: bool) -> None:
    assert inside.is_entering(one) is expected


def image_for(gpu: str | None) -> Image:
    serve = json.dumps({"require": {"gpu": gpu}})
    return Image("x", {"Config": {"Env": [f"BUILDER_SERVE={serve}"]}}, [], None)


def test_an_image_is_compared_with_its_own_cell_of_a_lock() -> None:
    whole = lock_maker.matrix(lock_maker.L4, lock_maker.H100)
    assert narrowed(whole, image_for("l4-24gb")) == lock_maker.matrix(lock_maker.L4)
    for_cpu = lock_maker.lock()
    assert narrowed(for_cpu, image_for(None)) is for_cpu
    # Compared as it is: the label that names the lock tells them apart.
    assert narrowed(whole, image_for(None)) is whole
    with pytest.raises(LookupError, match="the image is for b200-180gb, and the lock is not"):
        narrowed(whole, image_for("b200-180gb"))
