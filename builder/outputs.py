"""Where a built image goes: `oci:DIR`, `oci-archive:FILE`, `docker`, or a registry.

A place says which layers it has not got, so that nothing is fetched or read for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder import console, files
from builder.digest import hex_of
from builder.errors import UsageError
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.digest import Digest
    from builder.oci.image import Image
    from builder.oci.layer import Layer
    from builder.oci.push import Push, Pushed
    from builder.oci.registry import Settings
    from builder.reference import Reference

SYNTAX = "oci:DIR, oci-archive:FILE or docker"


class Output(Protocol):
    """A place for an image."""

    def check(self) -> None:
        """Refuse a place that cannot take it, before any work is done."""

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return the layers whose bytes `write` will read."""

    def write(self, image: Image) -> None:
        """Bring the image there."""


def every_layer(image: Image) -> frozenset[Digest]:
    """Return the layers of an image."""
    return frozenset(layer.digest for layer in image.layers)


def is_for_one(output: Output) -> bool:
    """Tell whether a place holds one image alone."""
    return isinstance(output, Folder | Archive)


def parse(text: str, *, force: bool = False) -> Output:
    """Return the output that a flag's value names."""
    kind, colon, place = text.partition(":")
    if kind == "docker" and not colon:
        return Docker()
    if kind == "oci" and place:
        return Folder(Path(place))
    if kind == "oci-archive" and place:
        return Archive(Path(place), force)
    message = f"--output: expected {SYNTAX}, got `{text}`"
    raise UsageError(message)


def registry(text: str, mount_from: Sequence[str], plain_http: Sequence[str]) -> Registry:
    """Return the registry that a flag's value names."""
    from builder.oci.registry import Settings
    from builder.reference import parse as parse_reference
    from builder.sources.web import certificates

    settings = Settings(plain_http=frozenset(plain_http), certificates=certificates())
    return Registry(parse_reference(text), tuple(mount_from), settings)


@dataclass(frozen=True)
class Folder:
    """An OCI layout; one that exists is brought up to date."""

    path: Path

    def __str__(self) -> str:
        return f"--output oci:{self.path}"

    def check(self) -> None:
        """Refuse a folder with other things in it."""
        from builder.oci import layout

        layout.check_folder(self.path)

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return the layers that have no blob of their size there."""
        return frozenset(layer.digest for layer in image.layers if not self._has(layer))

    def _has(self, layer: Layer) -> bool:
        path = self.path / "blobs" / "sha256" / hex_of(layer.digest)
        return path.is_file() and path.stat().st_size == layer.size

    def write(self, image: Image) -> None:
        """Write blobs, then the index."""
        from builder.oci import layout

        with console.step(f"wrote {self.path}"), console.progress("write", image.size) as bar:
            layout.write_folder(image, self.path, bar.advance)


@dataclass(frozen=True)
class Archive:
    """A tar archive of an OCI layout."""

    path: Path
    force: bool = False

    def __str__(self) -> str:
        return f"--output oci-archive:{self.path}"

    def check(self) -> None:
        """Refuse to overwrite unless told to."""
        files.check_writable(self.path.parent)
        if self.path.exists() and not self.path.is_file():
            message = f"{self.path}: is no regular file"
            raise UsageError(message, "choose another file")
        if self.path.exists() and not self.force:
            message = f"{self.path}: exists already"
            raise UsageError(message, "add --force to replace it, or choose another file")

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return all: an archive is written anew."""
        return every_layer(image)

    def write(self, image: Image) -> None:
        """Stream the archive into the file."""
        from builder.oci import layout

        with (
            console.step(f"wrote {self.path}"),
            console.progress("write", image.size) as bar,
            files.writing(self.path) as file,
        ):
            for chunk in layout.archive_chunks(image):
                file.write(chunk)
                bar.advance(len(chunk))


@dataclass(frozen=True)
class Docker:
    """The container engine of this machine."""

    def check(self) -> None:
        """Refuse if no engine answers."""
        from builder.engine.docker import Docker as Engine

        Engine.connect()

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return all: engines do not say what they have."""
        return every_layer(image)

    def write(self, image: Image) -> None:
        """Stream the image into the engine."""
        from builder.engine.docker import Docker as Engine
        from builder.oci import layout

        with console.step(f"loaded {image.name}"), console.progress("load", image.size) as bar:
            Engine.connect().load(layout.archive_chunks(image), bar.advance)


@dataclass(frozen=True)
class Cache:
    """This machine's cache: the image is described, and every file of it is here."""

    def check(self) -> None:
        """Take anything."""

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return all: what is here already is not fetched again."""
        return every_layer(image)

    def write(self, image: Image) -> None:
        """Write nothing: layers are in the store, weights where they lie."""


class Registry:
    """A repository of a registry, under a tag: the image's own if none is given."""

    def __init__(
        self, reference: Reference, mount_from: tuple[str, ...], settings: Settings
    ) -> None:
        self.reference = reference
        self.pushed: Pushed | None = None
        self._mount_from, self._settings = mount_from, settings
        self._push: Push | None = None

    def of_cell(self, gpu: str) -> Registry:
        """Return the same place for one image of several: a tag that was given begins its tag.

        Raises:
            UsageError: one image was named.
        """
        named = self.reference
        if named.digest:
            message = f"--push: {named} is one image, and several are built"
            raise UsageError(message, "give a tag instead of the digest, or one GPU: --gpu NAME")
        own = named.with_tag(f"{named.tag}-{gpu}") if named.tag else named
        return Registry(own, self._mount_from, self._settings)

    def check(self) -> None:
        """Refuse a registry that does not answer or let us in, or sources it cannot mount from."""
        from builder.oci.push import source_repository
        from builder.oci.registry import Repository

        for source in self._mount_from:
            source_repository(source, self.reference)
        Repository.open(self.reference, self._settings).require_login()

    def lacks(self, image: Image) -> frozenset[Digest]:
        """Return the layers that are neither there nor can be mounted from where they are."""
        return self._begun(image).lacks()

    def write(self, image: Image) -> None:
        """Send what is lacking, then the manifest, then the tag."""
        push = self._begun(image)
        lacking = push.lacks()
        sizes = {layer.digest: layer.size for layer in image.layers}
        total = sum(sizes[digest] for digest in lacking)
        with (
            console.step(f"pushed {self.reference}"),
            console.progress(f"push {len(lacking)} layers", total) as bar,
        ):
            self.pushed = push.send(bar.advance)
        console.note(_told(self.pushed))

    def _begun(self, image: Image) -> Push:
        """Return the one push of the image; the registry is asked only once what it has."""
        from builder.oci.push import Push
        from builder.oci.registry import Repository
        from builder.reference import parse as parse_reference

        if self._push is None:
            own = parse_reference(image.name)
            if self.reference.tag is None and self.reference.digest is None and own.tag:
                self.reference = self.reference.with_tag(own.tag)
            sources = self._mount_from
            if own.registry == self.reference.registry:
                sources = (*sources, f"{own.registry}/{own.repository}")
            repository = Repository.open(self.reference, self._settings)
            self._push = Push(image, repository, sources)
        return self._push


def _told(pushed: Pushed) -> str:
    again = f", {human_bytes(pushed.sent_again_bytes)} of them again"
    return (
        f"{pushed.sent} blobs sent ({human_bytes(pushed.sent_bytes)}"
        f"{again if pushed.sent_again_bytes else ''}), "
        f"{pushed.mounted} mounted, {pushed.present} there already"
    )
