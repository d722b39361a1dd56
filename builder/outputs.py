"""Where a built image goes: `oci:DIR`, `oci-archive:FILE` or `docker`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder import console, files
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.oci.image import Image

SYNTAX = "oci:DIR, oci-archive:FILE or docker"


class Output(Protocol):
    """A place for an image."""

    def check(self) -> None:
        """Refuse a place that cannot take it, before any work is done."""

    def write(self, image: Image) -> None:
        """Bring the image there."""


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


@dataclass(frozen=True)
class Folder:
    """An OCI layout; one that exists is brought up to date."""

    path: Path

    def check(self) -> None:
        """Refuse a folder with other things in it."""
        from builder.oci import layout

        layout.check_folder(self.path)

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

    def check(self) -> None:
        """Refuse to overwrite unless told to."""
        files.check_writable(self.path.parent)
        if self.path.exists() and not self.path.is_file():
            message = f"{self.path}: is no regular file"
            raise UsageError(message, "choose another file")
        if self.path.exists() and not self.force:
            message = f"{self.path}: exists already"
            raise UsageError(message, "add --force to replace it, or choose another file")

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

    def write(self, image: Image) -> None:
        """Stream the image into the engine."""
        from builder.engine.docker import Docker as Engine
        from builder.oci import layout

        with console.step(f"loaded {image.name}"), console.progress("load", image.size) as bar:
            Engine.connect().load(layout.archive_chunks(image), bar.advance)
