"""What was installed from a wheel does what a checkout does, in a folder with one stack file."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "lockfiles" / "pylock.tiny-llama-cpu.toml"

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wheel of this checkout, unpacked where nothing of the checkout is in reach."""
    folder = tmp_path_factory.mktemp("installed")
    places = ["-w", str(folder), str(ROOT)]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *places]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    yield folder / "site"
    shutil.rmtree(folder)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One stack file with its model and its lock, and nothing else."""
    shutil.copytree(ROOT / "stacks" / "models" / "tiny-llama", tmp_path / "models" / "tiny-llama")
    shutil.copy(ROOT / "stacks" / "tiny-llama-cpu.yaml", tmp_path)
    shutil.copy(LOCK, tmp_path)
    return tmp_path


def builder(site: Path, project: Path, *words: str) -> str:
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import builder.cli as c; c.main()"
    command = [sys.executable, "-P", "-c", program, *words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_its_data(site: Path) -> None:
    names = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    for expected in (
        "builder/_data/dockerfiles/vllm.Dockerfile.j2",
        "builder/_data/smoke/conftest.py",
        "builder/catalogue/engines.toml",
        "builder/launcher/__main__.py",
        "builder/py.typed",
    ):
        assert expected in names


def test_an_installed_builder_gives_the_digest_of_the_checkout(site: Path, project: Path) -> None:
    checkout = subprocess.run(
        [sys.executable, "-m", "builder", "build", "--locked", "stacks/tiny-llama-cpu.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    built = builder(site, project, "build", "--locked", "tiny-llama-cpu.yaml")
    assert built == checkout.stdout


def test_a_lock_made_beside_the_stack_is_the_committed_one(site: Path, project: Path) -> None:
    builder(site, project, "lock", "tiny-llama-cpu.yaml")
    assert (project / LOCK.name).read_bytes() == LOCK.read_bytes()
    assert builder(site, project, "lock", "--check", "tiny-llama-cpu.yaml") == ""


def test_an_installed_builder_renders(site: Path, project: Path) -> None:
    command = builder(site, project, "render", "tiny-llama-cpu.yaml", "-o", "context")
    assert command.startswith("docker buildx build ")
    assert (project / "context" / "Dockerfile").read_text().splitlines()[
        1
    ] == f"# {command.strip()}"
