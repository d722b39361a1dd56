"""What is read in the sources of an engine without running them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.catalogue import tables
from builder.errors import ResolveError
from builder.sources import published
from builder.sources.engine_flags import refresh, spans
from builder.sources.ranges import Ranges
from tests import engine_maker
from tests.engine_maker import ARGUMENTS, CLI, CONFIG, PARSER, SERVE, engine
from tests.file_server import Site
from tests.index_server import serving_index


def flag(name: str, **changes: str) -> dict[str, Any]:
    return engine(**changes)["flags"][name]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("--headless", {"kind": "bool", "form": "switch", "default": "false"}),
        ("--port", {"kind": "int", "default": "8000"}),
        ("--level", {"kind": "str", "values": ["debug", "info"], "default": "info"}),
        ("--origins", {"kind": "json"}),
        ("--dtype", {"kind": "str", "values": ["None", "auto", "half"], "default": "auto"}),
        ("--max-model-len", {"kind": "int", "scaled": True}),
        (
            "--quantization",
            {"kind": "str", "aliases": ["-q"], "values": ["awq", "gptq"], "open": True},
        ),
        (
            "--enforce-eager",
            {"kind": "bool", "form": "pair", "deprecated": True, "default": "false"},
        ),
        ("--kv-cache-dtype", {"kind": "str", "values": ["auto", "fp8", "fp8_inc"]}),
        ("--offload", {"kind": "json"}),
        ("--overrides", {"kind": "json-or-str"}),
        ("--old-way", {"kind": "str", "deprecated": True}),
        ("--old-number", {"kind": "int", "deprecated": True}),
        ("--seed", {"kind": "int", "default": "7"}),
        (
            "--tool-call-parser",
            {"kind": "str", "values": ["hermes", "llama3", "llama4"], "open": True},
        ),
    ],
)
def test_argument_is_derived(name: str, facts: dict[str, Any]) -> None:
    assert flag(name) == facts


def test_every_argument_is_found_and_no_positional_one() -> None:
    assert len(engine()["flags"]) == 15
    assert all(name.startswith("--") for name in engine()["flags"])


def test_branch_that_depends_on_the_machine_is_taken_both_ways() -> None:
    text = CLI.replace(
        '    parser.add_argument("--headless", action="store_true")\n',
        "    if platform.is_cuda():\n"
        '        parser.add_argument("--cuda", type=int)\n'
        "    else:\n"
        '        parser.add_argument("--other", nargs="+", type=float)\n',
    )
    found = engine(cli_args=text)["flags"]
    assert found["--cuda"] == {"kind": "int"}
    assert found["--other"] == {"kind": "float", "form": "list"}


@pytest.mark.parametrize(
    ("written", "facts"),
    [
        ('action="append"', {"kind": "str", "form": "repeat"}),
        ('type=str, nargs="?", const=True', {"kind": "str", "form": "optional"}),
        ("action=StoreBoolean", {"kind": "bool", "form": "value"}),
        ("type=ModelConfig.from_cli", {"kind": "json"}),
        ("type=optional_type(json.loads)", {"kind": "json"}),
        ("type=lambda text: text.lower(), choices=['a']", {"values": ["a"], "folds": True}),
        ("choices=[*get_args(Plain), None]", {"values": ["None", "fp8"]}),
        ("choices=[each.value for each in Style]", {"values": ["old"]}),
        ("choices=['auto', platform.name]", {}),
        ('help="--x is deprecated."', {"deprecated": True}),
        ("type=human_readable_int_or_auto", {"kind": "int", "scaled": True, "words": ["auto"]}),
    ],
)
def test_argument_as_older_releases_write_it(written: str, facts: dict[str, Any]) -> None:
    head = (
        "import json\nfrom enum import Enum\nfrom typing import get_args\n"
        "from vllm.words import Plain\n"
        "class StoreBoolean:\n    pass\ndef human_readable_int_or_auto(text):\n    pass\n"
        'class Style(str, Enum):\n    OLD = "old"\n'
    )
    text = head + ARGUMENTS.replace(
        '"--seed", type=int, default=EngineArgs.seed', f'"--seed", {written}'
    )
    assert flag("--seed", arg_utils=text) == {"kind": "str"} | facts


def test_releases_differ_in_how_a_field_becomes_an_argument() -> None:
    text = ARGUMENTS.replace("'metavar' if", "'other' if").replace(
        ".append(None)", ".append('None')"
    )
    config = CONFIG.replace("Methods | str | None", 'Literal["a"] | str')
    assert flag("--quantization", arg_utils=text, config=config).get("open") is None
    assert flag("--dtype", arg_utils=text)["values"] == ["auto", "half"]
    plain = ARGUMENTS.replace('kwargs[name]["action"] = argparse.BooleanOptionalAction', "pass")
    assert flag("--enforce-eager", arg_utils=plain)["kind"] == "str"


def test_parser_that_pairs_enable_with_disable() -> None:
    text = (
        PARSER.replace(
            "class Flexible",
            'class Both:\n    _inverse_prefixes = {"--enforce-": "--relax-"}\n\nclass Flexible',
        )
        + "    def __init__(self):\n        self.register('action', Old, Both)\n"
    )
    assert flag("--enforce-eager", argparse_utils=text)["off"] == ["--relax-eager"]


def test_short_option_that_the_parser_reads_itself() -> None:
    text = PARSER.replace("return args", "return ['--optimization-level'] if '-O' in args else []")
    changed = ARGUMENTS.replace('"--seed"', '"--optimization-level"')
    found = engine(argparse_utils=text, arg_utils=changed)["flags"]["--optimization-level"]
    assert found["aliases"] == ["-O"]


def test_variables_are_derived() -> None:
    assert engine()["variables"] == {
        "VLLM_LAYOUT": {"values": ["HND", "NHD"]},
        "VLLM_PORT": {},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serve": SERVE.replace("ServeSubcommand", "Other")}, "not in these sources"),
        ({"cli_args": CLI.replace('"--headless"', "name()")}, "an argument without a name"),
    ],
)
def test_sources_of_another_shape_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ResolveError, match=message) as caught:
        engine(**changes)
    assert "engine_flags" in (caught.value.hint or "")


def facts(*rows: dict[str, Any]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Releases 1, 2, 3 … with what each says of `--a`; an empty row: not there."""
    return {
        str(number): {"flags": {"--a": row} if row else {}, "variables": {}}
        for number, row in enumerate(rows, 1)
    }


