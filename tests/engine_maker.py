"""Python sources of an engine, small, laid out as releases of vLLM are."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from builder.sources.engine_flags.code import Code
from builder.sources.engine_flags.release import derived

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SERVE = """
from vllm.entrypoints.openai.cli_args import make_arg_parser

class ServeSubcommand:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("model_tag", nargs="?")
        parser = make_arg_parser(parser)
        return parser
"""
CLI = """
import json
from typing import Literal
from vllm.config import config
from vllm.engine.arg_utils import EngineArgs, get_kwargs
from vllm.tools import ToolParserManager

@config
class Base:
    tool_call_parser: str | None = None
    origins: list[str] | None = None

    @classmethod
    def _customize(cls, fields):
        fields["origins"]["type"] = json.loads
        del fields["origins"]["nargs"]
        names = ",".join(ToolParserManager.list_registered())
        fields["tool_call_parser"]["metavar"] = f"{{{names}}} or one of a plugin"
        return fields

    @classmethod
    def add_cli_args(cls, parser):
        fields = get_kwargs(cls)
        fields = cls._customize_cli_kwargs(fields)
        group = parser.add_argument_group(title="Frontend")
        for key, value in fields.items():
            group.add_argument(*value.pop("flags", []), f"--{key.replace('_', '-')}", **value)
        return parser

    @classmethod
    def _customize_cli_kwargs(cls, fields):
        return cls._customize(fields)

@config
class Front(Base):
    port: int = 8000
    level: Literal["info", "debug"] = "info"

    @classmethod
    def _customize_cli_kwargs(cls, fields):
        fields = super()._customize_cli_kwargs(fields)
        return fields

def make_arg_parser(parser):
    parser.add_argument("--headless", action="store_true")
    parser = Front.add_cli_args(parser)
    return EngineArgs.add_cli_args(parser)
"""
ARGUMENTS = """
import argparse
from vllm.config import CacheConfig, ModelConfig
from vllm.utils.argparse_utils import FlexibleArgumentParser

def literal_to_kwargs(hints):
    kwarg = 'metavar' if contains_type(hints, str) else 'choices'

def get_kwargs(cls):
    for field in fields(cls):
        if contains(bool):
            kwargs[name]["action"] = argparse.BooleanOptionalAction
        elif contains(int):
            large = {"max_model_len"}
            if name in large:
                kwargs[name]["type"] = human_readable_int
        if optional and kwargs[name].get("choices"):
            kwargs[name]["choices"].append(None)

class EngineArgs:
    seed: int = 7

    @staticmethod
    def add_cli_args(parser):
        model = get_kwargs(ModelConfig)
        group = parser.add_argument_group(title="ModelConfig")
        group.add_argument("--dtype", **model["dtype"])
        group.add_argument("--max-model-len", **model["max_model_len"])
        group.add_argument("--quantization", "-q", **model["quantization"])
        group.add_argument("--enforce-eager", **model["enforce_eager"])
        cache = get_kwargs(CacheConfig)
        group.add_argument("--kv-cache-dtype", **{**cache["dtype"], "default": None})
        group.add_argument("--offload", **cache["offload"])
        group.add_argument("--overrides", **cache["overrides"])
        for name, kind in [("--old-way", str), ("--old-number", int)]:
            group.add_argument(name, type=kind, deprecated=True)
        parser.add_argument("--seed", type=int, default=EngineArgs.seed)
        return parser
"""
CONFIG = """
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from vllm.words import CacheType
if TYPE_CHECKING:
    from vllm.words import Methods
else:
    Methods = Any

def config(cls):
    return cls

@config
@dataclass
class Offload:
    size: int = 0

@config
@dataclass
class ModelConfig:
    made: ClassVar[int] = 0
    dtype: Literal["auto", "half"] | None = "auto"
    max_model_len: int | None = None
    quantization: Methods | str | None = None
    enforce_eager: bool = False
    \"\"\"Deprecated: it does nothing.\"\"\"

@config
@dataclass
class CacheConfig:
    dtype: CacheType = field(default="auto")
    offload: Offload | None = None
    overrides: dict[str, int] | str = field(default_factory=dict)
"""
WORDS = """
from typing import Literal
Plain = Literal["fp8"]
CacheType = Literal["auto", Plain, "fp8_inc"]
Methods = Literal["awq", "gptq"]
"""
TOOLS = """
from .base import ToolParserManager
_TOOL_PARSERS_TO_REGISTER = {"hermes": ("hermes", "Hermes")}
from .llama import Llama
"""
BASE = """
class ToolParserManager:
    @classmethod
    def register_module(cls, name):
        pass
"""
LLAMA = """
from vllm.tools.base import ToolParserManager

@ToolParserManager.register_module(["llama3", "llama4"])
class Llama:
    pass
"""
PARSER = """
from argparse import ArgumentParser

class FlexibleArgumentParser(ArgumentParser):
    def parse_args(self, args):
        return args
"""
ENVS = """
environment_variables = {
    "VLLM_PORT": lambda: 1,
    "VLLM_LAYOUT": env_with_choices("VLLM_LAYOUT", None, ["NHD", "HND"]),
}
"""
SOURCES = {
    "vllm/__init__.py": "",
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": ARGUMENTS,
    "vllm/entrypoints/cli/serve.py": SERVE,
    "vllm/entrypoints/openai/cli_args.py": CLI,
    "vllm/config/__init__.py": CONFIG,
    "vllm/words.py": WORDS,
    "vllm/tools/__init__.py": TOOLS,
    "vllm/tools/base.py": BASE,
    "vllm/tools/llama.py": LLAMA,
    "vllm/utils/argparse_utils.py": PARSER,
    "vllm/envs.py": ENVS,
}


def engine(**changes: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what is derived from the sources; `changes` replace files by their last word."""
    sources = dict(SOURCES)
    for name, text in changes.items():
        path = next(each for each in sources if name in each.removesuffix("/__init__.py"))
        sources[path] = text
    return derived(Code(sources.get))


def packed(sources: Mapping[str, str] = SOURCES) -> bytes:
    """Return a wheel with the sources and something large beside them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vllm/big.so", bytes(3_000_000))
        for path, text in sources.items():
            archive.writestr(path, text)
        archive.writestr("vllm/_other.so", bytes(3_000_000))
    return file.getvalue()
