"""Known weaknesses of the engine's release, as far as they concern what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.releases import concerning
from builder.rules.alternatives import other_releases
from builder.rules.change import Change
from builder.rules.finding import note, warning
from builder.rules.registry import rule
from builder.rules.variables import is_offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.catalogue.releases import Advisory, Release
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_PLACE = "engine.version"
_GRAVE = ("high", "critical")
_SOURCE = "builder/catalogue/advisories.toml, which names a source for each"
_CHECKED = Version("0.11.1")
"""First release that takes prompt embeddings only where `--enable-prompt-embeds` allows them
(vllm/entrypoints/renderer.py of 0.11.0 does not ask)."""


def _is(*architectures: str) -> Callable[[Subject], bool]:
    """Whether the model is one of these; nobody knows of an unknown one."""

    def judge(subject: Subject) -> bool:
        model = subject.model
        return model is None or any(each in model.architecture for each in architectures)

    return judge


def _says(flag: str, *words: str) -> Callable[[Subject], bool]:
    """Whether a flag is set, to something with one of these words if any are given."""

    def judge(subject: Subject) -> bool:
        value = str(subject.args.get(flag, "")).lower()
        return flag in subject.args and (not words or any(word in value for word in words))

    return judge


def _never(subject: Subject) -> bool:
    """What an image of ours does not do."""
    del subject
    return False


def _multimodal(subject: Subject) -> bool:
    is_text = "language-model-only" in subject.args
    return not is_text and (subject.model is None or subject.model.task == "vision")


def _prompt_embeddings(subject: Subject) -> bool:
    return "enable-prompt-embeds" in subject.args or Version(subject.version) < _CHECKED


def _prefix_caching(subject: Subject) -> bool:
    return "no-enable-prefix-caching" not in subject.args


def _pipelined(subject: Subject) -> bool:
    return subject.pipeline > 1 and "no-async-scheduling" not in subject.args


def _foreign(subject: Subject) -> bool:
    return subject.stack.model.repo is not None


def _optimised(subject: Subject) -> bool:
    return bool(subject.stack.serve.env.get("PYTHONOPTIMIZE"))


def _online(subject: Subject) -> bool:
    return not is_offline(subject)


def _glmga(subject: Subject) -> bool:
    return "glmga" in subject.stack.serve.env.get("VLLM_VIDEO_LOADER_BACKEND", "")


def _anybody(subject: Subject) -> bool:
    """What the stack cannot tell: the key comes with the container, for example."""
    del subject
    return True


CONDITIONS: Mapping[str, Callable[[Subject], bool]] = {
    "tensor parallelism across hosts": _says("nnodes"),
    "the Mooncake integration": _says("kv-transfer-config", "mooncake"),
    "KV transfer with PyNcclPipe": _says("kv-transfer-config", "pynccl"),
    "P2pNcclConnector": _says("kv-transfer-config", "p2pnccl"),
    "prefix caching": _prefix_caching,
    "--api-key": _anybody,
    "prompt embeddings": _prompt_embeddings,
    "models that are not your own": _foreign,
    "Idefics3": _is("Idefics3"),
    "multimodal models": _multimodal,
    "NemotronVL and Kimi K2.5": _is("Nemotron", "KimiK25"),
    "`vllm run-batch`": _never,
    "speculative decoding with extracted hidden states": _says("speculative-config", "hidden"),
    "async scheduling with pipeline parallelism": _pipelined,
    "`python -O`": _optimised,
    "models from the hub at run time": _online,
    "reasoning with `reasoning_end_str`": _says("reasoning-config"),
    "audio transcription": _is("Whisper", "Voxtral", "Audio", "Omni"),
    "the disaggregated scale-out route": _says("ec-transfer-config"),
    "Qwen2-VL and Qwen3-VL": _is("Qwen2VL", "Qwen2_5_VL", "Qwen3VL"),
    "the GLMGA video backend": _glmga,
    "--trust-remote-code": _says("trust-remote-code"),
}
"""By `only` of an advisory: whether a stack is such a deployment.  Others are taken to be."""


@rule("advisory", "no grave weakness of the engine's release is known", refuses=False)
def advisory(subject: Subject) -> Iterator[Finding]:
    """Warn of weaknesses rated high or critical, note the others: one finding each."""
    rows = relevant(subject)
    grave = [row for row in rows if row.severity in _GRAVE]
    other = [row for row in rows if row.severity not in _GRAVE]
    if grave:
        moves = other_releases(subject, lambda row: not _grave_in(subject, row))
        text = f"{subject.engine} has weaknesses rated high or critical: {_listed(grave)}"
        first = moves[0][0].value if moves and subject.is_cuda else None
        newer = first is not None and Version(first) > Version(subject.version)
        hint = f"{first} is the first release without them" if newer else "see what they ask for"
        more = {"moves": moves if subject.is_cuda else (), "verified": _is_verified(grave)}
        yield warning(_PLACE, text, hint, _SOURCE, **more)
    if other:
        text = f"{subject.engine} has weaknesses rated medium or low: {_listed(other)}"
        fixes = [row.fixed for row in other if row.fixed]
        first = max(fixes, key=Version) if len(fixes) == len(other) else None
        hint = f"{first} has none of them" if first else "not all of them are fixed yet"
        yield note(_PLACE, text, hint, _SOURCE, verified=_is_verified(other))


def relevant(subject: Subject) -> list[Advisory]:
    """Return what concerns this release and this deployment, the newest fix first."""
    rows = concerning(subject.version)
    return [row for row in reversed(rows) if CONDITIONS.get(row.only, _anybody)(subject)]


def _grave_in(subject: Subject, row: Release) -> bool:
    if not any(each.severity in _GRAVE for each in concerning(row.version)):
        return False
    after = subject.after((Change(_PLACE, row.version),))
    return any(each.severity in _GRAVE for each in relevant(after))


def _listed(rows: list[Advisory]) -> str:
    """Ids in a row; what each needs is said where it is not everybody's."""
    return ", ".join(f"{row.id} ({row.only})" if row.only else row.id for row in rows)


def _is_verified(rows: list[Advisory]) -> bool:
    return not any({"severity", "introduced", "fixed"} & set(row.unverified) for row in rows)