@pytest.mark.parametrize(
    ("rows", "entry"),
    [
        ([{"kind": "int"}] * 3, {"kind": "int"}),
        ([{}, {"kind": "int"}, {"kind": "int"}], {"present": "2..", "kind": "int"}),
        ([{"kind": "int"}, {}, {"kind": "int"}], {"present": "..2, 3..", "kind": "int"}),
        (
            [{"kind": "int"}, {"kind": "str"}, {}],
            {"present": "..3", "kind": "int @ ..2 | str @ 2.."},
        ),
        (
            [{"values": ["a"]}, {"values": ["a", "b"]}, {"values": ["a"]}],
            {"values": "a | b @ 2..3"},
        ),
        ([{"values": ["16", "8"]}] * 3, {"values": "8 | 16"}),
        ([{}, {"deprecated": True}, {}], {"present": "2..3", "deprecated": "true"}),
    ],
)
def test_facts_are_written_as_spans(rows: list[dict[str, Any]], entry: dict[str, str]) -> None:
    assert spans.table(facts(*rows))["flags"]["--a"] == entry


def test_word_that_looks_like_a_span_is_refused() -> None:
    with pytest.raises(ResolveError, match="cannot be written"):
        spans.table(facts({"values": ["a | b"]}))


def test_text_of_a_value_is_quoted() -> None:
    entries = {"flags": {"--a": {"default": 'say "\\n"'}}, "variables": {}}
    assert '"--a" = { default = "say \\"\\\\n\\"" }' in spans.written(entries)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    with serving_index(monkeypatch, tmp_path) as found:
        yield found


