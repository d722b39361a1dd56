"""What is served: the model's task, and what the flags make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue import flags
from builder.catalogue.limits import first_with
from builder.rules.alternatives import other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

_RUNNER = "vllm/config/model.py of 0.20.2: `This model does not support --runner generate`"
_TASK = "vllm/config.py of 0.8.5: `This model does not support the '...' task`"
_CHAT = ("enable-auto-tool-choice", "tool-call-parser", "reasoning-parser", "chat-template")
_MEDIA = "vllm/multimodal/media/connector.py of 0.20.2; CVE-2026-24779"
_PROFILE = "vllm/v1/worker/gpu_model_runner.py of 0.20.2: profile_run"
_CAUSAL = "ForCausalLM"
_REGISTRY = "vllm/model_executor/models/registry.py of each release"
_WRAPS_ALL = Version("0.11.1")
"""First release with wrappers for experts and for images (TransformersMoEForCausalLM and others);
before, one for plain writers of text in 16 bits."""
_DOMAINS = "allowed-media-domains"


@rule("model-class", "the engine's release has the model's class")
def model_class(subject: Subject) -> Iterator[Finding]:
    """Refuse a model that is younger than the engine, unless Transformers' own code may run it."""
    model, version = subject.model, Version(subject.version)
    first = first_with(model.architecture) if model else None
    if model is None or first is None or version >= Version(first):
        return
    moves = other_releases(subject, lambda row: Version(row.version) >= Version(first))
    moves = moves if subject.is_cuda else ()
    text = f"{subject.engine} has no {model.architecture}: {first} is the first with it"
    hint = f"take {first} or newer"
    if _falls_back(model, version):
        text += (
            "; it takes Transformers' own code, if that has the model: slower, and little tested"
        )
        yield warning("engine.version", text, hint, _REGISTRY, moves=moves, verified=False)
        return
    yield error("engine.version", text, hint, _REGISTRY, moves=moves)


def _falls_back(model: ModelFacts, version: Version) -> bool:
    """Whether the engine has a wrapper for models of that kind."""
    if version >= _WRAPS_ALL:
        return True
    shape = model.shape
    is_plain = shape.experts is None and shape.latent is None and model.task == "chat"
    return is_plain and _CAUSAL in model.architecture and not shape.is_quantised


@rule("task", "the model is served for what it was made for")
def task(subject: Subject) -> Iterator[Finding]:
    """Judge flags of another task than the model's, and what media of requests cost."""
    model = subject.model
    if model is None:
        return
    if model.task == "embedding":
        yield from _generates(subject, model)
        yield from _chats(subject, model)
    else:
        yield from _pools(subject, model)
    if model.task == "vision" and "language-model-only" not in subject.args:
        yield from _media(subject)


def _generates(subject: Subject, model: ModelFacts) -> Iterator[Finding]:
    """A model of embeddings that is asked for text: an encoder has none to give."""
    for flag, source in (("runner", _RUNNER), ("task", _TASK)):
        if subject.args.get(flag) != "generate":
            continue
        place = f"serve.args.{flag}"
        moves: tuple[Move, ...] = ((Change(place, None),),)
        if _CAUSAL in model.architecture:
            text = f"{model.name} was made for embeddings; generate serves it as a writer of text"
            yield warning(place, text, "leave it out", source, moves=moves)
        else:
            text = f"{model.architecture} cannot generate: the engine refuses it"
            yield error(place, text, "leave it out", source, moves=moves)


def _chats(subject: Subject, model: ModelFacts) -> Iterator[Finding]:
    """Flags of a route that is not served."""
    found = [flag for flag in _CHAT if flag in subject.args]
    if found:
        text = f"{model.name} serves embeddings and no chat: {', '.join(found)} does nothing"
        moves: tuple[Move, ...] = (tuple(Change(f"serve.args.{flag}", None) for flag in found),)
        source = "vllm/entrypoints/openai/api_server.py of 0.18.0: routes by the model's tasks"
        yield warning(f"serve.args.{found[0]}", text, "leave them out", source, moves=moves)


def _pools(subject: Subject, model: ModelFacts) -> Iterator[Finding]:
    """A model of text that is asked for embeddings."""
    asked = {flag: _word(subject, flag) for flag in ("runner", "task", "convert")}
    pools = asked["runner"] == "pooling" or asked["task"] not in {None, "generate", "auto"}
    if pools or asked["convert"] not in {None, "none", "auto"}:
        flag = next(name for name, value in asked.items() if value is not None)
        text = f"{model.name} is asked for embeddings or scores: it serves no chat then"
        hint = "leave it out if requests are for text"
        yield note(f"serve.args.{flag}", text, hint, _RUNNER)


def _word(subject: Subject, flag: str) -> str | None:
    """Return what a flag says; a list or a mapping is another rule's business."""
    value = subject.args.get(flag)
    return None if value is None else str(value)


def _media(subject: Subject) -> Iterator[Finding]:
    if "limit-mm-per-prompt" not in subject.args:
        text = (
            "a request may bring 999 images and videos, and the start takes memory for the "
            "largest; a limit of 0 leaves a kind out"
        )
        hint = "write limit-mm-per-prompt, such as {image: 2, video: 0}, for what is really sent"
        yield note("serve.args", text, hint, _PROFILE)
    known = flags.flag(_DOMAINS)
    if known is None or _DOMAINS in subject.args:
        return
    text = "a request may name any URL for its media, hosts inside the network included"
    if known.offered(subject.version):
        hint = f"write {_DOMAINS}: [media.example.com]"
    else:
        hint = (
            f"keep the container from inner hosts; {known.added_in(subject.version)} has {_DOMAINS}"
        )
    yield note("serve.args", text, hint, _MEDIA)
