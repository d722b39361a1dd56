"""The registry and the engines that contenders work against: started here, and used by nobody else.

Emptying them between runs must not touch what the user of this machine has, so they have
storage, sockets and ports of their own, and end with the benchmark.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

_WAIT_SECONDS = 60
_HOME = Path(os.environ.get("ENGINE_HOME", "/opt/builder-engine"))
"""Where `.ci/docker-engine start` unpacks programs."""
_REQUEST = re.compile(r'"(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP')


def search_path() -> str:
    """Return PATH with the places where engines lie."""
    own = [str(_HOME / "usr/bin"), str(_HOME / "usr/sbin")]
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def found(program: str) -> bool:
    """Tell whether a program is on this machine."""
    return shutil.which(program, path=search_path()) is not None


class _Service:
    """A program that runs until the block ends."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self, command: Sequence[str], answers: Callable[[], bool]) -> None:
        environment = os.environ | {"PATH": search_path()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + _WAIT_SECONDS
        while not answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                message = f"{self.name}: does not answer, see {self.log}"
                raise SystemExit(message)
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and remove what it stored."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_WAIT_SECONDS)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Registry(_Service):
    """Docker's registry over plain HTTP, with a log of what it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__("registry", folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        settings = {
            "version": "0.1",
            "log": {"level": "warn"},
            "http": {"addr": self.host, "secret": "of no use to anybody"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "registry.yml"
        path.write_text(json.dumps(settings), "utf-8")  # JSON is YAML
        self._launch(["docker-registry", "serve", str(path)], self._answers)
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def empty(self) -> None:
        """Forget every blob; it holds no state but its files."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def mark(self) -> int:
        """Return a place in the log for `requests_since`."""
        return self.log.stat().st_size

    def requests_since(self, mark: int) -> dict[str, int]:
        """Count what was asked: `HEAD blobs`, `PUT manifests`, …."""
        with self.log.open("rb") as log:
            log.seek(mark)
            text = log.read().decode(errors="replace")
        return dict(Counter(_kind(*match) for match in _REQUEST.findall(text)))


def _kind(method: str, target: str) -> str:
    path, _, query = target.partition("?")
    if "mount=" in query:
        return f"{method} mount"
    if "/blobs/uploads" in path:
        return f"{method} upload"
    what = next((word for word in ("blobs", "manifests", "tags") if f"/{word}/" in path), "/v2/")
    return f"{method} {what}"


class Engine(_Service):
    """A Docker engine with its own images, and no network for containers."""

    def __init__(self, name: str, folder: Path, *, containerd_store: bool) -> None:
        super().__init__(name, folder)
        self._has_containerd_store = containerd_store
        # A socket's path may have 107 bytes.
        self._run = Path(tempfile.mkdtemp(prefix="builder-benchmark-"))
        self.socket = f"unix://{self._run}/docker.sock"

    def __enter__(self) -> Self:
        features = {"features": {"containerd-snapshotter": self._has_containerd_store}}
        settings = self._run / "daemon.json"
        settings.write_text(json.dumps(features), "utf-8")
        command = ["dockerd", "--host", self.socket, "--config-file", str(settings)]
        command += ["--data-root", str(self.folder / "data"), "--exec-root", str(self._run / "x")]
        command += ["--pidfile", str(self._run / "pid"), "--containerd-namespace", self._run.name]
        command += ["--bridge", self._bridge(), "--iptables=false", "--ip6tables=false"]
        self._launch(command, lambda: self.docker("version").returncode == 0)
        return self

    def _bridge(self) -> str:
        """Make a bridge of its own: an engine without one would remove the other engine's."""
        name = f"bench-{self.name}"[:15]
        # One whose benchmark was killed may still be there.
        _ip("link", "add", name, "type", "bridge", check=False)
        _ip("addr", "replace", f"198.18.{len(self.name)}.1/24", "dev", name)
        return name

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line client, untimed."""
        return subprocess.run(
            [*self.client(), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": search_path()},
        )

    def client(self) -> tuple[str, ...]:
        """Return the words before the arguments of `docker`."""
        return ("env", f"DOCKER_HOST={self.socket}", "BUILDX_BUILDER=default", "docker")

    def empty(self) -> None:
        """Remove every image and the build cache."""
        self.docker("container", "prune", "-f")
        self.docker("image", "prune", "-af")
        self.docker("builder", "prune", "-af")

    def stop(self) -> None:
        super().stop()
        _ip("link", "delete", f"bench-{self.name}"[:15], check=False)
        shutil.rmtree(self._run, ignore_errors=True)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)
