"""Values of flags: of the right kind, among the choices, and large enough for each other."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from builder.catalogue import flags
from builder.catalogue.quantisation import cache_types, methods
from builder.rules.arguments import given, offered, place_of, resolved
from builder.rules.change import Change, Move
from builder.rules.finding import error, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_WHOLE = re.compile(r"[+-]?\d+")
_SCALED = re.compile(r"\d+(\.\d+)?[kKmMgGtT]?")
_EMPTY = {"", "None"}
"""What the parser reads as nothing."""
_NO = {"false", "no", "off", "0", "none"}
_WORDS = {"true", "false"}
_SIZES = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "block-size")
"""Numbers of which 0 and less make no sense."""
_LAST = 1.5
"""Dearer than a change of two flags: leaving out what was asked for is the last resort."""
_BATCH = "max-num-batched-tokens"
_SOURCE = "vllm/engine/arg_utils.py and vllm/config in the wheels"
_STRAY = "vllm/entrypoints/openai/cli_args.py of 0.18.0: model_tag, and argparse"
_SCHEDULER = "vllm/config/scheduler.py of 0.20.2: verify_max_model_len"
_UNCHUNKED = Version("0.11.1")
"""First release that heeds `--no-enable-chunked-prefill` for models that write text
(vllm/engine/arg_utils.py of 0.11.0 sets it)."""


class _Stray(NamedTuple):
    """Words behind a flag that takes none, or fewer."""

    flag: str
    written: str
    value: object
    words: int
    is_switch: bool


@rule("flag-value", "every flag has a value that the engine takes")
def flag_value(subject: Subject) -> Iterator[Finding]:
    """Refuse values of another kind, outside the choices, or too small for the stack."""
    version, strays = subject.version, []
    for flag, written, value in given(subject):
        name = resolved(flag, version)
        if name is None or "." in name:
            continue
        extra = _extra(name, version, value)
        taken = _listed(value)[:1] if extra else value
        if fault := _fault(name, version, taken):
            leave: Move = (Change(place_of(flag), None),)
            hint = "correct it, or leave it out"
            yield error(place_of(written), fault, hint, _SOURCE, moves=(leave,))
        elif (word := _none_of_the_choices(name, version, taken)) is not None:
            yield _no_choice(subject, written, word)
        if extra:
            is_switch = flags.is_boolean(name, version)
            strays.append(_Stray(flag, written, value, extra, is_switch))
    yield from _strays(strays, version)
    yield from _batch(subject)


def _extra(flag: str, version: str, value: object) -> int:
    """Return how many words are left over behind a flag."""
    form = flags.form(flag, version)
    words = 0 if value is True else len(_listed(value))
    if flags.is_boolean(flag, version):
        return 0 if _is_word(flag, version, value) else words
    return 0 if form in {"list", "repeat"} else max(words - 1, 0)


def _is_word(flag: str, version: str, value: object) -> bool:
    """Some switches of old releases take `true` and `false`."""
    return flags.form(flag, version) == "value" and str(value).lower() in _WORDS


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def judged_elsewhere(flag: str) -> Collection[str]:
    """Return words of a flag that rules of their own judge, with release, model and GPU."""
    if flag == "quantization":
        return methods()
    return cache_types() if flag == "kv-cache-dtype" else ()


def _none_of_the_choices(flag: str, version: str, value: object) -> object | None:
    """Return the first word that the parser does not take, None if it takes all."""
    if str(value) in judged_elsewhere(flag):
        return None
    if value is True:
        return None
    words = (each for each in _listed(value) if str(each) not in _EMPTY)
    return next((each for each in words if flags.accepts(flag, version, str(each)) is False), None)


def _fault(flag: str, version: str, value: object) -> str:
    """Say what is wrong with the kind or the size of a value, nothing if it is right."""
    if flags.is_boolean(flag, version):
        return ""
    if value is True or value == []:
        return "" if flags.form(flag, version) == "optional" else f"{flag} needs a value"
    values = _listed(value)
    wanted = next((word for each in values if (word := _not_of(flag, version, each))), "")
    if wanted:
        return f"{flag} takes {wanted}, got `{value}`"
    if flag in _SIZES and str(values[0]) not in _EMPTY and int(str(values[0])) < 1:
        return f"{values[0]} is no size: 1 is the least"
    return ""


def _not_of(flag: str, version: str, value: object) -> str:
    """Return what was wanted where a value is not of the kind."""
    text, kind = str(value), flags.kind(flag, version)
    if text in {*_EMPTY, *flags.number_words(flag, version)}:
        return ""
    if kind == "int":
        pattern = _SCALED if flags.is_scaled(flag, version) else _WHOLE
        return "" if pattern.fullmatch(text) else "a whole number"
    if kind == "float":
        return "" if _is_number(text) else "a number"
    if kind == "json":
        is_level = flag == "compilation-config"
        if not is_level and (isinstance(value, float | int) or _WHOLE.fullmatch(text)):
            return "a JSON object"
        return "" if isinstance(value, dict) or _is_json(text) else "JSON"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _no_choice(subject: Subject, written: str, value: object) -> Finding:
    flag, version = written.replace("_", "-"), subject.version
    words = [word for word in flags.choices(flag, version) or () if word not in _EMPTY]
    text = f"`{value}` is none of {', '.join(words)}"
    leave: Move = (Change(place_of(flag), None, _LAST),)
    if flag == "dtype" and str(value).startswith("fp8"):
        hint = "write quantization: fp8: dtype is for what is not quantised"
        quantised: Move = (Change(place_of(flag), None), Change(place_of("quantization"), "fp8"))
        is_fp8 = subject.model is not None and (subject.model.scheme or "").startswith("fp8")
        moves = (leave,) if is_fp8 else (quantised, leave)
        return error(place_of(written), text, hint, _SOURCE, moves=moves)
    usual = flags.default_of(flag, version)
    hint = f"write one of them, or leave it out for {usual}" if usual else "write one of them"
    return error(place_of(written), text, hint, _SOURCE, moves=(leave,))


def _strays(strays: list[_Stray], version: str) -> Iterator[Finding]:
    """The parser takes one word that is left over for the model's name, and no second."""
    left_over = sum(each.words for each in strays)
    for each in strays:
        place = place_of(each.written)
        takes = "is a switch and takes no value" if each.is_switch else "takes one value"
        text = f"{each.flag} {takes}: `{each.value}`"
        first = True if each.is_switch else _listed(each.value)[0]
        hint = f"write {each.flag}: {'true' if first is True else first}"
        moves: tuple[Move, ...] = ((Change(place_of(each.flag), first),),)
        if each.is_switch and str(each.value).lower() in _NO:
            move, hint = _switched_off(each.flag, version)
            yield error(place, f"{text} switches it on", hint, _STRAY, moves=(move,))
        elif left_over > 1:
            text += f"; of {left_over} words left over the parser refuses the second"
            yield error(place, text, hint, _STRAY, moves=moves)
        else:
            text += "; one word is left over, taken for the model's name and passed over"
            yield warning(place, text, hint, _STRAY, moves=moves)


