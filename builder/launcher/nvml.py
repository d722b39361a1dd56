"""What the NVIDIA driver says about itself and its cards, through `libnvidia-ml.so.1`.

Faults are values: what cannot be read is for the preflight's rules to judge. Only called for
images that need a GPU.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
"""Comes from the host: the NVIDIA container toolkit puts it into the container."""

_TEXT_BYTES = 96
"""Longest name or version that NVML returns (NVML_DEVICE_NAME_V2_BUFFER_SIZE)."""

_FAULTS = {
    3: "not supported",
    4: "no permission",
    9: "the driver is not loaded",
    12: "the driver's library is incomplete",
    15: "the GPU has fallen off the bus",
    16: "the GPU needs a reset",
    17: "the operating system blocks access to the GPU",
    18: "the driver and its library have different versions: reload the driver or restart the host",
}
"""nvmlReturn_t, https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html"""


@dataclass(frozen=True)
class Card:
    """One GPU. None: could not be read."""

    index: int
    name: str
    capability: tuple[int, int] | None
    memory_bytes: int | None
    is_split: bool = False
    """In MIG mode: its memory is that of the slices."""
    fault: str = ""
    """Why something could not be read."""


@dataclass(frozen=True)
class Driver:
    """The driver and the cards that it shows to this container."""

    version: str
    cuda: tuple[int, int] | None
    """Newest CUDA version that the driver speaks."""
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class NoDriver:
    """The driver cannot be asked, and why."""

    reason: str


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _NvmlError(Exception):
    pass


def read(library: str = LIBRARY) -> Driver | NoDriver:
    """Ask the driver once."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return NoDriver(f"`{library}` is not there")
    try:
        with _session(nvml):
            return _driver(nvml)
    except _NvmlError as error:
        return NoDriver(str(error))


@contextmanager
def _session(nvml: ctypes.CDLL) -> Iterator[None]:
    _call(nvml, "nvmlInit_v2")
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _driver(nvml: ctypes.CDLL) -> Driver:
    version = _text(nvml, "nvmlSystemGetDriverVersion")
    count = ctypes.c_uint()
    _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    cards = tuple(_card(nvml, index) for index in range(count.value))
    return Driver(version=version, cuda=_cuda(nvml), cards=cards)


def _cuda(nvml: ctypes.CDLL) -> tuple[int, int] | None:
    number = ctypes.c_int()
    try:
        _call(nvml, "nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
    except _NvmlError:
        return None
    return number.value // 1000, number.value % 1000 // 10


def _card(nvml: ctypes.CDLL, index: int) -> Card:
    handle = ctypes.c_void_p()
    faults: list[str] = []
    try:
        _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    except _NvmlError as error:
        return Card(index, "unreadable GPU", None, None, fault=str(error))
    return Card(
        index=index,
        name=_name(nvml, handle, faults),
        capability=_capability(nvml, handle, faults),
        memory_bytes=_memory(nvml, handle, faults),
        is_split=_is_split(nvml, handle),
        fault="; ".join(faults),
    )


def _name(nvml: ctypes.CDLL, handle: ctypes.c_void_p, faults: list[str]) -> str:
    try:
        return _text(nvml, "nvmlDeviceGetName", handle)
    except _NvmlError as error:
        faults.append(str(error))
        return "unnamed GPU"


def _capability(
    nvml: ctypes.CDLL, handle: ctypes.c_void_p, faults: list[str]
) -> tuple[int, int] | None:
    major, minor = ctypes.c_int(), ctypes.c_int()
    pointers = (ctypes.byref(major), ctypes.byref(minor))
    try:
        _call(nvml, "nvmlDeviceGetCudaComputeCapability", handle, *pointers)
    except _NvmlError as error:
        faults.append(str(error))
        return None
    return major.value, minor.value


def _memory(nvml: ctypes.CDLL, handle: ctypes.c_void_p, faults: list[str]) -> int | None:
    memory = _Memory()
    try:
        _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    except _NvmlError as error:
        faults.append(str(error))
        return None
    return int(memory.total)


def _is_split(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> bool:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    pointers = (ctypes.byref(current), ctypes.byref(pending))
    try:
        _call(nvml, "nvmlDeviceGetMigMode", handle, *pointers)
    except _NvmlError:
        return False  # most cards cannot be split and say "not supported"
    return current.value == 1


def _text(nvml: ctypes.CDLL, function: str, *arguments: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    _call(nvml, function, *arguments, text, ctypes.c_uint(_TEXT_BYTES))
    return text.value.decode("utf-8", "replace")


def _call(nvml: ctypes.CDLL, function: str, *arguments: object) -> None:
    try:
        code = getattr(nvml, function)(*arguments)
    except AttributeError:
        fault = f"{function}: the driver's library does not have it"
        raise _NvmlError(fault) from None
    if code != 0:
        fault = f"{function}: {_FAULTS.get(code, f'NVML error {code}')}"
        raise _NvmlError(fault)
