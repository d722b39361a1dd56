"""Small wheels, made here: what is in them, and what is wrong with them, is in plain sight."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import parse_wheel_filename

from builder.lock import Wheel

Content = str | bytes
EXECUTABLE = 0o100755
REGULAR = 0o100644


def recorded(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def metadata(file: str) -> dict[str, Content]:
    """What every wheel has in its `.dist-info`."""
    name, version, tag = file.removesuffix(".whl").split("-", 2)
    info = f"{name}-{version}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    return {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": wheel,
    }


def info_of(file: str) -> str:
    return "-".join(file.split("-")[:2]) + ".dist-info"


def name_of(file: str) -> str:
    return str(parse_wheel_filename(file)[0])


def archive(
    members: Mapping[str, Content],
    modes: Mapping[str, int] | None = None,
    record: str | None = None,
) -> bytes:
    """A zip of `members`, with a RECORD under that name if one is given."""
    out = io.BytesIO()
    rows = ""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in members.items():
            content = text.encode() if isinstance(text, str) else text
            item = zipfile.ZipInfo(name)
            item.external_attr = (modes or {}).get(name, REGULAR) << 16
            opened.writestr(item, content)
            rows += recorded(name, content)
        if record:
            opened.writestr(zipfile.ZipInfo(record), f"{rows}{record},,\n")
    return out.getvalue()


def write(
    folder: Path,
    file: str,
    members: Mapping[str, Content],
    modes: Mapping[str, int] | None = None,
) -> Wheel:
    """Write a whole wheel into `folder` and return its pin."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {**members, **metadata(file)}
    data = archive(everything, modes, f"{info_of(file)}/RECORD")
    (folder / file).write_bytes(data)
    return pin(file, data)


def pin(file: str, data: bytes) -> Wheel:
    name, version, _, _ = parse_wheel_filename(file)
    return Wheel(
        name=str(name),
        version=str(version),
        file=file,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
