"""The registry matrix: what the client makes of everything a registry can do to it.

`python -m tests.registry_matrix` prints it as a Markdown table.
"""

import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import urllib3

from builder.digest import Digest, of_bytes
from builder.errors import BuilderError
from builder.oci.image import MANIFEST_TYPE, Image, make_image
from builder.oci.layer import Layer
from builder.oci.push import Push, Pushed
from builder.oci.registry import Repository, Settings
from builder.reference import parse
from tests.registry_behaviours import BEHAVIOURS, Behaviour
from tests.registry_content import Manifest
from tests.registry_faults import Script
from tests.registry_server import Registry, certificate, serving

REPOSITORY, SOURCE, TAG = "demo/app", "demo/base", "1.0"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
QUICK = 0.5
"""Seconds that a registry may be silent where the test waits for just that."""
_TIMEOUT = urllib3.Timeout


@dataclass
class Outcome:
    """What came of one behaviour."""

    result: str
    """`pushed`, `read`, or the class of the error."""
    text: str
    """What the person is told: message, hint and notes."""
    message: str = ""
    pushed: Pushed | None = None
    received: int = 0
    """Bytes of blobs that arrived, wherever."""
    lacked: int = 0
    """Bytes of blobs that the registry did not have."""
    progress: int = 0
    struck: int = 0
    """How often something went wrong."""
    slept: list[float] = field(default_factory=list)
    published: bool = False
    """The tag names the image."""
    violations: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """What was asked of other hosts."""

    @property
    def again(self) -> int:
        """Bytes that arrived more than once."""
        return max(0, self.received - self.lacked)


@dataclass
class Stage:
    """A registry, an image, and a client with credentials that must not get out."""

    registry: Registry
    behaviour: Behaviour
    image: Image
    repository: Repository | None = None
    now: list[float] = field(default_factory=lambda: [1000.0])
    slept: list[float] = field(default_factory=list)
    progress: int = 0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now[0] += seconds

    def advance(self, count: int) -> None:
        self.progress += count

    def open(self, certificates: str | None) -> Repository:
        hosts = frozenset() if self.behaviour.tls else frozenset({self.registry.host})
        settings = Settings(hosts, certificates, self.sleep, lambda: 0.5, lambda: self.now[0])
        return Repository.open(parse(f"{self.registry.host}/{REPOSITORY}:{TAG}"), settings)

    def prepare(self) -> None:
        """Put what the act reads, or mounts, where it is read from."""
        content, image = self.registry.content, self.image
        home = SOURCE if self.behaviour.act == "push" else REPOSITORY
        if self.behaviour.mount or self.behaviour.present or self.behaviour.act != "push":
            for layer in image.layers:
                content.add_blob(home, b"".join(layer.chunks()))
                if self.behaviour.present:
                    content.mount(REPOSITORY, layer.digest, home)
        if self.behaviour.act in {"manifest", "referrers"}:
            content.add_blob(REPOSITORY, image.config)
            content.put_manifest(REPOSITORY, TAG, Manifest(image.manifest, MANIFEST_TYPE))
        if self.behaviour.act == "referrers":
            content.put_manifest(REPOSITORY, "note", self.note())
            content.put_manifest(REPOSITORY, image.digest.replace(":", "-"), self.index())

    def note(self) -> Manifest:
        fields = {"schemaVersion": 2, "artifactType": "text/note"}
        fields |= {"config": json.loads(self.image.manifest)["config"], "layers": []}
        fields |= {"subject": {"digest": self.image.digest}}
        return Manifest(json.dumps(fields).encode(), MANIFEST_TYPE)

    def index(self) -> Manifest:
        """The list of referrers under the tag that stands in for the API."""
        note = self.note()
        entry = {"mediaType": note.media_type, "digest": of_bytes(note.data), "size": 1}
        fields = {"schemaVersion": 2, "manifests": [entry | {"artifactType": "text/note"}]}
        return Manifest(json.dumps(fields).encode(), MANIFEST_TYPE)

    def act(self, repository: Repository) -> Pushed | None:
        image = self.image
        if self.behaviour.act == "push":
            sources = (SOURCE,) if self.behaviour.mount else ()
            push = Push(image, repository, sources)
            push.lacks()
            return push.send(self.advance)
        if self.behaviour.act == "blob":
            layer = image.layers[0]
            got = b"".join(repository.blob(layer.digest, layer.size))
            assert of_bytes(got) == layer.digest
        elif self.behaviour.act == "manifest":
            assert repository.manifest(TAG).data == image.manifest
        else:
            found = repository.referrers(image.digest, "text/note")
            assert [entry["digest"] for entry in found] == [of_bytes(self.note().data)]
        return None

    def secrets(self) -> set[str]:
        access = self.registry.access
        return {access.password, pair(access.user, access.password), *access.tokens}

    def leaks(self, text: str) -> list[str]:
        """Where a secret shows that should not."""
        found = [f"said: {secret}" for secret in self.secrets() if secret in text]
        for request in self.registry.requests:
            carried = f"{request.headers} {request.target}"
            foreign = request.role in {"elsewhere", "plain"}
            if foreign and any(secret in carried for secret in self.secrets()):
                found.append(f"sent to {request.role}: {request.words}")
        return found

    def lacked(self) -> int:
        held = self.registry.content.held[REPOSITORY].blobs if self.behaviour.present else set()
        sizes = {layer.digest: layer.size for layer in self.image.layers}
        sizes[of_bytes(self.image.config)] = len(self.image.config)
        return sum(size for digest, size in sizes.items() if digest not in held)

    def is_published(self) -> bool:
        return self.registry.content.held[REPOSITORY].tags.get(TAG) == self.image.digest


