"""`BUILDER_SERVE` is parsed strictly, and arguments after the image name are understood."""

import json
from typing import Any

import pytest

from builder.launcher.arguments import option, shown, target, tokens
from builder.launcher.exits import ExitCode, LauncherError
from builder.launcher.spec import Metrics, Require, Spec, parse

GOOD: dict[str, Any] = {
    "version": 1,
    "argv": ["python3", "-m", "engine", "--port", "8000"],
    "model": "tiny",
    "port": 8000,
    "probe_port": 8081,
    "start_budget": 600,
    "drain": 30,
    "max_model_len": 512,
    "health": "/health",
    "routes": ["/v1/completions"],
    "metrics": {"path": "/metrics", "waiting": ["w"], "running": ["r"], "tokens": ["t"]},
    "stall": 120,
    "require": {
        "gpus": 1,
        "gpu": "h100-sxm-80gb",
        "compute_capability": "9.0",
        "memory_bytes": 85520809984,
        "driver": "580.65.06",
        "shm_bytes": 1073741824,
    },
}


def environ(**changes: object) -> dict[str, str]:
    return {"BUILDER_SERVE": json.dumps({**GOOD, **changes})}


def faults(env: dict[str, str]) -> list[str]:
    with pytest.raises(LauncherError) as caught:
        parse(env)
    assert caught.value.code == ExitCode.SPEC
    return str(caught.value).splitlines()


def test_whole_spec() -> None:
    assert parse(environ()) == Spec(
        argv=("python3", "-m", "engine", "--port", "8000"),
        model="tiny",
        port=8000,
        probe_port=8081,
        start_budget=600.0,
        drain=30.0,
        max_model_len=512,
        health="/health",
        routes=("/v1/completions",),
        metrics=Metrics(path="/metrics", waiting=("w",), running=("r",), tokens=("t",)),
        stall=120.0,
        require=Require(
            gpus=1,
            gpu="h100-sxm-80gb",
            compute_capability=(9, 0),
            memory_bytes=85520809984,
            driver="580.65.06",
            shm_bytes=1073741824,
        ),
    )


def test_what_may_be_null() -> None:
    require = {**GOOD["require"], "gpu": None, "compute_capability": None, "driver": None}
    spec = parse(environ(max_model_len=None, metrics=None, require=require))
    assert (spec.max_model_len, spec.metrics) == (None, None)
    assert spec.require.compute_capability is None


def test_probe_port_of_the_environment_wins() -> None:
    assert parse({**environ(), "BUILDER_PROBE_PORT": "9999"}).probe_port == 9999


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2}, "BUILDER_SERVE.version: must be 1, the only one known here"),
        ({"argv": []}, "BUILDER_SERVE.argv: must be a list of at least 1 strings, got []"),
        ({"argv": "x"}, 'BUILDER_SERVE.argv: must be a list of strings, got "x"'),
        ({"model": ""}, 'BUILDER_SERVE.model: must be a string that is not empty, got ""'),
        ({"port": True}, "BUILDER_SERVE.port: must be a whole number from 1 to 65535, got true"),
        ({"port": 0}, "BUILDER_SERVE.port: must be a whole number from 1 to 65535, got 0"),
        ({"probe_port": 8000}, "BUILDER_SERVE.probe_port: must differ from port, both are 8000"),
        ({"drain": -1}, "BUILDER_SERVE.drain: must be a number of seconds from 0, got -1"),
        (
            {"start_budget": 0},
            "BUILDER_SERVE.start_budget: must be a number of seconds above 0, got 0",
        ),
        ({"max_model_len": 0}, "BUILDER_SERVE.max_model_len: must be a whole number from 1, got 0"),
        ({"health": "health"}, 'BUILDER_SERVE.health: must be a path from `/`, got "health"'),
        ({"routes": ["x"]}, 'BUILDER_SERVE.routes: must be a list of paths from `/`, got ["x"]'),
        ({"metrics": []}, "BUILDER_SERVE.metrics: must be an object, got []"),
        ({"colour": "red"}, "BUILDER_SERVE.colour: is not known here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fault_names_its_place(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(environ(**changes))


def test_faults_inside_sections_are_collected() -> None:
    require = {**GOOD["require"], "compute_capability": "9", "driver": "new", "gpus": "one"}
    assert faults(environ(require=require, drain=None)) == [
        "BUILDER_SERVE.drain: must be a number of seconds from 0, got null",
        'BUILDER_SERVE.require.compute_capability: must be a version like "9.0", got "9"',
        'BUILDER_SERVE.require.gpus: must be a whole number from 0, got "one"',
        'BUILDER_SERVE.require.driver: must be a version like "580.65.06", got "new"',
    ]


def test_missing_names_are_faults() -> None:
    found = faults({"BUILDER_SERVE": json.dumps({"version": 1})})
    assert "BUILDER_SERVE.argv: must be a list of strings, got nothing" in found
    assert "BUILDER_SERVE.max_model_len: must be a whole number from 1, got nothing" in found
    assert "BUILDER_SERVE.require: must be an object, got nothing" in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "BUILDER_SERVE: is not set"),
        ("[1]", "BUILDER_SERVE: is not a JSON object"),
        ("{", "BUILDER_SERVE: is not JSON: Expecting property name enclosed in double quotes"),
    ],
    ids=["unset", "list", "broken"],
)
def test_no_spec(text: str | None, fault: str) -> None:
    assert faults({} if text is None else {"BUILDER_SERVE": text})[0].startswith(fault)


