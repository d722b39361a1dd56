"""Docker as an engine, on a tiny image made of this machine's own shell."""

import re
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.engine.docker import Docker, Started
from builder.engine.protocol import Container, Mount
from builder.errors import BuilderError, HostError, UsageError
from builder.oci import layout
from builder.oci.image import Image, make_image
from builder.oci.store import Store
from builder.oci.tar import TarWriter

pytestmark = pytest.mark.engine

CREATED = "2026-01-01T00:00:00Z"
PROGRAMS = {"bin/sh": "/bin/sh", "bin/sleep": "/bin/sleep", "bin/id": "/usr/bin/id"}
SERVER = "trap 'echo stopping; exit 0' TERM; echo one; echo two; sleep 1000 & wait"
SECONDS = 30


def libraries(program: str) -> set[str]:
    """Shared libraries of a program of this machine, loader included."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def fill(writer: TarWriter) -> None:
    files = dict(PROGRAMS)
    for program in PROGRAMS.values():
        files |= {path.lstrip("/"): path for path in libraries(program)}
    for path, source in sorted(files.items()):
        content = Path(source).read_bytes()
        writer.parents(path)
        writer.file(path, len(content), iter((content,)), 0o755)
    for folder in ("data", "proc", "tmp"):
        writer.directory(folder, 0o777)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    engine = Docker.connect()
    yield engine
    engine.client.close()


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    layer = Store(tmp_path_factory.mktemp("store")).build_layer("shell", "none", fill)
    config = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": [], "Env": ["PATH=/bin"]}
    name = f"builder-test/shell:{uuid.uuid4().hex}"
    made = make_image(name, "linux/amd64", (layer,), config, CREATED)
    counted: list[int] = []
    docker.load(layout.archive_chunks(made), counted.append)
    assert sum(counted) == sum(map(len, layout.archive_chunks(made)))
    yield made
    docker.client.images.remove(name, force=True)


@pytest.fixture
def server(docker: Docker, image: Image) -> Iterator[Started]:
    started = docker.start(Container(image=image.name, arguments=(SERVER,), ports={8000: 0}))
    yield started
    started.remove()


def ignore(count: int) -> None:
    """Take no notice of progress."""


def ended(docker: Docker, container: Container) -> tuple[int, list[str]]:
    started = docker.start(container)
    try:
        return started.wait(SECONDS), list(started.logs())
    finally:
        started.remove()


def test_loaded_image_is_there(docker: Docker, image: Image) -> None:
    assert docker.bring(image.name) == docker.bring(docker.bring(image.name))


def test_damaged_archive_is_refused(docker: Docker) -> None:
    with pytest.raises(HostError, match="the container engine did not take the image: "):
        docker.load(iter((b"this is no archive" * 100,)), ignore)


def test_fault_of_the_source_passes_through(docker: Docker) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(1024)
        message = "the file changed on disk"
        raise BuilderError(message)

    with pytest.raises(BuilderError, match="the file changed on disk"):
        docker.load(chunks(), ignore)


def test_unknown_image_is_an_error(docker: Docker) -> None:
    reference = "localhost:1/no/such-image:1"
    with pytest.raises(UsageError, match=f"{reference}: the engine has no such image"):
        docker.bring(reference)


def test_logs_come_in_order_to_the_end(docker: Docker, image: Image) -> None:
    run = Container(image=image.name, arguments=("echo one; echo two; printf three; exit 3",))
    assert ended(docker, run) == (3, ["one", "two", "three"])


def test_exec_returns_code_and_output(server: Started) -> None:
    assert server.exec(["/bin/sh", "-c", "echo out; exit 4"]) == (4, "out\n")


def test_signal_reaches_process_1(server: Started) -> None:
    lines = server.logs()
    assert [next(lines), next(lines)] == ["one", "two"]  # the trap is set by now
    server.signal("SIGTERM")
    assert server.wait(SECONDS) == 0
    assert list(lines) == ["stopping"]


def test_waiting_has_an_end(server: Started) -> None:
    with pytest.raises(TimeoutError, match="still runs after 1 s"):
        server.wait(1)


def test_port_is_published_on_this_machine_alone(server: Started) -> None:
    port = server.port(8000)
    assert server.handle.ports["8000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]


def test_unpublished_port_is_an_error(server: Started) -> None:
    with pytest.raises(BuilderError, match="port 1234 is not published"):
        server.port(1234)


def test_taken_port_is_named_and_nothing_left(docker: Docker, image: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        run = Container(image=image.name, arguments=(SERVER,), ports={8000: port})
        with pytest.raises(HostError, match=f"^port {port} on this machine is taken$"):
            docker.start(run)
    assert docker.client.containers.list(all=True, filters={"ancestor": image.name}) == []


def test_program_that_is_not_there_is_an_error(docker: Docker, image: Image) -> None:
    run = Container(image=image.name, arguments=("true",), user="nobody-here")
    with pytest.raises(HostError, match=f"{image.name}: the container did not start: "):
        docker.start(run)


def test_error_tells_state_and_last_lines(server: Started) -> None:
    server.signal("SIGKILL")
    assert server.wait(SECONDS) == 137
    with pytest.raises(BuilderError) as caught:
        server.exec(["/bin/sh"])
    assert "it is exited, exit code 137; its last lines:\none\ntwo" in caught.value.message


def test_removing_twice_is_fine(server: Started) -> None:
    server.remove()
    server.remove()


def test_container_is_as_sealed_as_asked(docker: Docker, image: Image) -> None:
    script = "id -u; id -g; (echo x > /data/x) 2>/dev/null || echo read-only; echo x > /tmp/x"
    run = Container(
        image=image.name,
        arguments=(script,),
        user="4321:0",
        is_read_only=True,
        has_network=False,
        mounts=(Mount("/tmp"),),
        shared_memory=1 << 26,
    )
    assert ended(docker, run) == (0, ["4321", "0", "read-only"])


def test_folder_of_this_machine_is_mounted(docker: Docker, image: Image, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    run = Container(
        image=image.name,
        arguments=('echo "$WHAT" > /data/file',),
        environment={"WHAT": "content"},
        mounts=(Mount("/data", str(tmp_path)),),
    )
    assert ended(docker, run) == (0, [])
    assert (tmp_path / "file").read_text() == "content\n"
