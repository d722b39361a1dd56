"""An image runs in user namespaces: read-only, as its own user, and stops when told to."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.engine import bubblewrap, follow, namespaces, ports, rootfs, sandbox, session
from builder.engine.protocol import Container, Mount
from builder.engine.sandbox import Sandbox, Sandboxed
from builder.errors import BuilderError, HostError, UsageError
from builder.oci.image import Image
from builder.sources import debian
from tests import small_image

SECONDS = 20.0


@pytest.fixture(scope="session")
def program() -> str:
    """bubblewrap, on a machine that lets it work."""
    found = shutil.which("bwrap")
    if found is None:
        pytest.skip("bubblewrap is not installed")
    try:
        namespaces.check((found,))
    except HostError as fault:
        pytest.skip(fault.message)
    return found


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return small_image.image([small_image.shell(tmp_path_factory.mktemp("store"))])


@contextlib.contextmanager
def running(
    program: str, image: Image, cache: Path, script: str, **more: object
) -> Iterator[Sandboxed]:
    runner = Sandbox([program], cache)
    runner.add(image)
    container = Container(image=image.name, arguments=[script], **more)  # type: ignore[arg-type]
    started = runner.start(container)
    try:
        yield started
    finally:
        started.remove()


# --- the command line ---------------------------------------------------------------------------


def test_the_whole_command_line(tmp_path: Path) -> None:
    layers = [small_image.weights(tmp_path / "model.safetensors", b"x" * 600)]
    image = small_image.image(layers, {**small_image.CONFIG, "Entrypoint": ["/launcher"]})
    container = Container(
        image=image.name,
        arguments=["--port", "9000"],
        environment={"COLOUR": "blue"},
        mounts=[Mount("/tmp"), Mount("/cache", str(tmp_path / "kept"))],
    )
    given = sandbox.options(sandbox.prepared(image, tmp_path), container)
    [weight] = rootfs.place(image, tmp_path).weights
    text = " ".join(given).replace(rootfs.key_of(image), "KEY").replace(weight, "WEIGHT")
    devices = " ".join(
        f"--dev-bind-try /dev/{name} /dev/{name}"
        for name in ("null", "zero", "full", "random", "urandom", "tty")
    )
    assert text.replace(str(tmp_path), "DIR") == (
        "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try "
        "--uid 10001 --gid 0 --hostname builder "
        "--cap-drop ALL --die-with-parent --new-session --as-pid-1 "
        f"--ro-bind DIR/rootfs/KEY / --tmpfs /dev {devices} "
        "--symlink /proc/self/fd /dev/fd --symlink /proc/self/fd/0 /dev/stdin "
        "--symlink /proc/self/fd/1 /dev/stdout --symlink /proc/self/fd/2 /dev/stderr "
        "--perms 1777 --tmpfs /dev/shm --remount-ro /dev "
        "--proc /proc --ro-bind /sys /sys --ro-bind DIR/sandbox/hosts /etc/hosts "
        "--ro-bind-try /etc/resolv.conf /etc/resolv.conf "
        "--ro-bind DIR/model.safetensors WEIGHT "
        "--perms 1777 --tmpfs /tmp --bind DIR/kept /cache --chdir / "
        "--clearenv --setenv PATH /bin --setenv COLOUR blue -- /launcher --port 9000"
    )


@pytest.mark.parametrize(
    ("container", "part"),
    [
        pytest.param(
            Container(image="i", has_network=False), "--unshare-cgroup-try --unshare-net", id="net"
        ),
        pytest.param(Container(image="i", user="7:8"), "--uid 7 --gid 8", id="user and group"),
        pytest.param(Container(image="i", user="7"), "--uid 7 --gid 0", id="user"),
        pytest.param(
            Container(image="i", shared_memory=4096), "--size 4096 --tmpfs /dev/shm", id="memory"
        ),
    ],
)
def test_parts_of_the_command_line(tmp_path: Path, container: Container, part: str) -> None:
    ready = sandbox.prepared(small_image.image([]), tmp_path)
    assert part in " ".join(sandbox.options(ready, container))


# --- a real sandbox -----------------------------------------------------------------------------

LOOK = """
read line < /proc/self/uid_map; echo "user $line"
echo "process $$"
echo "colour $COLOUR home ${HOME-none}"
(echo x > /file) 2> /dev/null || echo "root is read-only"
(echo x > /dev/file) 2> /dev/null || echo "dev is read-only"
echo kept > /cache/file && echo x > /tmp/file && echo "cache and tmp can be written"
cat /etc/hosts
exit 7
"""


def test_what_a_process_finds_inside(program: str, image: Image, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    mounts = [Mount("/tmp"), Mount("/cache", str(kept))]
    with running(program, image, tmp_path, LOOK, mounts=mounts) as started:
        lines = list(started.logs())
        code = started.wait(SECONDS)
    assert (lines[0].split()[:2], lines[0].split()[-1]) == (["user", "10001"], "1")
    assert lines[1:] == [
        "process 1",
        "colour red home none",
        "root is read-only",
        "dev is read-only",
        "cache and tmp can be written",
        "127.0.0.1 localhost builder",
        "::1 localhost",
    ]
    assert (code, (kept / "file").read_text()) == (7, "kept\n")


def test_no_network_means_no_network(program: str, image: Image, tmp_path: Path) -> None:
    with running(program, image, tmp_path, "cat /proc/net/dev", has_network=False) as started:
        devices = [line.split(":")[0].strip() for line in started.logs() if ":" in line]
    assert devices == ["lo"]


WAIT = "trap 'echo told; exit 3' {name}; echo started; while :; do sleep 0.1; done"


@pytest.mark.parametrize(("name", "code"), [("TERM", 3), ("INT", 3), ("KILL", 137)])
def test_signals_arrive(program: str, image: Image, tmp_path: Path, name: str, code: int) -> None:
    script = WAIT.format(name=name if name != "KILL" else "TERM")
    with running(program, image, tmp_path, script) as started:
        lines = started.logs()
        assert next(lines) == "started"
        with pytest.raises(TimeoutError, match="still runs after"):
            started.wait(0.01)
        started.signal(f"SIG{name}")
        assert started.wait(SECONDS) == code
        assert list(lines) == ([] if name == "KILL" else ["told"])
        started.signal("SIGTERM")  # to what is gone: nothing happens


def test_commands_run_inside(program: str, image: Image, tmp_path: Path) -> None:
    if shutil.which("nsenter") is None:
        pytest.skip("no nsenter on this machine")
    with running(program, image, tmp_path, "echo up; while :; do sleep 1; done") as started:
        assert next(started.logs()) == "up"
        done = started.exec(
            ["/bin/sh", "-c", "echo $COLOUR; read c < /proc/1/comm; echo $c; exit 4"]
        )
    assert done == (4, "red\nsh\n")


def test_a_sandbox_has_no_gpus(image: Image, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="a sandbox has no GPUs"):
        Sandbox(["bwrap"], tmp_path).start(Container(image=image.name, gpus=1))


# --- machines that do not let us ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "message", "hint"),
    [
        pytest.param(
            "kernel/unprivileged_userns_clone",
            "0",
            "user namespaces are off on this machine: kernel.unprivileged_userns_clone is 0",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
            id="debian",
        ),
        pytest.param(
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "user namespaces are off on this machine: "
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            id="ubuntu",
        ),
        pytest.param(
            "user/max_user_namespaces",
            "0",
            "user namespaces are off on this machine: user.max_user_namespaces is 0",
            "sudo sysctl user.max_user_namespaces=15000",
            id="hardened",
        ),
        pytest.param(
            "user/max_user_namespaces",
            "100",
            "a sandbox cannot be made on this machine: bwrap: no",
            "inside a container, allow it",
            id="container",
        ),
    ],
)
def test_machines_without_namespaces_say_what_to_do(
    tmp_path: Path, setting: str, value: str, message: str, hint: str
) -> None:
    path = tmp_path / setting
    path.parent.mkdir()
    path.write_text(f"{value}\n")
    program = script(tmp_path, "echo 'bwrap: no' >&2; exit 1")
    with pytest.raises(HostError) as caught:
        namespaces.check([str(program)], tmp_path)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)
    assert caught.value.hint.endswith("use Docker: builder run --engine docker")


def script(folder: Path, body: str) -> Path:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- bubblewrap ---------------------------------------------------------------------------------


def test_this_machines_bubblewrap_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path, "echo bubblewrap 0.9.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bubblewrap.find(tmp_path) == (str(program),)


@pytest.mark.parametrize(
    ("body", "what"),
    [("echo bubblewrap 0.4.1", "is too old"), (None, "is not installed")],
    ids=["old", "none"],
)
def test_without_one_debians_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str | None, what: str
) -> None:
    if body:
        script(tmp_path, body)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BUILDER_DEBIAN_MIRROR", (tmp_path / "empty").as_uri())
    monkeypatch.setattr(debian, "APT_ARCHIVE", tmp_path)
    with pytest.raises(HostError, match=f"bubblewrap {what}, and Debian's") as caught:
        bubblewrap.find(tmp_path)
    assert "apt install bubblewrap" in caught.value.hint


@pytest.mark.network
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="Debian's is pinned for x86-64")
def test_debians_bubblewrap_makes_a_sandbox(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bubblewrap.find(tmp_path)
    assert found == bubblewrap.find(tmp_path)
    assert found[-1].startswith(str(tmp_path))
    monkeypatch.setenv("PATH", before)
    namespaces.check(found)


# --- staying with it ----------------------------------------------------------------------------


class FakeRunning:
    """Ends with 0 at SIGTERM and with 137 at SIGKILL."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.told: list[str] = []
        self._stubborn = stubborn
        self._ended = threading.Event()
        self.removed = False

    def exec(self, argv: Sequence[str]) -> tuple[int, str]:
        raise NotImplementedError

    def signal(self, name: str) -> None:
        self.told.append(name)
        if self._stubborn and name == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._ended.set()

    def logs(self) -> Iterator[str]:
        yield "a line"

    def wait(self, seconds: float) -> int:
        assert self._ended.wait(seconds)
        return 137 if "SIGKILL" in self.told else 0

    def port(self, port: int) -> int:
        return port

    def remove(self) -> None:
        self.removed = True


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_lets_it_finish(capsys: pytest.CaptureFixture[str]) -> None:
    running = FakeRunning()
    assert follow.follow(running, lambda: True, interrupt) == 0
    assert (running.told, running.removed) == (["SIGTERM"], True)
    assert set(capsys.readouterr().err.splitlines()) == {
        "a line",
        "stopping: requests may finish; once more to kill",
    }


