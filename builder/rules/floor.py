"""The oldest driver on which an image runs, and which CUDA release that driver reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from builder.catalogue.drivers import cuda_driver, driver_cuda, full_driver
from builder.catalogue.quantisation import choices
from builder.catalogue.releases import code, known_release, torch_releases

if TYPE_CHECKING:
    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release

_TOOLKIT = "NVIDIA CUDA toolkit release notes, minimum driver versions"
_FORWARD = "NVIDIA CUDA compatibility, forward compatibility"
_FLASH = "FLASH_ATTN"
_BY_FLASH = {_FLASH, "TRITON_MLA"}
"""Backends on FlashAttention; latent attention in Triton reads prompts by it."""
_FOURTH = Version("0.17.0")
"""First release whose FLASH_ATTN on 10.x is version 4, which brings no PTX
(vllm/v1/attention/backends/fa_utils.py)."""


class Floor(NamedTuple):
    """The oldest driver for something, and what asks for it."""

    driver: str
    """A version such as `575.51.03`, or a branch such as `570`."""
    reason: str
    source: str

    @property
    def cuda(self) -> str:
        """The CUDA release that this driver reports, for `NVIDIA_REQUIRE_CUDA`.

        Not that of the wheels: an image of CUDA 12.8 runs on a driver of CUDA 12.2, and
        `cuda>=12.8` would refuse it (github NVIDIA/nvidia-container-toolkit#213).
        """
        return driver_cuda(self.driver)


def image_floor(version: str, cuda: str, gpu: Gpu) -> Floor:
    """Return the oldest driver that runs an image: a release of vLLM, a CUDA release, a GPU.

    `cuda` is that of the locked runtime; the release's own counts where it is newer.  A release
    that the catalogue does not know is taken to bring no PTX.

    Raises:
        StackError: no driver is known for that CUDA release.
    """
    release = known_release(version)
    floors = [compiled_floor(release, cuda), gpu_floor(gpu)]
    needed = ptx_floor(release, gpu) if release else None
    if release and needed and runs_ptx(release, gpu, _without_compiler(release, gpu)):
        floors.append(needed)
    return max(floors, key=lambda floor: Version(floor.driver))


def _without_compiler(release: Release, gpu: Gpu) -> str | None:
    """Return the backend of an image, which has no compiler for FlashInfer."""
    tried = tried_attention(release, gpu)
    return next((name for name in tried if not name.startswith("FLASHINFER")), None)


def compiled_floor(release: Release | None, cuda: str | None = None) -> Floor:
    """Return what compiled code asks of the driver: any of the same major release, or newer."""
    known = [release.cuda] if release else []
    torch = torch_releases().get(release.torch) if release and cuda is None else None
    known += [each for each in (cuda, torch.cuda if torch else None) if each]
    newest = max(known, key=Version)
    what = f"vLLM {release.version}" if release else "the engine"
    reason = f"{what} is compiled with CUDA {newest}"
    return Floor(cuda_driver(newest.partition(".")[0]), reason, _TOOLKIT)


def gpu_floor(gpu: Gpu) -> Floor:
    """Return the oldest branch that knows the GPU."""
    return Floor(str(gpu.oldest_driver), f"{gpu.title} is newer than older branches", gpu.source)


def ptx_floor(release: Release, gpu: Gpu) -> Floor | None:
    """Return what a driver must be to compile the engine's PTX; None where it is of no use.

    FlashAttention 2 comes as code for 8.0 and as PTX.  Minor-version compatibility does not cover
    PTX, so beyond 8.x the driver must be as new as the toolkit; below 8.0 it does not run at all.
    """
    if not release.ptx or code(release.ptx, gpu.compute_capability) != "none":
        return None
    if not any(_reaches(name, gpu.compute_capability) for name in release.ptx):
        return None
    driver = full_driver(release.cuda)
    reason = f"vLLM {release.version} brings FlashAttention 2 as PTX of CUDA {release.cuda}"
    return Floor(driver, reason, f"{_TOOLKIT}; {_FORWARD}") if driver else None


def _reaches(ptx: str, capability: str) -> bool:
    """PTX runs on its own capability and on all newer ones."""
    return int(ptx) <= int(capability.replace(".", ""))


def tried_attention(
    release: Release, gpu: Gpu, kv_cache: str = "auto", *, mla: bool = False
) -> tuple[str, ...]:
    """Return the backends that the engine tries, in its order, as far as the wheels bring them."""
    names = choices(release.version, gpu.compute_capability, kv_cache, mla=mla)
    if release.flashinfer is None:
        return tuple(name for name in names if not name.startswith("FLASHINFER"))
    return names


def runs_ptx(release: Release, gpu: Gpu, backend: str | None) -> bool:
    """Whether that backend is FlashAttention 2 there: 9.0 has version 3, 10.x may have 4."""
    major = gpu.compute_capability.partition(".")[0]
    newer = major == "9" or (major == "10" and Version(release.version) >= _FOURTH)
    return backend in _BY_FLASH and not newer
