"""The reader of the tables: strict, and with the place of every fault."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from builder import catalogue
from builder.catalogue import cards, code, drivers, flags, hardware, quantisation, releases, tables
from builder.errors import BuilderError


@dataclass(frozen=True)
class Part:
    size: int


@dataclass(frozen=True)
class Row:
    name: str
    colour: Literal["red", "blue"]
    ratio: float
    since: datetime.date
    parts: tuple[Part, ...]
    notes: dict[str, str]
    maybe: int | None = None
    is_new: bool = False


GOOD: dict[str, Any] = {
    "name": "x",
    "colour": "red",
    "ratio": 1,
    "since": datetime.date(2026, 1, 2),
    "parts": [{"size": 1}, {"size": 2}],
    "notes": {"a": "b"},
}


def test_row_becomes_a_value() -> None:
    assert tables.read(Row, GOOD, "t.toml: x") == Row(
        name="x",
        colour="red",
        ratio=1.0,
        since=datetime.date(2026, 1, 2),
        parts=(Part(1), Part(2)),
        notes={"a": "b"},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "red"}, "t.toml: x: unknown key `color`"),
        ({"name": None}, "t.toml: x: missing key `name`"),
        ({"name": 1}, "t.toml: x: name: expected str, got int"),
        ({"colour": "green"}, "t.toml: x: colour: expected one of red, blue, got `green`"),
        ({"ratio": "1"}, "t.toml: x: ratio: expected float, got str"),
        ({"since": "2026"}, "t.toml: x: since: expected date, got str"),
        ({"parts": {}}, "t.toml: x: parts: expected list, got dict"),
        ({"parts": [{}]}, "t.toml: x: parts 1: missing key `size`"),
        ({"parts": [{"size": 1}, {"sise": 1}]}, "t.toml: x: parts 2: unknown key `sise`"),
        ({"notes": {"a": 1}}, "t.toml: x: notes.a: expected str, got int"),
        ({"maybe": True}, "t.toml: x: maybe: expected int, got bool"),
        ({"is_new": 1}, "t.toml: x: is_new: expected bool, got int"),
    ],
)
def test_fault_names_its_place(change: dict[str, Any], message: str) -> None:
    row = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(BuilderError) as caught:
        tables.read(Row, row, "t.toml: x")
    assert caught.value.message == message


def test_a_kind_that_cannot_be_read_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="cannot be read"):
        tables.read(Odd, {"value": 1}, "t.toml: x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_mb": 1}, "gpus.toml: t4-16gb: unknown key `memory_mb`"),
        ({"memory_mib": "15360"}, "gpus.toml: t4-16gb: memory_bytes: expected int, got str"),
        ({"kind": "server"}, "gpus.toml: t4-16gb: kind: expected one of datacentre, workstation"),
    ],
)
def test_gpu_row_is_read_strictly(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tables.table("gpus")["t4-16gb"] | change
    monkeypatch.setitem(tables.table("gpus"), "t4-16gb", row)
    hardware.gpus.cache_clear()
    with pytest.raises(BuilderError) as caught:
        hardware.gpus()
    hardware.gpus.cache_clear()
    assert caught.value.message.startswith(message)


ROWS: dict[str, Callable[[], Any]] = {
    "architectures": lambda: hardware.architectures().values(),
    "gpus": lambda: hardware.gpus().values(),
    "cuda release": drivers.cuda_releases,
    "cuda major": drivers.cuda_majors,
    "compatibility": drivers.compatibilities,
    "branch": drivers.branches,
    "vllm": lambda: releases.releases().values(),
    "torch": lambda: releases.torch_releases().values(),
    "carriers": lambda: code.carriers().values(),
    "code": code.wheels,
    "advisories": releases.advisories,
    "method": lambda: quantisation.methods().values(),
    "scheme": lambda: quantisation.schemes().values(),
    "path": quantisation.paths,
    "cache": lambda: quantisation.cache_types().values(),
    "attention": quantisation.attentions,
    "order": quantisation.orders,
    "models": lambda: cards.cards().values(),
    "flags": lambda: flags.flags().values(),
    "variables": lambda: flags.variables().values(),
    "never": flags.nevers,
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_a_source_and_marks_only_keys_that_it_has(name: str) -> None:
    rows = list(ROWS[name]())
    assert rows
    for row in rows:
        assert row.source
        keys = {field.name for field in fields(row)}
        keys |= {"sold_gb", "memory_mib", "visible_gib", "bandwidth_gbs", "link_gbs"}
        assert set(getattr(row, "unverified", ())) <= keys


def test_names_that_were_there_still_are() -> None:
    assert set(catalogue.__all__) >= {
        "Debian", "Engine", "Gpu", "Registry", "cuda_driver", "debian", "engine", "engines", "gpu",
        "gpus", "registries", "similar_gpus",
    }  # fmt: skip
