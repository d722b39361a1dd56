"""Rules about the host, and the facts they judge; NVML through the real ctypes code."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builder.launcher import host, nvml
from builder.launcher.environment import Prepared
from builder.launcher.exits import ExitCode
from builder.launcher.host import Folder, Host
from builder.launcher.nvml import Card, Driver, NoDriver
from builder.launcher.preflight import fatal, judge
from builder.launcher.spec import Require

CARD = Card(0, "NVIDIA H100 80GB HBM3", (9, 0), 85520809984)
DRIVER = Driver("580.65.06", (13, 0), (CARD,))
REQUIRE = Require(
    gpus=1,
    gpu="h100-sxm-80gb",
    compute_capability=(9, 0),
    memory_bytes=85520809984,
    driver="580.65.06",
    shm_bytes=2**30,
)
HOST = Host(
    cache=Folder("/cache", is_writable=True, is_noexec=False),
    tmp=Folder("/tmp", is_writable=True, is_noexec=False),
    passed_over=(),
    user=10001,
    shm_bytes=2**30,
    driver=DRIVER,
    visible_devices=None,
)
NO_GPU = Require(
    gpus=0, gpu=None, compute_capability=None, memory_bytes=0, driver=None, shm_bytes=0
)


def with_card(**changes: object) -> Host:
    card = replace(CARD, **changes)  # type: ignore[arg-type]
    return replace(HOST, driver=replace(DRIVER, cards=(card,)))


def test_right_host_has_no_findings() -> None:
    assert judge(HOST, REQUIRE) == ()
    assert fatal(()) is None


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        pytest.param(
            replace(HOST, driver=NoDriver("`libnvidia-ml.so.1` is not there")),
            ExitCode.NO_DRIVER,
            "this image needs 1 GPU, h100-sxm-80gb, and the NVIDIA driver cannot be asked"
            "|`libnvidia-ml.so.1` is not there"
            "|docker run --gpus all, on a host with the NVIDIA driver and its container toolkit",
            id="no-driver",
        ),
        pytest.param(
            replace(HOST, driver=Driver("570.195.03", (12, 8), (CARD,))),
            ExitCode.OLD_DRIVER,
            "the NVIDIA driver is too old: this image needs 580.65.06 or newer"
            "|driver 570.195.03 (CUDA 12.8)"
            "|update the host's driver, or use an image that is built for an older CUDA",
            id="old-driver",
        ),
        pytest.param(
            with_card(name="NVIDIA A100", capability=(8, 0)),
            ExitCode.WRONG_CAPABILITY,
            "GPU 0 (NVIDIA A100) is another kind of GPU than this image was built for"
            " (compute capability 9.0, h100-sxm-80gb)"
            "|compute capability 8.0"
            "|use an image for this GPU, or choose the right one with --gpus device=N",
            id="capability",
        ),
        pytest.param(
            replace(HOST, driver=replace(DRIVER, cards=())),
            ExitCode.TOO_FEW_GPUS,
            "too few GPUs: this image needs 1 GPU, h100-sxm-80gb|0 visible"
            "|docker run --gpus 1 or --gpus all, and check CUDA_VISIBLE_DEVICES",
            id="count",
        ),
        pytest.param(
            replace(HOST, visible_devices="-1"),
            ExitCode.TOO_FEW_GPUS,
            "too few GPUs: this image needs 1 GPU, h100-sxm-80gb|0 visible, CUDA_VISIBLE_DEVICES=-1"
            "|docker run --gpus 1 or --gpus all, and check CUDA_VISIBLE_DEVICES",
            id="hidden",
        ),
        pytest.param(
            with_card(memory_bytes=40 * 2**30),
            ExitCode.TOO_LITTLE_MEMORY,
            "GPU 0 (NVIDIA H100 80GB HBM3) has too little memory: the model was planned for"
            " 79.6 GiB, h100-sxm-80gb|40.0 GiB"
            "|use an image for this GPU, or choose a larger one with --gpus device=N",
            id="memory",
        ),
        pytest.param(
            replace(HOST, shm_bytes=64 * 2**20),
            ExitCode.SMALL_SHM,
            "shared memory is too small: the engine needs 1024 MiB in /dev/shm|64 MiB"
            "|docker run --shm-size 1024m, or --ipc=host; "
            "Kubernetes: an emptyDir with medium Memory at /dev/shm",
            id="shm",
        ),
        pytest.param(
            replace(HOST, cache=Folder("/tmp/cache", is_writable=False, is_noexec=False)),
            ExitCode.CACHE,
            "/tmp/cache cannot be written: no place for compiled kernels and caches"
            "|not there or not writable for uid 10001"
            "|docker run --tmpfs /tmp:exec, or mount a writable volume at /cache",
            id="read-only",
        ),
        pytest.param(
            replace(HOST, tmp=Folder("/tmp", is_writable=False, is_noexec=False)),
            ExitCode.CACHE,
            "/tmp cannot be written: no place for temporary files"
            "|not there or not writable for uid 10001"
            "|docker run --tmpfs /tmp:exec, or mount a writable volume at /cache",
            id="read-only-tmp",
        ),
        pytest.param(
            replace(HOST, cache=Folder("/tmp/cache", is_writable=True, is_noexec=True)),
            ExitCode.CACHE,
            "/tmp/cache is mounted noexec: compiled kernels there cannot be loaded"
            "|noexec, the default of docker's --tmpfs"
            "|docker run --tmpfs /tmp:exec, or mount a volume at /cache",
            id="noexec",
        ),
        pytest.param(
            replace(HOST, passed_over=("/cache",), cache=replace(HOST.cache, path="/tmp/cache")),
            None,
            "the cache folder /cache is not used"
            "|not writable for uid 10001, using /tmp/cache"
            "|make it writable for uid 10001, or caches are lost with the container",
            id="passed-over",
        ),
        pytest.param(
            with_card(memory_bytes=None, fault="nvmlDeviceGetMemoryInfo: not supported"),
            None,
            "GPU 0 (NVIDIA H100 80GB HBM3) cannot be read in full"
            "|nvmlDeviceGetMemoryInfo: not supported"
            "|nvidia-smi on the host says more; the engine may fail on this GPU",
            id="unreadable",
        ),
        pytest.param(
            with_card(is_split=True, memory_bytes=0),
            None,
            "GPU 0 (NVIDIA H100 80GB HBM3) is in MIG mode|its memory is not checked"
            "|give a slice with --gpus device=MIG-..., and plan memory for the slice",
            id="mig",
        ),
    ],
)
def test_finding(found: Host, code: ExitCode | None, words: str) -> None:
    (finding,) = judge(found, REQUIRE)
    assert f"{finding.fault}|{finding.found}|{finding.hint}" == words
    assert finding.code is code
    assert fatal([finding]) is code


def test_all_findings_are_listed_and_the_first_fatal_one_counts() -> None:
    worst = replace(HOST, driver=Driver("1.0", None, ()), shm_bytes=0)
    codes = [finding.code for finding in judge(worst, REQUIRE)]
    assert codes == [ExitCode.OLD_DRIVER, ExitCode.TOO_FEW_GPUS, ExitCode.SMALL_SHM]
    assert fatal(judge(worst, REQUIRE)) is ExitCode.OLD_DRIVER


@pytest.mark.parametrize(
    ("capability", "is_right"),
    [((9, 0), True), ((9, 1), True), ((8, 9), False), ((10, 0), False)],
    ids=str,
)
def test_machine_code_runs_on_later_minor_versions(
    capability: tuple[int, int], *, is_right: bool
) -> None:
    assert (judge(with_card(capability=capability), REQUIRE) == ()) is is_right


def test_memory_may_differ_by_what_drivers_reserve() -> None:
    assert judge(with_card(memory_bytes=84 * 10**9), REQUIRE) == ()


@pytest.mark.parametrize(
    ("devices", "count"),
    [("0", 1), ("1,0", 2), ("0,7,1", 1), ("", 0), ("GPU-abc", 2)],
)
def test_visible_devices_are_followed(devices: str, count: int) -> None:
    two = replace(DRIVER, cards=(CARD, replace(CARD, index=1)))
    found = replace(HOST, driver=two, visible_devices=devices)
    has_enough = judge(found, replace(REQUIRE, gpus=count)) == ()
    has_more = judge(found, replace(REQUIRE, gpus=count + 1)) == ()
    assert (has_enough, has_more) == (True, False)


def test_facts_of_this_machine_without_gpu(tmp_path: Path) -> None:
    prepared = Prepared({}, str(tmp_path), ("/cache",))
    found = host.read(prepared, NO_GPU, {"CUDA_VISIBLE_DEVICES": "0"})
    assert found.driver is None
    assert (found.cache.path, found.cache.is_writable) == (str(tmp_path), True)
    assert (found.passed_over, found.visible_devices) == (("/cache",), "0")
    gone = host.read(replace(prepared, cache_root="/nowhere"), NO_GPU, {})
    assert not gone.cache.is_writable


def test_noexec_mounts_are_seen() -> None:
    prepared = Prepared({}, "/proc", ())
    mounts = Path("/proc/mounts").read_text().splitlines()
    options = next(line.split()[3] for line in mounts if line.split()[1] == "/proc")
    found = host.read(prepared, NO_GPU, {})
    assert found.cache.is_noexec is ("noexec" in options.split(","))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `libnvidia-ml.so.1` that obeys the environment."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("nvml") / nvml.LIBRARY
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return str(made)


def test_driver_and_cards_are_read(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    monkeypatch.setenv("FAKE_NVML_CLOSED", str(closed))
    monkeypatch.setenv("FAKE_NVML_DRIVER", "575.57.08")
    monkeypatch.setenv(
        "FAKE_NVML_CARDS",
        "NVIDIA H100,9,0,85520809984,-1,0;Split,8,0,1,1,0;Blind,12,1,1,0,3;Lost,0,0,0,0,15",
    )
    assert nvml.read(library) == Driver(
        version="575.57.08",
        cuda=(13, 0),
        cards=(
            Card(0, "NVIDIA H100", (9, 0), 85520809984),
            Card(1, "Split", (8, 0), 1, is_split=True),
            Card(2, "Blind", (12, 1), None, fault="nvmlDeviceGetMemoryInfo: not supported"),
            Card(
                3,
                "unreadable GPU",
                None,
                None,
                fault="nvmlDeviceGetHandleByIndex_v2: the GPU has fallen off the bus",
            ),
        ),
    )
    assert closed.exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("9", "nvmlInit_v2: the driver is not loaded"),
        (
            "18",
            (
                "nvmlInit_v2: the driver and its library have different versions: "
                "reload the driver or restart the host"
            ),
        ),
        ("999", "nvmlInit_v2: NVML error 999"),
    ],
)
def test_driver_that_does_not_answer(
    library: str, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_NVML_INIT", code)
    assert nvml.read(library) == NoDriver(reason)


def test_no_driver_library() -> None:
    assert nvml.read("libno-such.so.1") == NoDriver("`libno-such.so.1` is not there")


def test_library_without_nvml() -> None:
    reason = "nvmlInit_v2: the driver's library does not have it"
    assert nvml.read("libc.so.6") == NoDriver(reason)


@pytest.mark.gpu
def test_real_driver_is_read() -> None:
    found = nvml.read()
    assert isinstance(found, Driver)
    assert found.cards
    assert all(card.capability and card.memory_bytes for card in found.cards)
