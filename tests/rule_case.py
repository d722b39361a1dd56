"""Cases of the rules: a small stack, what is known of it, and the verdict, each with a source."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder import rules
from builder.rules import Subject, Verdict
from builder.stack import from_canonical

FOLDER = Path(__file__).with_name("rule_cases")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `stack` holds the parts that matter, over `DEFAULTS`; `refused` are the rules with errors, all
    of them; `warned` and `noted` are rules that must be among the others, `silent` rules that must
    say nothing: a near miss.
    """

    name: str
    source: str
    stack: Mapping[str, Any]
    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    nearest: Mapping[str, Any] | None = None
    """New value by field, `left out` for one that goes; none where nothing is refused or found."""
    says: tuple[str, ...] = ()
    """Words that the findings must hold."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a model's config.json, in place of the catalogue's card."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Fields in which the model differs from the catalogue's card."""
    drift: tuple[str, ...] = ()
    """How a lock that is there differs from the stack."""


DEFAULTS: Mapping[str, Any] = {
    "name": "case",
    "target": {"platform": "linux/amd64", "gpu": "h100-sxm-80gb", "count": 1},
    "engine": {"name": "vllm", "version": "0.20.2"},
    "base": {"debian": "bookworm"},
    "model": {"repo": "Qwen/Qwen2.5-7B-Instruct", "revision": "0" * 40},
    "serve": {"max_model_len": 8192, "max_num_seqs": 64},
}


def subject(case: Case) -> Subject:
    """The subject of a case."""
    values = {key: _merged(DEFAULTS.get(key), part) for key, part in case.stack.items()}
    stack = from_canonical({**DEFAULTS, **values})
    repo = stack.model.repo
    model = rules.of_repo(repo) if repo else None
    if case.config:
        model = rules.of_config(repo or "folder", case.config, None)
    if case.card and model and model.card:
        model = replace(model, card=replace(model.card, **case.card))
    return Subject(stack=stack, model=model, drift=case.drift)


def _merged(default: Any, part: Any) -> Any:
    is_choice = isinstance(part, dict) and {"image", "path"} & part.keys()
    is_table = isinstance(default, dict) and isinstance(part, dict)
    return {**default, **part} if is_table and not is_choice else part


def judged(case: Case) -> Verdict:
    """The verdict on a case, judged once for all tests of it."""
    if case.name not in _VERDICTS:
        _VERDICTS[case.name] = rules.judge(subject(case))
    return _VERDICTS[case.name]


_VERDICTS: dict[str, Verdict] = {}


@lru_cache
def cases() -> tuple[Case, ...]:
    """Every case of every table."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        rows = tomllib.loads(path.read_text("utf-8"))["case"]
        found += [Case(**{key: _frozen(value) for key, value in row.items()}) for row in rows]
    return tuple(found)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
