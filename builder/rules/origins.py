"""What is pinned and where it comes from: references, lock, code, formats and licences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder import reference
from builder.catalogue.cards import cards
from builder.errors import UsageError
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue.cards import ModelCard
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOCK = "docs/lock.md"
_REPO = "model.repo"
_TRUST = "serve.args.trust-remote-code"
_FREE = {"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause"}
"""Licences of the Open Source Initiative that models come with: copy them along, that is all."""
_MOST_SISTERS = 3


@rule("moving-reference", "every reference names one content")
def moving_reference(subject: Subject) -> Iterator[Finding]:
    """Warn of branches and tags that nothing holds: the next lock finds something else."""
    yield from _images(subject)
    model = subject.stack.model
    held = subject.lock is not None or subject.drift
    if model.repo is None or held or _COMMIT.fullmatch(model.revision):
        return
    text = f"`{model.revision}` of {model.repo} is a branch or a tag, and there is no lock to hold"
    text += " its commit"
    hint = "run builder lock, and commit the lock"
    yield warning("model.revision", text, hint, _LOCK)


def _images(subject: Subject) -> Iterator[Finding]:
    base, runtime = subject.stack.base, subject.stack.runtime
    found = {"base.image": base and base.image, "runtime.image": runtime and runtime.image}
    for place, name in found.items():
        if not name:
            continue
        try:
            image = reference.parse(name)
        except UsageError as fault:
            yield error(place, str(fault), fault.hint or "write registry/path@sha256:…", _LOCK)
            continue
        if image.digest is None:
            tag = f"the tag `{image.tag}`" if image.tag else "no tag, which is `latest`,"
            moves = " that moves with every release" if image.tag in {None, "latest"} else ""
            text = f"{name} has {tag}{moves} and no digest: another image may answer tomorrow"
            hint = f"write {image.name}@sha256:…, as `docker buildx imagetools inspect` prints it"
            yield warning(place, text, hint, "OCI distribution specification, pulling manifests")


@rule("unlocked", "a lock names every byte")
def unlocked(subject: Subject) -> Iterator[Finding]:
    """Note a stack without a lock: what it will hold is decided by the first build."""
    if subject.lock is None and not subject.drift:
        text = "there is no lock: versions, files and digests are chosen when it is made"
        yield note("name", text, "run builder lock, and commit the lock", _LOCK)


@rule("stale-lock", "the lock is the stack's own")
def stale_lock(subject: Subject) -> Iterator[Finding]:
    """Warn of a lock that answers another stack: `builder build` refuses it."""
    if subject.drift:
        text = f"the lock is out of date: {'; '.join(subject.drift)}"
        yield warning("name", text, "run builder lock", _LOCK)


@rule("remote-code", "no code of the model's repository runs unread")
def remote_code(subject: Subject) -> Iterator[Finding]:
    """Refuse a model whose code nobody allowed; have what was allowed reviewed."""
    model, card = subject.stack.model, _card(subject)
    trusts = "trust-remote-code" in subject.args
    if card is not None and card.remote_code and not model.allow_code:
        text = f"{model.repo} runs Python of its repository; builder lock refuses what is not named"
        hint = "read it, then write model.allow_code with the sha256 of each file"
        yield error("model.allow_code", text, hint, card.source, moves=_sisters(subject, card))
    elif card is not None and card.remote_code and not trusts:
        text = f"{model.repo} runs Python of its repository, which the engine refuses unasked"
        hint = "write serve.args: {trust-remote-code: true}"
        moves: tuple[Move, ...] = ((Change(_TRUST, value=True),),)
        yield error("serve.args", text, hint, card.source, moves=moves)
    elif trusts and model.allow_code:
        text = f"the engine runs {len(model.allow_code)} files of the model's repository"
        hint = "review them again whenever the commit moves; no other file enters the image"
        source = "vllm/config/model.py of 0.20.2: trust_remote_code"
        yield warning(_TRUST, text, hint, source)


@rule("pickle", "the weights are data, not programs")
def pickle(subject: Subject) -> Iterator[Finding]:
    """Refuse weights that exist as pickles alone: loading one runs what is in it."""
    card = _card(subject)
    if card is None or card.files != "pickle":
        return
    text = f"the weights of {card.repo} are pickles alone, which builder lock refuses"
    hint = "convert them to safetensors and write model.path, or take a model that has them"
    yield error(_REPO, text, hint, card.source, moves=_sisters(subject, card))


def _sisters(subject: Subject, card: ModelCard) -> tuple[Move, ...]:
    """Other models for the same task, those of a like size first."""
    fit = [
        each
        for each in cards().values()
        if each.task == card.task and each.files == "safetensors" and not each.remote_code
    ]
    fit.sort(key=lambda each: abs(each.parameters - card.parameters))
    near = [each for each in fit if each.repo != subject.stack.model.repo][:_MOST_SISTERS]
    return tuple((Change(_REPO, each.repo, rank / 100),) for rank, each in enumerate(near))


@rule("licence", "the model's licence lets the image be passed on")
def licence(subject: Subject) -> Iterator[Finding]:
    """Note a licence with conditions of its own: an image with weights redistributes them."""
    card = _card(subject)
    if card is None or card.licence in _FREE:
        return
    text = f"{subject.stack.model.repo} comes under `{card.licence}`, which has conditions"
    hint = "read it before you publish the image: it redistributes the weights"
    verified = "licence" not in card.unverified
    yield note(_REPO, text, hint, card.source, verified=verified)


@rule("gated-model", "the hub gives the model to everybody")
def gated_model(subject: Subject) -> Iterator[Finding]:
    """Note a model that the hub gives to some accounts only."""
    card = _card(subject)
    if card is None or not card.gated:
        return
    text = f"the hub gives {subject.stack.model.repo} only to accounts that accepted its terms"
    hint = "set HF_TOKEN for builder lock and builder fetch; the image needs none"
    yield note(_REPO, text, hint, card.source, verified="gated" not in card.unverified)


def _card(subject: Subject) -> ModelCard | None:
    """The catalogue's card, where the model comes from the hub."""
    return subject.model.card if subject.model and subject.stack.model.repo else None
