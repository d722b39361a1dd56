"""Wheels become a virtual environment without running anything: the same one that pip makes."""

import csv
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from builder.assemble.collisions import Collision, Opener, collide
from builder.assemble.venv import WheelFile, write_prefix, write_wheel
from builder.errors import IntegrityError
from builder.lock import Wheel
from builder.oci.tar import TarWriter
from tests import wheel_maker
from tests.wheel_maker import EXECUTABLE

SERIES = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = f"{SERIES}.2"
SITE = f"opt/venv/lib/python{SERIES}/site-packages"
DEMO = "demo_app-1.0-py3-none-any.whl"
DATA = "demo_app-1.0.data"
MEMBERS = {
    "demo_app/__init__.py": "",
    "demo_app/tool.py": "def main():\n    print('hello')\n",
    "demo_app/run.sh": "#!/bin/sh\n",
    "demo_app.pth": "# a path file\n",
    f"{DATA}/scripts/rewritten": "#!python -x\nprint('hi')\n",
    f"{DATA}/scripts/windowed": "#!pythonw\r\nprint('hi')\n",
    f"{DATA}/scripts/shell": "#!/bin/sh\necho hi\n",
    f"{DATA}/headers/demo.h": "int x;\n",
    f"{DATA}/data/share/demo/words.txt": "words\n",
    f"{DATA}/purelib/pure.py": "p = 1\n",
    f"{DATA}/platlib/plat.py": "p = 2\n",
    "demo_app-1.0.dist-info/entry_points.txt": (
        "[console_scripts]\ndemo = demo_app.tool:main\nnested = demo_app.tool:Tool.run [extra]\n"
        "[gui_scripts]\ndemo-window = demo_app.tool:main\n"
        "[demo.plugins]\nother = demo_app.tool:main\n"
    ),
}
MODES = {"demo_app/run.sh": EXECUTABLE}


def openers(folder: Path, wheels: Sequence[Wheel]) -> list[Opener]:
    def opener(wheel: Wheel) -> Opener:
        return lambda: closing(WheelFile(wheel, folder / wheel.file, PYTHON))

    return [opener(wheel) for wheel in wheels]


def layer(folder: Path, wheels: Sequence[Wheel]) -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out.write)
    write_prefix(tar, PYTHON)
    skipped, _ = collide(openers(folder, wheels))
    for opener in openers(folder, wheels):
        with opener() as wheel:
            write_wheel(tar, wheel, skipped.get(wheel.wheel.file, ()))
    tar.close()
    return out.getvalue()


