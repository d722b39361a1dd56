"""Small Debian packages, made here."""

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import zstandard

from builder.lock import DebianPackage

Content = str | bytes | tarfile.TarInfo
Member = Content | tuple[tarfile.TarInfo, bytes]


def special(kind: bytes, target: str = "", mode: int = 0o777) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def executable(content: bytes, mode: int) -> tuple[tarfile.TarInfo, bytes]:
    info = special(tarfile.REGTYPE, mode=mode)
    info.size = len(content)
    return info, content


def packed(files: Mapping[str, Member]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            if isinstance(content, str | bytes):
                data = content.encode() if isinstance(content, str) else content
                info, data = executable(data, 0o644)
            elif isinstance(content, tuple):
                info, data = content
            else:
                info, data = content, b""
            info.name = f"./{path}"
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write(
    folder: Path, name: str, files: Mapping[str, Member], ending: str = ".xz"
) -> tuple[DebianPackage, Path]:
    """Write a package into `folder`; returns its pin and where it lies."""
    control = f"Package: {name}\nVersion: 1:1.0\nArchitecture: amd64\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": COMPRESS[".gz"](packed({"control": control})),
        f"data.tar{ending}": COMPRESS[ending](packed(files)),
    }
    path = folder / f"{name}.deb"
    path.write_bytes(ar(members))
    data = path.read_bytes()
    pin = DebianPackage(
        name=name,
        version="1:1.0",
        architecture="amd64",
        path=f"pool/{name}.deb",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return pin, path
