"""What an image says to its engine by itself: nothing may be left to compile with `nvcc`.

Debian's `main` has no `nvcc`.  Wheels bring one (`nvidia-cuda-nvcc`) to a folder where nobody
looks, and newer than the headers beside it.  FlashInfer's compiled kernels (`flashinfer-jit-cache`)
are on its own pages only.  So where a release would compile kernels as it starts, the lock holds
what turns that off, GPU by GPU; what the stack says wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.releases import Compiled, compiled_at_start
from builder.rules.floor import tried_attention
from builder.rules.numbers import asked_cache, is_latent

if TYPE_CHECKING:
    from builder.catalogue import Gpu
    from builder.rules.subject import Subject

FLAG, VARIABLE = "attention-backend", "VLLM_ATTENTION_BACKEND"
_FLAG_SINCE = Version("0.13.0")
_VARIABLE_UNTIL = Version("0.15.0")
"""The flag and the variable before it, by builder/catalogue/serve.toml."""
_CACHE = "flashinfer-jit-cache"
_FLASHINFER = "FLASHINFER"
_BLOCKS = "fp8-block"
_WITH_SINKS = frozenset({"GptOssForCausalLM"})
_FOURTH = Version("0.20.0")
"""First release whose FlashAttention 4 takes sinks (vllm/v1/attention/backends/fa_utils.py of
0.19.1 and 0.20.0: flash_attn_supports_sinks; flashinfer.py: supports_sink)."""
_NAMES_NVCC = {"CUDA_HOME", "CUDA_PATH"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Variables and flags of the engine."""

    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)


def settings(subject: Subject) -> Settings:
    """Return what the image of a subject says to its engine, beside what the stack says."""
    if names_compiler(subject):
        return Settings()
    rows = (sampler(subject), warm_up(subject), blocks(subject))
    env = {row.switch: "0" for row in rows if row is not None}
    backend = image_attention(subject)
    if backend is None:
        return Settings(_unsaid(env, subject))
    if has_flag(subject):
        return Settings(_unsaid(env, subject), {FLAG: backend})
    return Settings(_unsaid({**env, VARIABLE: backend}, subject))


def _unsaid(env: dict[str, str], subject: Subject) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in subject.stack.serve.env}


def is_of_wheels(subject: Subject) -> bool:
    """Whether the image is of Debian packages and wheels; another base may bring a compiler."""
    base = subject.stack.base
    return base is not None and base.debian is not None


def names_compiler(subject: Subject) -> bool:
    """Whether the stack says where `nvcc` is: then nothing is turned off for it."""
    return not _NAMES_NVCC.isdisjoint(subject.stack.serve.env)


def compiles_flashinfer(subject: Subject) -> bool:
    """Whether FlashInfer would have to compile what it is asked for."""
    release, lock = subject.release, subject.lock
    if release is None or subject.gpu is None or release.flashinfer is None:
        return False
    is_there = lock is not None and any(wheel.name == _CACHE for wheel in lock.wheels)
    return is_of_wheels(subject) and not is_there


# --- what is compiled at the start ---------------------------------------------------------------


def sampler(subject: Subject) -> Compiled | None:
    """Return the release's sampler by FlashInfer, None where it has none or samples otherwise.

    Embeddings are not sampled; neither does FlashInfer where its results are shown.
    """
    mode = str(subject.args.get("logprobs-mode", ""))
    embeds = subject.model is not None and subject.model.task == "embedding"
    if embeds or mode.startswith("processed_") or not compiles_flashinfer(subject):
        return None
    return _at_start("sampler", subject)


def warm_up(subject: Subject) -> Compiled | None:
    """Return the warm-up of DeepGEMM that a release does whatever the model."""
    return _at_start("deep-gemm-warm-up", subject) if is_of_wheels(subject) else None


def blocks(subject: Subject) -> Compiled | None:
    """Return DeepGEMM as it multiplies FP8 in blocks."""
    is_in_blocks = subject.model is not None and subject.model.scheme == _BLOCKS
    return _at_start("deep-gemm", subject) if is_in_blocks and is_of_wheels(subject) else None


def _at_start(part: str, subject: Subject) -> Compiled | None:
    if subject.release is None or subject.gpu is None:
        return None
    return compiled_at_start(part, subject.version, subject.gpu.compute_capability)


# --- attention -----------------------------------------------------------------------------------


def has_flag(subject: Subject) -> bool:
    """Whether the release takes the backend as a flag; before, a variable names it."""
    return Version(subject.version) >= _FLAG_SINCE


def attention_place(subject: Subject) -> str:
    """Return the field that chooses the backend."""
    return f"serve.args.{FLAG}" if has_flag(subject) else f"serve.env.{VARIABLE}"


def told_attention(subject: Subject) -> str | None:
    """Return the backend that the stack names."""
    given = subject.args.get(FLAG)
    if given is None and Version(subject.version) < _VARIABLE_UNTIL:
        given = subject.stack.serve.env.get(VARIABLE)
    return None if given is None else str(given).upper()


def first_attention(subject: Subject) -> str | None:
    """Return the backend that the engine would take by itself."""
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None:
        return None
    tried = tried_attention(release, gpu, asked_cache(subject), mla=is_latent(subject))
    return next((name for name in tried if takes_sinks(subject, gpu, name)), None)


def other_attention(subject: Subject) -> tuple[str, ...]:
    """Return the backends that need no compiler, in the engine's order."""
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None:
        return ()
    tried = tried_attention(release, gpu, asked_cache(subject), mla=is_latent(subject))
    plain = (name for name in tried if not name.startswith(_FLASHINFER))
    return tuple(name for name in plain if takes_sinks(subject, gpu, name))


def takes_sinks(subject: Subject, gpu: Gpu, name: str) -> bool:
    """Whether a backend takes the sinks of a model's attention, True for a model without.

    FlashAttention does by version 3 on Hopper and version 4 on Blackwell for servers, FlashInfer by
    TensorRT-LLM's kernels, which are for the latter alone.
    """
    if subject.model is None or subject.model.architecture not in _WITH_SINKS:
        return True
    major = gpu.compute_capability.partition(".")[0]
    if name in {"FLASH_ATTN", "FLASH_ATTN_VLLM_V1"}:
        return major == "9" or (major == "10" and Version(subject.version) >= _FOURTH)
    return major == "10" if name.startswith(_FLASHINFER) else not name.startswith("FLEX")


def image_attention(subject: Subject) -> str | None:
    """Return the backend that the image names: where the first choice would be compiled."""
    first = first_attention(subject)
    if told_attention(subject) or first is None or not first.startswith(_FLASHINFER):
        return None
    if names_compiler(subject):
        return None
    others = other_attention(subject)
    return others[0] if others and compiles_flashinfer(subject) else None


def attention(subject: Subject) -> str | None:
    """Return the backend that computes attention."""
    return told_attention(subject) or image_attention(subject) or first_attention(subject)