def unpacked(data: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(folder)  # noqa: S202 - our own bytes
    return folder


@pytest.fixture
def demo(tmp_path: Path) -> Wheel:
    return wheel_maker.write(tmp_path, DEMO, MEMBERS, MODES)


@pytest.fixture
def root(tmp_path: Path, demo: Wheel) -> Path:
    return unpacked(layer(tmp_path, [demo]), tmp_path / "root")


def test_every_scheme_has_its_place(tmp_path: Path, demo: Wheel) -> None:
    with openers(tmp_path, [demo])[0]() as file:
        found = {entry.path: entry.mode for entry in file.entries}
    info = f"{SITE}/demo_app-1.0.dist-info"
    assert found == {
        f"{SITE}/demo_app/__init__.py": 0o644,
        f"{SITE}/demo_app/tool.py": 0o644,
        f"{SITE}/demo_app/run.sh": 0o755,
        f"{SITE}/demo_app.pth": 0o644,
        "opt/venv/bin/rewritten": 0o755,
        "opt/venv/bin/windowed": 0o755,
        "opt/venv/bin/shell": 0o755,
        "opt/venv/bin/demo": 0o755,
        "opt/venv/bin/nested": 0o755,
        "opt/venv/bin/demo-window": 0o755,
        f"opt/venv/include/site/python{SERIES}/demo-app/demo.h": 0o644,
        "opt/venv/share/demo/words.txt": 0o644,
        f"{SITE}/pure.py": 0o644,
        f"{SITE}/plat.py": 0o644,
        f"{info}/entry_points.txt": 0o644,
        f"{info}/METADATA": 0o644,
        f"{info}/WHEEL": 0o644,
        f"{info}/INSTALLER": 0o644,
        f"{info}/RECORD": 0o644,
    }


def test_entry_points_become_scripts_of_the_prefix(root: Path) -> None:
    assert (root / "opt/venv/bin/demo").read_text() == (
        "#!/opt/venv/bin/python3\n"
        "import sys\n"
        "from demo_app.tool import main\n"
        'if __name__ == "__main__":\n'
        "    sys.exit(main())\n"
    )
    assert (root / "opt/venv/bin/nested").read_text().splitlines()[2:] == [
        "from demo_app.tool import Tool",
        'if __name__ == "__main__":',
        "    sys.exit(Tool.run())",
    ]


def test_scripts_get_the_python_of_the_prefix(root: Path) -> None:
    folder = root / "opt/venv/bin"
    assert (folder / "rewritten").read_bytes() == b"#!/opt/venv/bin/python3\nprint('hi')\n"
    assert (folder / "windowed").read_bytes() == b"#!/opt/venv/bin/python3\nprint('hi')\n"
    assert (folder / "shell").read_bytes() == b"#!/bin/sh\necho hi\n"


def test_a_script_of_the_wheel_wins_over_an_entry_point(tmp_path: Path) -> None:
    members = {
        f"{DATA}/scripts/demo": "#!/bin/sh\n",
        "demo_app-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo_app:main\n",
    }
    wheel = wheel_maker.write(tmp_path, DEMO, members)
    root = unpacked(layer(tmp_path, [wheel]), tmp_path / "root")
    assert (root / "opt/venv/bin/demo").read_text() == "#!/bin/sh\n"


def test_the_prefix_is_a_virtual_environment(root: Path) -> None:
    prefix = root / "opt/venv"
    assert (prefix / "pyvenv.cfg").read_text() == (
        "home = /usr/bin\n"
        "include-system-site-packages = false\n"
        f"version = {PYTHON}\n"
        f"executable = /usr/bin/python{SERIES}\n"
    )
    links = {
        name: str((prefix / name).readlink()) for name in ("bin/python", "bin/python3", "lib64")
    }
    links["series"] = str((prefix / f"bin/python{SERIES}").readlink())
    assert links == {
        "bin/python": f"/usr/bin/python{SERIES}",
        "bin/python3": "python",
        "series": "python",
        "lib64": "lib",
    }


def test_importlib_reads_and_verifies_the_record(root: Path) -> None:
    (found,) = importlib.metadata.distributions(path=[str(root / SITE)])
    assert (found.name, found.version) == ("demo_app", "1.0")
    assert found.read_text("INSTALLER") == "builder\n"
    names = {entry.name for entry in found.entry_points}
    assert names == {"demo", "nested", "demo-window", "other"}
    files = found.files or []
    assert len(files) == 19
    for file in files:
        content = file.read_binary()
        if file.name == "RECORD":
            assert (file.hash, file.size) == (None, None)
        else:
            assert file.size == len(content), file
            row = wheel_maker.recorded(str(file), content).split(",")[1]
            assert file.hash is not None
            assert f"{file.hash.mode}={file.hash.value}" == row, file


def test_the_record_is_sorted_and_names_what_lies_outside(root: Path) -> None:
    record = root / SITE / "demo_app-1.0.dist-info/RECORD"
    names = [row[0] for row in csv.reader(record.read_text().splitlines())]
    assert names == sorted(names)
    assert names[:3] == ["../../../bin/demo", "../../../bin/demo-window", "../../../bin/nested"]


def test_the_layer_is_the_same_every_time(tmp_path: Path, demo: Wheel) -> None:
    assert layer(tmp_path, [demo]) == layer(tmp_path, [demo])


BAD_NAMES = {
    "upwards": "../evil.py",
    "upwards inside": "demo_app/../../evil.py",
    "absolute": "/etc/evil",
    "backslash": "demo_app\\evil.py",
    "empty segment": "demo_app//evil.py",
    "dot": "./evil.py",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_names_that_leave_the_wheel_are_refused(tmp_path: Path, name: str) -> None:
    wheel = wheel_maker.write(tmp_path, DEMO, {name: "x"})
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    assert caught.value.message == f"{DEMO}: `{name}` is no regular file inside the wheel"


@pytest.mark.parametrize("kind", [0o120777, 0o060644, 0o010644], ids=["link", "device", "pipe"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: int) -> None:
    wheel = wheel_maker.write(tmp_path, DEMO, {"link": "/etc/passwd"}, {"link": kind})
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    assert caught.value.message == f"{DEMO}: `link` is no regular file inside the wheel"


@pytest.mark.parametrize("name", ["other/x", "scripts", "scripts/"])
def test_an_unknown_scheme_is_refused(tmp_path: Path, name: str) -> None:
    wheel = wheel_maker.write(tmp_path, DEMO, {f"{DATA}/{name}": "x"})
    if name.endswith("/"):
        layer(tmp_path, [wheel])  # a folder of its own means nothing
        return
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    assert caught.value.message == f"{DEMO}: unknown scheme in `{DATA}/{name}`"


@pytest.mark.parametrize("script", ["../../evil", "a/b", "..", "/abs"])
def test_an_entry_point_that_is_no_name_is_refused(tmp_path: Path, script: str) -> None:
    text = f"[console_scripts]\n{script} = demo_app:main\n"
    wheel = wheel_maker.write(tmp_path, DEMO, {"demo_app-1.0.dist-info/entry_points.txt": text})
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    assert caught.value.message == f"{DEMO}: entry point `{script}` is no name of a script"


@pytest.mark.parametrize("text", ["name = x\n", "[console_scripts]\na = nothing\n"])
def test_entry_points_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    wheel = wheel_maker.write(tmp_path, DEMO, {"demo_app-1.0.dist-info/entry_points.txt": text})
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    assert caught.value.message == f"{DEMO}: entry_points.txt cannot be read"


@pytest.mark.parametrize(
    "name", ["scripts/python3", f"scripts/python{SERIES}", "data/pyvenv.cfg", "data/lib64/x.so"]
)
def test_a_wheel_cannot_replace_the_environment(tmp_path: Path, name: str) -> None:
    wheel = wheel_maker.write(tmp_path, DEMO, {f"{DATA}/{name}": "x"})
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel])
    place = "/opt/venv/" + name.removeprefix("data/").replace("scripts", "bin")
    assert caught.value.message == f"{DEMO}: `{place}` is a file of the environment itself"


def damaged(tmp_path: Path, data: bytes) -> str:
    (tmp_path / DEMO).write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        layer(tmp_path, [wheel_maker.pin(DEMO, data)])
    return caught.value.message


def test_a_wheel_without_record_is_refused(tmp_path: Path) -> None:
    data = wheel_maker.archive(wheel_maker.metadata(DEMO))
    assert damaged(tmp_path, data) == f"{DEMO}: has no RECORD"


def test_a_wheel_needs_one_dist_info(tmp_path: Path) -> None:
    members = wheel_maker.metadata(DEMO) | {"other-2.dist-info/METADATA": ""}
    expected = f"{DEMO}: expected one .dist-info folder, got"
    assert damaged(tmp_path, wheel_maker.archive(members)) == f"{expected} 2"
    assert damaged(tmp_path, wheel_maker.archive({"a.py": ""})) == f"{expected} 0"


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    assert damaged(tmp_path, b"<html>") == f"{DEMO}: is not a wheel: File is not a zip file"


def pair(folder: Path, first: str, second: str) -> list[Wheel]:
    return [
        wheel_maker.write(folder, "aaa-1-py3-none-any.whl", {"shared/x.py": first, "a.py": "a"}),
        wheel_maker.write(folder, "bbb-2-py3-none-any.whl", {"shared/x.py": second, "b.py": "b"}),
    ]


def test_the_same_file_of_two_wheels_is_written_once(tmp_path: Path) -> None:
    found = collide(openers(tmp_path, pair(tmp_path, "same", "same")))
    assert found == ({"bbb-2-py3-none-any.whl": [f"{SITE}/shared/x.py"]}, ())


def test_the_later_wheel_of_the_lock_wins(tmp_path: Path) -> None:
    wheels = pair(tmp_path, "first", "later")
    skipped, found = collide(openers(tmp_path, wheels))
    path = f"{SITE}/shared/x.py"
    assert skipped == {"aaa-1-py3-none-any.whl": [path]}
    assert found == (Collision(path, "bbb-2-py3-none-any.whl", "aaa-1-py3-none-any.whl"),)
    assert str(found[0]) == (
        f"/{path}: bbb-2-py3-none-any.whl replaces the file of aaa-1-py3-none-any.whl"
    )
    root = unpacked(layer(tmp_path, wheels), tmp_path / "root")
    assert (root / path).read_text() == "later"


def test_a_path_of_three_wheels_has_one_writer(tmp_path: Path) -> None:
    texts = {"aaa": "1", "bbb": "2", "ccc": "1", "ddd": "1"}
    wheels = [
        wheel_maker.write(tmp_path, f"{name}-1-py3-none-any.whl", {"x.py": text})
        for name, text in texts.items()
    ]
    skipped, found = collide(openers(tmp_path, wheels))
    assert {name[:3]: paths for name, paths in skipped.items()} == {
        name: [f"{SITE}/x.py"] for name in ("aaa", "bbb", "ddd")
    }
    assert [(c.kept[:3], c.lost[:3]) for c in found] == [("bbb", "aaa"), ("ccc", "bbb")]


def test_a_wheel_is_open_only_while_it_is_looked_at(tmp_path: Path) -> None:
    wheels = pair(tmp_path, "same", "same")
    wheels += [wheel_maker.write(tmp_path, "ccc-1-py3-none-any.whl", {"c.py": "c"})]
    now: set[str] = set()
    together: list[set[str]] = []

    def counted(name: str, opener: Opener) -> Opener:
        @contextmanager
        def opened() -> Iterator[WheelFile]:
            now.add(name)
            together.append(set(now))
            with opener() as wheel:
                yield wheel
            now.remove(name)

        return opened

    collide([counted(name, o) for name, o in zip("abc", openers(tmp_path, wheels), strict=True)])
    assert together == [{"a"}, {"b"}, {"a", "b"}, {"c"}]


IGNORED = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}