def pair(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def image_of(folder: Path, size: int) -> Image:
    """Two layers of the same size, so that any of them is `one blob`."""
    layers = []
    for name in ("first", "second"):
        path = folder / name
        path.write_bytes(name.encode() * (size // len(name)))
        digest: Digest = of_bytes(path.read_bytes())
        layer = Layer(
            digest=digest,
            size=path.stat().st_size,
            diff_id=digest,
            media_type=LAYER_TYPE,
            title=name,
            pieces=(path,),
        )
        layers.append(layer)
    return make_image("demo", "linux/amd64", layers, {}, "2026-01-01T00:00:00Z")


def capped(connect: float, read: float) -> urllib3.Timeout:
    return _TIMEOUT(connect=connect, read=min(read, QUICK))


@contextlib.contextmanager
def surroundings(registry: Registry, behaviour: Behaviour) -> Iterator[io.StringIO]:
    """Log in, keep the proxy out, and collect what is said."""
    access = registry.access
    login = {"auth": pair(access.user, access.password)} if behaviour.login else {}
    config = json.dumps({"auths": {registry.host: login}})
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment = mock.patch.dict(os.environ, kept | {"DOCKER_AUTH_CONFIG": config}, clear=True)
    timeout = mock.patch("urllib3.Timeout", capped if behaviour.quick else _TIMEOUT)
    with environment, timeout, contextlib.redirect_stderr(io.StringIO()) as said:
        yield said


def play(behaviour: Behaviour, folder: Path, pem: Path | None = None) -> Outcome:
    """Let the client meet one behaviour."""
    (folder / "registry").mkdir()
    with serving(folder / "registry", pem if behaviour.tls else None) as registry:
        stage = Stage(registry, behaviour, image_of(folder, behaviour.layer))
        registry.access.mode, registry.ways = behaviour.auth, behaviour.ways
        registry.access.clock = lambda: stage.now[0]
        stage.prepare()
        lacked, script = stage.lacked(), Script(behaviour.rules(stage.image))
        registry.plan = script
        with surroundings(registry, behaviour) as said:
            outcome = attempt(stage, partial(stage.open, str(pem) if behaviour.tls else None))
        outcome.text += said.getvalue()
        outcome.lacked, outcome.received = lacked, registry.received()
        outcome.struck = max(script.struck, failed_uploads(registry))
        outcome.slept, outcome.progress = stage.slept, stage.progress
        outcome.published, outcome.leaks = stage.is_published(), stage.leaks(outcome.text)
        outcome.violations = registry.content.violations()
        outcome.foreign = registry.words("elsewhere") + registry.words("plain")
        return outcome


def failed_uploads(registry: Registry) -> int:
    return sum(r.words == "PUT upload" and r.status != 201 for r in registry.requests)


def attempt(stage: Stage, opened: Callable[[], Repository]) -> Outcome:
    try:
        pushed = stage.act(opened())
    except BuilderError as fault:
        return Outcome(type(fault).__name__, f"{fault.message}\n{fault.hint}\n", fault.message)
    return Outcome("pushed" if pushed else "read", "", pushed=pushed)


def at_most(blobs: int) -> str:
    """What the tests hold the client to: blobs sent once more, whole or in part."""
    return f"≤ {blobs} blob{'s' if blobs > 1 else ''}" if blobs else "none"


def row(behaviour: Behaviour, outcome: Outcome) -> str:
    said = outcome.result if outcome.result in {"pushed", "read"} else f"`{outcome.result}`"
    return f"| {behaviour.name} | {said} | {at_most(behaviour.again)} |\n"


def total(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.result for outcome in outcomes)
    good = counts["pushed"] + counts["read"]
    again, struck = (sum(getattr(each, name) for each in outcomes) for name in ("again", "struck"))
    return (
        f"{len(outcomes)} behaviours: {good} succeed, {len(outcomes) - good} are told; "
        f"{again} bytes sent again in {struck} faults\n"
    )


def main(write: Callable[[str], Any] = sys.stdout.write) -> None:
    outcomes = []
    write("| A registry with | Outcome | Sent again |\n|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        pem = certificate(Path(folder))
        for number, behaviour in enumerate(BEHAVIOURS):
            place = Path(folder) / str(number)
            place.mkdir()
            outcomes.append(play(behaviour, place, pem))
            write(row(behaviour, outcomes[-1]))
    sys.stderr.write(total(outcomes))


if __name__ == "__main__":
    main()