def publish(site: Site, *wheels: tuple[str, bytes]) -> None:
    files: list[dict[str, Any]] = []
    for name, body in wheels:
        site.pages[f"/files/{name}"] = body
        sha256 = {"sha256": f"{len(files):064d}"}
        files.append({"filename": name, "url": f"{site.url}/files/{name}", "hashes": sha256})
    page = {"meta": {"api-version": "1.1"}, "name": "vllm", "files": files}
    site.pages["/simple/vllm/"] = json.dumps(page).encode()
    site.types["/simple/vllm/"] = "application/vnd.pypi.simple.v1+json"


def committed(monkeypatch: pytest.MonkeyPatch, serve: dict[str, Any], *versions: str) -> None:
    rows = {"release": [{"version": version} for version in versions]}
    monkeypatch.setattr(tables, "table", lambda name: serve if name == "serve" else rows)


def subject() -> published.Subject:
    return published.Subject("vllm", "1.0", frozenset({"cp38"}), {})


WHEEL = "vllm-{}-cp38-abi3-manylinux_2_28_x86_64.whl"


def test_differences_of_a_wheel_are_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(site, (WHEEL.format("1.0"), engine_maker.packed()))
    committed(monkeypatch, {}, "1.0")
    gathered = refresh.gathered(subject())
    assert gathered["1.0"] == engine()
    serve: dict[str, Any] = {"releases": ["1.0"], **spans.table(gathered)}
    committed(monkeypatch, serve, "1.0")
    assert list(refresh.differences(gathered)) == []
    serve["flags"]["--port"]["default"] = "80"
    del serve["variables"]["VLLM_PORT"]
    serve["releases"] = ["0.9"]
    assert list(map(str, refresh.differences(gathered))) == [
        "vllm serve releases: all: committed ['0.9'], published ['1.0']",
        "vllm serve --port: default: committed 80, published 8000",
        "vllm serve VLLM_PORT: entry: committed False, published True",
    ]


def test_only_the_sources_of_a_wheel_are_read_and_only_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, (WHEEL.format("1.0"), engine_maker.packed()))
    committed(monkeypatch, {}, "1.0")
    first = refresh.gathered(subject())
    assert site.sent < 3_500_000  # of six megabytes
    site.sent = 0
    assert refresh.gathered(subject()) == first
    assert site.sent < 10_000
    assert [path for path in site.paths() if path.endswith(".whl")].count(
        f"/files/{WHEEL.format('1.0')}"
    ) <= 4


def test_last_build_of_a_release_counts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = engine_maker.SOURCES | {"vllm/envs.py": "environment_variables = {}"}
    publish(
        site,
        (WHEEL.format("1.0-10"), engine_maker.packed(changed)),
        (WHEEL.format("1.0"), engine_maker.packed()),
        (WHEEL.format("1.0-9"), engine_maker.packed()),
    )
    committed(monkeypatch, {}, "1.0")
    assert refresh.gathered(subject())["1.0"]["variables"] == {}


def test_release_that_left_the_index_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(site, (WHEEL.format("1.0"), engine_maker.packed()))
    committed(monkeypatch, {}, "1.0", "1.1")
    with pytest.raises(ResolveError, match=r"vllm 1\.1: no wheel on the index"):
        refresh.gathered(subject())


def test_table_is_written_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "tables.py"))
    both = {"1.0": engine(), "1.1": engine(envs="environment_variables = {}")}
    refresh.write(both)
    tables.table.cache_clear()
    found = tables.table("serve")
    tables.table.cache_clear()
    assert found["releases"] == ["1.0", "1.1"]
    assert found["variables"]["VLLM_PORT"] == {"present": "..1.1"}
    assert {part: found[part] for part in ("flags", "variables")} == spans.table(both)


def test_remote_file_asks_for_each_block_once(site: Site) -> None:
    body = bytes(range(256)) * 40
    site.pages["/body"] = body
    with Ranges(f"{site.url}/body", block=1000) as file:
        assert file.read(3) == body[:3]
        assert file.seek(2500) == file.tell() == 2500
        assert file.read(1500) == body[2500:4000]
        assert file.seek(-5, 2) == len(body) - 5
        assert file.read() == body[-5:]
        assert file.read(1) == b""
        file.seek(2999)
        assert file.read(1) == body[2999:3000]
    assert site.spans()[1:] == ["bytes=0-999", "bytes=2000-3999", "bytes=10000-10239"]