def test_probe_port_that_is_no_number() -> None:
    assert faults({**environ(), "BUILDER_PROBE_PORT": "http"}) == [
        "BUILDER_PROBE_PORT: must be a port number, got `http`"
    ]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--port", "1", "--port=2"], "2"),
        (["--port=1", "--port", "3"], "3"),
        (["--PORT", "1"], None),
        (["--portal", "1"], None),
        (["--port"], None),
    ],
    ids=["equals-last", "space-last", "case", "longer", "no-value"],
)
def test_last_option_wins(words: list[str], value: str | None) -> None:
    assert option(words, "--port") == value


def test_underscores_are_dashes() -> None:
    assert option(["--served_model_name", "x"], "--served-model-name") == "x"


def test_target_follows_the_arguments() -> None:
    spec = parse(environ())
    words = "--port 9000 --host :: --served-model-name a b --max-model-len 1k --ssl-certfile c"
    found = target(spec, [*spec.argv, *words.split()], {"VLLM_API_KEY": "k"})
    assert (found.host, found.port, found.model) == ("::1", 9000, "a")
    assert (found.max_model_len, found.https, found.api_key) == (1000, True, "k")
    assert "'k'" not in repr(found)


def test_target_of_the_spec_alone() -> None:
    spec = parse(environ())
    found = target(spec, spec.argv, {})
    assert (found.host, found.port, found.model) == ("127.0.0.1", 8000, "tiny")
    assert (found.max_model_len, found.https, found.api_key) == (512, False, None)


def test_key_in_the_arguments_wins() -> None:
    spec = parse(environ())
    found = target(spec, ["--api-key", "a", "b"], {"VLLM_API_KEY": "k"})
    assert found.api_key == "a"


def test_key_that_no_header_can_carry_is_not_repeated() -> None:
    with pytest.raises(LauncherError, match="the API key: must be printable ASCII") as caught:
        target(parse(environ()), [], {"VLLM_API_KEY": "geheim\n"})
    assert "geheim" not in str(caught.value)


def test_port_that_is_no_port() -> None:
    with pytest.raises(LauncherError, match="--port: must be a number from 1 to 65535, got `x`"):
        target(parse(environ()), ["--port", "x"], {})


@pytest.mark.parametrize(
    ("text", "length"),
    [("8192", 8192), ("8k", 8000), ("8K", 8192), ("1.5k", 1500), ("auto", None), ("-1", None)],
)
def test_lengths_as_vllm_reads_them(text: str, length: int | None) -> None:
    assert tokens(text) == length


def test_secrets_are_not_shown() -> None:
    words = ["e", "--api-key", "s1", "s2", "--hf_token=s3", "--ssl-keyfile", "f", "--model", "a b"]
    assert shown(words) == "e --api-key ... ... --hf_token=... --ssl-keyfile f --model 'a b'"