def test_the_second_ctrl_c_kills() -> None:
    running = FakeRunning(stubborn=True)
    assert follow.follow(running, lambda: True, interrupt) == 137
    assert running.told == ["SIGTERM", "SIGKILL"]


def test_an_engine_that_fails_is_reported() -> None:
    class Broken(FakeRunning):
        def wait(self, seconds: float) -> int:
            message = "the engine is gone"
            raise HostError(message)

    running = Broken()
    with pytest.raises(HostError, match="the engine is gone"):
        follow.follow(running, lambda: False, interrupt)
    assert running.removed


def test_a_container_that_is_gone_is_not_asked_for_its_port() -> None:
    running = FakeRunning()

    def probe_port(_: object) -> int:
        running.signal("SIGTERM")
        message = "port 8081 is not published"
        raise BuilderError(message)

    run = session.Session(("docker",), "http://nowhere", "tiny", lambda: running, probe_port)
    assert run.run() == 0


# --- what is started ----------------------------------------------------------------------------

TOLD = {
    "model": "tiny",
    "port": 8000,
    "probe_port": 8081,
    "drain": 30,
    "require": {"gpus": 0, "shm_bytes": 1000},
}


def served(**changes: object) -> Image:
    text = json.dumps({**TOLD, **changes})
    return small_image.image([], {**small_image.CONFIG, "Env": [f"BUILDER_SERVE={text}"]})


