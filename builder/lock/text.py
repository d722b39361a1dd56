"""The lock as a file: canonical, sorted, byte-identical when nothing changed.

The file carries a digest of its own content, so that a lock edited or merged by hand is
noticed before anything is built from it.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from packaging.pylock import Pylock, PylockValidationError
from packaging.version import Version
from pydantic import ValidationError

from builder import files
from builder.digest import of_bytes
from builder.errors import IntegrityError, StaleLockError, UsageError
from builder.lock.schema import LOCK_VERSION, Lock, Wheel, wheel_fault

if TYPE_CHECKING:
    import tomlkit
    from tomlkit.items import Table

_HEADING = "Made by `builder lock`: change the stack and lock again, do not edit."
_NO_DIGEST = "0" * 64


def path_for(stack_path: Path, name: str) -> Path:
    """Return where the lock of a stack lies: `lockfiles/` of a project, else beside the stack."""
    folder = stack_path.parent
    if folder.resolve().name == "stacks":
        # As the stack was written: a short relative path reads better in messages.
        folder = Path(os.path.normpath(folder / os.pardir / "lockfiles"))
    return folder / f"pylock.{name}.toml"


def read(path: Path) -> Lock:
    """Return the lock in `path`.

    Raises:
        UsageError: there is none.
        StaleLockError: it was made by a newer builder.
        IntegrityError: it is damaged or was edited by hand.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        message = f"{path}: there is no lock"
        raise UsageError(message, "run builder lock with the stack") from None
    except (OSError, UnicodeDecodeError) as fault:
        strerror = fault.strerror or str(fault) if isinstance(fault, OSError) else "not UTF-8"
        message = f"{path}: cannot be read: {strerror[0].lower()}{strerror[1:]}"
        raise IntegrityError(message, _relock_hint()) from fault
    return loads(text, str(path))


def write(path: Path, lock: Lock) -> bool:
    """Write `lock` unless the file has this content already; return whether it was written."""
    data = dumps(lock).encode()
    if path.exists() and path.read_bytes() == data:
        return False
    files.write_atomic(path, data)
    return True


def loads(text: str, place: str) -> Lock:
    """Parse a lock; `place` is what errors call it."""
    try:
        document = tomllib.loads(text)
        ours = document["tool"]["builder"]
        _check_version(ours["version"], place)
        Pylock.from_dict(document)
    except (tomllib.TOMLDecodeError, PylockValidationError) as fault:
        message = f"{place}: is not a lock of builder: {fault}"
        raise IntegrityError(message, _relock_hint()) from fault
    except (KeyError, TypeError) as fault:
        message = f"{place}: is not a lock of builder: it has no `tool.builder.version`"
        raise IntegrityError(message, _relock_hint()) from fault
    except ValueError as fault:  # of a number of thousands of digits
        message = f"{place}: is not a lock of builder: a number in it is too long"
        raise IntegrityError(message, _relock_hint()) from fault
    except RecursionError:  # pragma: no cover - it would end the measuring of coverage
        message = f"{place}: is not a lock of builder: it is nested too deeply"
        raise IntegrityError(message, _relock_hint()) from None
    _check_digest(text, str(ours.get("digest", "")), place)
    return _from_document(document, place)


def _check_version(version: Any, place: str) -> None:
    """Refuse a newer lock before anything else in it is looked at."""
    if version == LOCK_VERSION:
        return
    age = "a newer" if isinstance(version, int) and version > LOCK_VERSION else "another"
    read = f"(lock version {version}, this one reads {LOCK_VERSION})"
    message = f"{place}: was made by {age} builder {read}"
    raise StaleLockError(message, "use that builder, or remove the file and run builder lock")


def _check_digest(text: str, digest: str, place: str) -> None:
    neutral = text.replace(digest, f"sha256:{_NO_DIGEST}", 1) if digest else text
    actual = hashlib.sha256(neutral.encode()).hexdigest()
    if digest != f"sha256:{actual}":
        message = f"{place}: was edited: its content is not what its digest says"
        raise IntegrityError(message, _relock_hint())


def _relock_hint() -> str:
    return "restore the file, or remove it and run builder lock with the stack"


def _from_document(document: Mapping[str, Any], place: str) -> Lock:
    ours = dict(document["tool"]["builder"])
    for key in ("version", "digest", "source-date-epoch"):
        ours.pop(key, None)
    if isinstance(cells := ours.get("cells"), Mapping):
        ours["cells"] = [_named(name, cell) for name, cell in cells.items()]
    try:
        ours["wheels"] = [_wheel(package) for package in document.get("packages", ())]
    except (KeyError, ValueError) as fault:
        message = f"{place}: packages: each needs one wheel with path, size and sha256"
        raise IntegrityError(message, _relock_hint()) from fault
    try:
        lock = Lock.model_validate(_tuples(ours))
    except ValidationError as fault:
        first = fault.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = f"{place}: {field}: {first['msg'].lower()}"
        raise IntegrityError(message, _relock_hint()) from fault
    for wheel in lock.wheels:
        if reason := wheel_fault(wheel):
            message = f"{place}: {reason}"
            raise IntegrityError(message, _relock_hint())
    return lock


