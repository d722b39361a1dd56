"""Push an image: nothing a registry has is read or sent, and a crash leaves no broken image.

Order of writing: blobs, config, manifest by digest, tag.  What a killed push leaves are blobs
that nothing refers to.  Nothing is written to this machine's disk: bytes stream from their
files, and a layer that the registry has needs no file here at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from builder import console
from builder.digest import Digest, of_bytes
from builder.errors import IntegrityError, ResolveError, UsageError
from builder.oci import limits
from builder.oci.image import CONFIG_TYPE, MANIFEST_TYPE, Image
from builder.oci.lanes import side_by_side
from builder.oci.layer import Layer, Piece
from builder.oci.profiles import profile
from builder.oci.refusals import NotFoundError, RejectedError
from builder.reference import Reference, parse
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.oci.refusals import RegistryError
    from builder.oci.registry import Repository

_QUESTIONS = 16
"""Blobs asked for at the same time."""
_UPLOADS = 8
"""Blobs sent at the same time; each holds a few chunks in memory."""


@dataclass(frozen=True)
class Pushed:
    """What a push did.  Counts are of blobs: distinct layers and the config."""

    digest: Digest
    sent_bytes: int
    """Bytes of the blobs that the registry did not have."""
    sent_again_bytes: int
    """Bytes that faults on the way made us send once more."""
    sent: int
    mounted: int
    """Taken over from other repositories of the registry."""
    present: int
    """There already."""


def source_repository(text: str, target: Reference) -> str:
    """Return the repository that `text` names on the registry of `target`.

    A name without a host means that same registry.

    Raises:
        UsageError: it is on another registry, from which nothing can be mounted.
    """
    first, slash, _ = text.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    source = parse(text if has_host else f"{target.registry}/{text}")
    if source.registry != target.registry:
        message = (
            f"--mount-from {text}: registry `{source.registry}` is not the one pushed to, "
            f"`{target.registry}`: blobs are mounted within one registry only"
        )
        raise UsageError(message, f"name a repository of {target.registry}, or leave it out")
    return source.repository


class Push:
    """One image on its way to one repository: `lacks` asks, `send` sends.  Used once."""

    def __init__(
        self, image: Image, repository: Repository, mount_from: Sequence[str] = ()
    ) -> None:
        target = repository.reference
        named = dict.fromkeys(source_repository(text, target) for text in mount_from)
        self._sources = [name for name in named if name != target.repository]
        self._image, self._repository = image, repository
        self._config = _config_blob(image.config)
        self._layers = {layer.digest: layer for layer in image.layers}
        self._lacking: dict[Digest, Layer] | None = None
        self._mounted: frozenset[Digest] = frozenset()
        self._sent: dict[Digest, int] = {}
        """Blobs that were sent, with the bytes that faults made us send once more."""
        self._limits = profile(target.host)
        self._stop = Event()

    def lacks(self) -> frozenset[Digest]:
        """Return the layers whose bytes have to be sent; asks the registry only once.

        Raises:
            PublishError: the registry takes no layer or no manifest of this size.
        """
        return frozenset(self._looked_up()) - {self._config.digest}

    def send(self, advance: Callable[[int], object]) -> Pushed:
        """Send what the registry lacks; `advance` hears of the bytes of layers.

        Raises:
            ResolveError: a layer has to be sent and its file is not here.
            IntegrityError: a file is not what it was when the layer got its digest.
            PublishError: the registry refused.
        """
        lacking = self._looked_up()
        if lacking or self._published() != self._image.digest:
            self._upload(lacking, advance)
            try:
                self._put(self._image.digest)
            except (NotFoundError, RejectedError) as fault:
                self._upload(self._second_look(fault), advance)
                self._put(self._image.digest)
            self._tag()
        return self._pushed()

    # --- asking ---------------------------------------------------------------------------------

    def _looked_up(self) -> dict[Digest, Layer]:
        if self._lacking is None:
            self._check()
            blobs = [*self._layers.values(), self._config]
            absent = self._absent(blobs, self._is_there)
            self._mounted = self._mount_all([blob for blob in absent if blob is not self._config])
            lacking = {blob.digest: blob for blob in absent if blob.digest not in self._mounted}
            self._warn_of_timeout(lacking)
            self._lacking = lacking
        return self._lacking

    def _check(self) -> None:
        target = self._repository.reference
        if target.digest not in {None, self._image.digest}:
            message = f"{target}: expected this digest, got {self._image.digest}"
            raise UsageError(message, "push to a tag")
        limits.check(self._image, self._limits, str(target))

    def _absent(self, blobs: Sequence[Layer], is_there: Callable[[Layer], bool]) -> list[Layer]:
        answers = side_by_side(is_there, blobs, _QUESTIONS, self._stop)
        return [blob for blob, there in zip(blobs, answers, strict=True) if not there]

    def _is_there(self, blob: Layer) -> bool:
        size = self._repository.blob_size(blob.digest)
        if size not in {None, blob.size}:
            place = f"{self._repository.reference}: {blob.title}"
            console.warn(f"{place}: expected {blob.size} bytes, got {size}: sending it again")
        return size == blob.size

    def _mount_all(self, blobs: Sequence[Layer]) -> frozenset[Digest]:
        if not self._sources:
            return frozenset()
        lacking = self._absent(blobs, self._mount)
        return frozenset(blob.digest for blob in blobs if blob not in lacking)

    def _mount(self, blob: Layer) -> bool:
        return any(self._repository.mount(blob.digest, source) for source in self._sources)

    def _warn_of_timeout(self, lacking: Mapping[Digest, Layer]) -> None:
        at_once = sorted(blob.size for blob in lacking.values())[-_UPLOADS:]
        warning = limits.haste(at_once, self._limits)
        if warning:
            console.warn(f"{self._repository.reference}: {warning}")

    def _second_look(self, fault: RegistryError) -> dict[Digest, Layer]:
        """Return what the registry lacks although it answered, to HEAD or mount, that it did not.

        What it answered is not asked again: only bytes that come are believed.
        """
        blobs = (*self._layers.values(), self._config)
        doubted = [blob for blob in blobs if blob.digest not in self._sent]
        absent = self._absent(doubted, self._can_be_read)
        if not absent:
            raise fault
        self._mounted -= {blob.digest for blob in absent}
        return {blob.digest: blob for blob in absent}

    def _can_be_read(self, blob: Layer) -> bool:
        try:
            next(self._repository.blob(blob.digest, blob.size), None)
        except (NotFoundError, IntegrityError):
            return False
        return True

    # --- sending --------------------------------------------------------------------------------

    def _upload(self, lacking: Mapping[Digest, Layer], advance: Callable[[int], object]) -> None:
        layers = [blob for digest, blob in lacking.items() if digest in self._layers]
        layers.sort(key=lambda layer: layer.size, reverse=True)
        for layer in layers:
            _check_files(layer, self._repository.reference)
        told = _serialised(advance)
        side_by_side(lambda layer: self._send_blob(layer, told), layers, _UPLOADS, self._stop)
        if self._config.digest in lacking:
            self._send_blob(self._config, lambda _: None)

    def _send_blob(self, blob: Layer, advance: Callable[[int], object]) -> None:
        again = self._repository.upload(blob.digest, blob.size, lambda: self._chunks(blob), advance)
        self._sent[blob.digest] = again

    def _chunks(self, blob: Layer) -> Iterator[bytes]:
        """Yield the bytes, the last ones only when all are known to be right.

        A registry therefore never gets the whole of a layer that is not what its digest says.
        """
        held = b""
        for chunk in blob.chunks():
            if self._stop.is_set():
                raise _Stopped
            if held:
                yield held
            held = chunk or held
        yield held

    def _put(self, name: str) -> None:
        self._repository.put_manifest(self._image.manifest, MANIFEST_TYPE, name)

    def _tag(self) -> None:
        target, ours = self._repository.reference, self._image.digest
        if target.tag is None:
            return
        self._put(target.tag)
        found = self._published()
        if found != ours:
            why = "somebody else moved the tag at the same time" if found else "not shown yet"
            console.warn(
                f"{target}: expected {ours}, got {found or 'nothing'}: {why}; "
                "this image is there by its digest"
            )

    def _published(self) -> Digest | None:
        """Return the digest of what the registry has under our tag, or under our digest."""
        name = self._repository.reference.tag or self._image.digest
        try:
            return self._repository.manifest(name).digest
        except NotFoundError:
            return None

    def _pushed(self) -> Pushed:
        blobs = {**self._layers, self._config.digest: self._config}
        return Pushed(
            digest=self._image.digest,
            sent_bytes=sum(blobs[digest].size for digest in self._sent),
            sent_again_bytes=sum(self._sent.values()),
            sent=len(self._sent),
            mounted=len(self._mounted),
            present=len(blobs) - len(self._sent) - len(self._mounted),
        )


class _Stopped(Exception):  # noqa: N818 - another blob failed, not this one
    """Ends an upload whose push has failed."""


def _config_blob(data: bytes) -> Layer:
    """Return the config as what layers are to a registry: a blob."""
    digest = of_bytes(data)
    return Layer(
        digest=digest,
        size=len(data),
        diff_id=digest,
        media_type=CONFIG_TYPE,
        title="config",
        pieces=(data,),
    )


def _check_files(layer: Layer, target: Reference) -> None:
    """Refuse, before any byte moves, a layer that cannot be sent."""
    place = f"{target}: layer {layer.title}"
    paths = [piece for piece in layer.pieces if isinstance(piece, Path)]
    absent = ", ".join(str(path) for path in paths if not path.is_file())
    if absent:
        size = human_bytes(layer.size)
        message = f"{place}: neither the registry nor this machine has it ({size}): {absent}"
        hint = "run builder fetch with the stack, or name a repository that has it: --mount-from"
        raise ResolveError(message, hint)
    actual = sum(_length(piece) for piece in layer.pieces)
    if actual != layer.size:
        names = ", ".join(map(str, paths))
        message = f"{place}: expected {layer.size} bytes, got {actual}: {names}"
        raise IntegrityError(message, "restore the file, or run builder lock with the stack")


def _length(piece: Piece) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    return piece.stat().st_size if isinstance(piece, Path) else piece.size


def _serialised(advance: Callable[[int], object]) -> Callable[[int], object]:
    lock = Lock()

    def told(count: int) -> None:
        with lock:
            advance(count)

    return told