@pytest.fixture
def port() -> int:
    """One that is free, as far as anybody knows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def made(image: Image, tmp_path: Path, **options: object) -> session.Session:
    return session.of_image(image, session.Options(**options), tmp_path)  # type: ignore[arg-type]


def test_docker_gets_its_command_line(tmp_path: Path, port: int) -> None:
    image = served(require={"gpus": 2, "shm_bytes": 1000})
    run = made(image, tmp_path, engine="docker", port=port, arguments=("--seed", "1"))
    assert run.command == (
        "docker run --rm --read-only --stop-timeout 45 --tmpfs /tmp:exec,mode=1777 "
        f"-v builder-cache-{rootfs.key_of(image)[:16]}:/cache -p 127.0.0.1:{port}:8000 "
        "-p 127.0.0.1::8081 --shm-size 1073741824 --gpus 2 small:1 --seed 1"
    )
    assert (run.url, run.model) == (f"http://127.0.0.1:{port}/v1", "tiny")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--host 127.0.0.1 --port {port}"),
        (("--seed", "1"), "--host 127.0.0.1 --port {port} --seed 1"),
        (("--", "sh"), "-- sh"),
    ],
    ids=["none", "for the engine", "another command"],
)
def test_in_a_sandbox_it_listens_here_alone(
    tmp_path: Path, port: int, arguments: tuple[str, ...], expected: str
) -> None:
    run = made(served(), tmp_path, engine="sandbox", port=port, arguments=arguments)
    assert run.command.endswith(f"-- /bin/sh -c {expected.format(port=port)}")


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {number} on this machine is taken") as caught:
            made(served(), tmp_path, engine="sandbox", port=number)
        assert "--port N" in caught.value.hint
        run = made(served(probe_port=number), tmp_path, engine="sandbox", port=free_beside(number))
        assert f"--setenv BUILDER_PROBE_PORT {number} " not in run.command


def test_an_image_for_gpus_needs_docker(tmp_path: Path, port: int) -> None:
    image = served(require={"gpus": 1, "shm_bytes": 0})
    with pytest.raises(HostError, match="a sandbox has no GPUs"):
        made(image, tmp_path, engine="sandbox", port=port)


def free_beside(taken: int) -> int:
    return ports.free(taken + 1, taken)


def of_reference() -> session.Session:
    return session.of_reference("some/image:1", session.Options(engine="sandbox"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: session.serve_of({"Env": ["A=1"]}, "some/image:1"),
            "some/image:1: was not made by builder: it has no BUILDER_SERVE",
            id="not ours",
        ),
        pytest.param(
            of_reference,
            "some/image:1: the sandbox runs what was built here, and this is no stack file",
            id="reference in the sandbox",
        ),
        pytest.param(
            lambda: made(served(), Path("/nowhere"), arguments=("--port=1",)),
            "--port: belongs before `--`",
            id="port",
        ),
    ],
)
def test_misuse_is_explained(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.message == message