def _named(name: str, cell: Any) -> Any:
    """Return a cell as the schema has it: in the file its name is the table's."""
    return {"name": name, **cell} if isinstance(cell, Mapping) else cell


def _wheel(package: Mapping[str, Any]) -> dict[str, Any]:
    (wheel,) = package["wheels"]
    return {
        "name": package["name"],
        "version": str(Version(package["version"])),
        "file": PurePosixPath(wheel["path"]).name,
        "size": wheel["size"],
        "sha256": wheel["hashes"]["sha256"],
        "uploaded": wheel.get("upload-time"),
    }


def _tuples(value: Any) -> Any:
    """TOML has arrays, our values have tuples; the stack keeps its lists."""
    if isinstance(value, dict):
        return {key: item if key == "stack" else _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def dumps(lock: Lock) -> str:
    """Return the canonical text of `lock`."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment(_HEADING))
    document.add("lock-version", tomlkit.item("1.0"))
    document.add("created-by", tomlkit.item("builder"))
    document.add("requires-python", tomlkit.item(f"=={lock.base.python_series}.*"))
    packages = tomlkit.aot()
    for wheel in sorted(lock.wheels, key=lambda wheel: wheel.name):
        packages.append(_package(wheel))
    document.add("packages", packages)
    document.add("tool", _tool(lock))
    text = tomlkit.dumps(document)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_NO_DIGEST, digest, 1)


def digest_of(lock: Lock) -> str:
    """Return the digest of a lock's text, by which images and Dockerfiles name it."""
    return of_bytes(dumps(lock).encode())


def _package(wheel: Wheel) -> Table:
    entry: dict[str, Any] = {"path": f"wheels/{wheel.file}", "size": wheel.size}
    if wheel.uploaded:
        entry["upload-time"] = wheel.uploaded
    entry["hashes"] = {"sha256": wheel.sha256}
    return _table({"name": wheel.name, "version": wheel.version, "wheels": [entry]})


def _tool(lock: Lock) -> Table:
    import tomlkit

    ours = {
        "version": LOCK_VERSION,
        "digest": f"sha256:{_NO_DIGEST}",
        "source-date-epoch": lock.source_date_epoch,
        **lock.model_dump(
            exclude={"wheels"} if lock.code else {"wheels", "code"}, exclude_none=True
        ),
    }
    cells = {cell.pop("name"): _given(cell) for cell in ours.pop("cells")}
    if cells:
        ours["cells"] = cells
    tool = tomlkit.table(is_super_table=True)
    tool.add("builder", _table(ours))
    return tool


def _given(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a cell does not say."""
    return {key: value for key, value in cell.items() if value != {}}


def _table(values: Mapping[str, Any]) -> Table:
    """Return a table: plain values first, then arrays, then tables, so that TOML reads flat."""
    import tomlkit

    table = tomlkit.table()
    given = {key: value for key, value in values.items() if value is not None}  # TOML has no null
    for key, value in sorted(given.items(), key=lambda item: _rank(item[1])):
        if isinstance(value, Mapping):
            table.add(key, _table(value))
        elif _is_list_of_tables(value):
            table.add(key, tomlkit.aot())
            for item in value:
                table[key].append(_table(item))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            table.add(key, _array(value))
        else:
            table.add(key, tomlkit.item(value))
    return table


def _rank(value: Any) -> int:
    return 1 if isinstance(value, Mapping) or _is_list_of_tables(value) else 0


def _is_list_of_tables(value: Any) -> bool:
    """Tell whether items hold lists themselves and so do not fit on a line each."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return any(
        isinstance(item, Mapping) and any(isinstance(part, list | tuple) for part in item.values())
        for item in value
    )


def _array(values: Sequence[Any]) -> tomlkit.items.Array:
    import tomlkit

    if any(isinstance(value, Mapping) for value in values):
        # Not by `append`, which looks at every item before it: locks name thousands of files.
        items = [_inline(value) for value in values]
        return tomlkit.items.Array(items, tomlkit.items.Trivia()).multiline(True)  # noqa: FBT003
    array = tomlkit.array()
    for value in values:
        array.append(_inline(value))
    return array


def _inline(value: Any) -> Any:
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, item in value.items():
            if item is not None:
                table.append(key, _inline(item))
        return table
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _array(value)
    return tomlkit.item(value)