def _switched_off(flag: str, version: str) -> tuple[Move, str]:
    opposite = f"no-{flag}"
    if not offered(opposite, version):
        return (Change(place_of(flag), None),), "write false, which leaves it out"
    both = Change(place_of(flag), None), Change(place_of(opposite), value=True)
    return both, f"write {opposite}: true"


def _batch(subject: Subject) -> Iterator[Finding]:
    """A batch holds one token of each request, and a whole prompt where prompts are not cut."""
    tokens, serve = subject.number(_BATCH, 0), subject.stack.serve
    if tokens < 1:
        return
    if serve.max_num_seqs and tokens < serve.max_num_seqs:
        text = f"{tokens} tokens a batch are fewer than serve.max_num_seqs, {serve.max_num_seqs}"
        hint = f"write {serve.max_num_seqs} or more, or fewer requests"
        moves: tuple[Move, ...] = (
            (Change(place_of(_BATCH), serve.max_num_seqs),),
            (Change("serve.max_num_seqs", tokens, 0.1),),
        )
        yield error(place_of(_BATCH), text, hint, _SCHEDULER, moves=moves)
    longest = subject.context
    if tokens < longest and _is_whole(subject):
        text = f"{tokens} tokens a batch are fewer than the longest prompt, {longest:,}, and here"
        text += " prompts are not cut"
        moves = (
            (Change(place_of(_BATCH), longest),),
            (Change("serve.max_model_len", tokens, 0.5),),
        )
        yield error(place_of(_BATCH), text, f"write {longest} or more", _SCHEDULER, moves=moves)


def _is_whole(subject: Subject) -> bool:
    """Whether a prompt must fit a batch: an encoder reads it at once."""
    model, version = subject.model, Version(subject.version)
    if model is not None and model.task == "embedding" and "ForCausalLM" not in model.architecture:
        return True
    return "no-enable-chunked-prefill" in subject.args and version >= _UNCHUNKED