def installed(prefix: Path) -> dict[str, tuple[bytes, int]]:
    """Files below the folders that installers write, less what names the installer."""
    found = {}
    for path in prefix.rglob("*"):
        name = str(path.relative_to(prefix))
        if path.is_symlink() or not path.is_file() or path.name in IGNORED:
            continue
        if (
            name.startswith(("bin/activ", "bin/deactiv", "bin/pydoc"))
            or "__pycache__" in name
            or "_virtualenv" in name
        ):
            continue
        found[name] = (path.read_bytes(), path.stat().st_mode & 0o111)
    return found


def test_uv_installs_the_same_files(tmp_path: Path, demo: Wheel, root: Path) -> None:
    theirs = tmp_path / "venv"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_CACHE_DIR": f"{tmp_path}/cache"}
    uv: list[str | Path] = [sys.executable, "-m", "uv", "--offline", "--quiet", "--no-config"]
    subprocess.run([*uv, "venv", "--python", sys.executable, theirs], check=True, env=env)
    argv = [*uv, "pip", "install", "--no-index", "--python", theirs, tmp_path / demo.file]
    subprocess.run(argv, check=True, env=env)
    expected, ours = installed(theirs), installed(root / "opt/venv")
    for made in ("pyvenv.cfg", ".gitignore", ".lock", "CACHEDIR.TAG"):
        expected.pop(made, None)
        ours.pop(made, None)
    # Each tool writes scripts with its own words; what they are called must agree.
    for script in ("demo", "nested", "demo-window", "rewritten", "windowed"):
        name = f"bin/{script}"
        assert expected.pop(name)[1]
        assert ours.pop(name)[1]
    renamed = {name.replace("/demo-app/", "/demo_app/"): value for name, value in ours.items()}
    assert renamed == {k.replace("/demo-app/", "/demo_app/"): v for k, v in expected.items()}


def test_a_console_script_runs(root: Path, tmp_path: Path) -> None:
    script = (root / "opt/venv/bin/demo").read_text()
    env = {"PYTHONPATH": str(root / SITE)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout == "hello\n"
