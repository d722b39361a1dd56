"""A stack with several GPUs: which image is meant, what it is called, and where it goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import console, pipeline
from builder import lock as locks
from builder.engine.session import Options
from builder.errors import UsageError
from builder.outputs import Registry
from builder.outputs import registry as registry_output
from builder.pipeline import cells, planning
from tests import registry_server
from tests.command_line import Run, runner
from tests.small_stack import SmallStack

L4, H100, B200 = "l4-24gb", "h100-sxm-80gb", "b200-180gb"
NAME = "localhost:5000/demo/small:0.32.0"
ONE_OF = f"hint: add --gpu NAME, one of: {L4}, {H100}\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    command_line = runner(monkeypatch, capsys)

    def call(command: str, stack: SmallStack, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("BUILDER_CACHE", str(stack.cache))
        return command_line(command, str(stack.path), *words)

    yield call
    console.configure(quiet=False)


def stack_for(folder: Path, *gpus: str, **text: Any) -> SmallStack:
    names = f"[{', '.join(gpus)}]" if len(gpus) > 1 else gpus[0]
    return SmallStack(folder, gpu=names, engine="vllm", **text)


@pytest.fixture
def stack(tmp_path: Path) -> SmallStack:
    return stack_for(tmp_path / "one", L4, H100)


def test_every_gpu_gets_an_image_in_the_order_of_the_stack(run: Run, stack: SmallStack) -> None:
    code, out, err = run("build", stack)
    assert code == 0, err
    digests = out.split()
    assert len(set(digests)) == 2
    lines = [line for line in err.splitlines() if line.startswith(NAME)]
    assert [line.partition(": ")[0] for line in lines] == [f"{NAME}-{L4}", f"{NAME}-{H100}"]
    for gpu, digest in zip((L4, H100), digests, strict=True):
        assert run("build", stack, "--gpu", gpu)[:2] == (0, f"{digest}\n")


def test_json_lists_several_images_and_names_one(run: Run, stack: SmallStack) -> None:
    rows = json.loads(run("build", stack, "--json")[1])
    assert [(row["gpu"], row["name"]) for row in rows] == [
        (L4, f"{NAME}-{L4}"),
        (H100, f"{NAME}-{H100}"),
    ]
    assert json.loads(run("build", stack, "--json", "--gpu", H100)[1]) == rows[1]


def test_the_images_of_a_stack_share_every_layer(run: Run, stack: SmallStack) -> None:
    one, other = json.loads(run("build", stack, "--json")[1])
    assert one["layers"] == other["layers"]
    written = {path for path in (stack.cache / "blobs").rglob("*") if path.is_file()}
    run("build", stack)
    assert {path for path in (stack.cache / "blobs").rglob("*") if path.is_file()} == written


def test_another_gpu_leaves_the_image_of_a_cell_as_it_is(
    run: Run, stack: SmallStack, tmp_path: Path
) -> None:
    before = run("build", stack, "--gpu", H100)[1]
    stack.change(gpu=f"[{B200}, {L4}, {H100}]")
    assert run("build", stack, "--gpu", H100)[:2] == (0, before)
    alone = stack_for(tmp_path / "alone", H100)
    assert run("build", alone)[:2] == (0, before)


def test_a_stack_with_one_gpu_keeps_its_tag(run: Run, tmp_path: Path) -> None:
    for words in ((), ("--gpu", H100)):
        row = json.loads(run("build", stack_for(tmp_path / "x", H100), "--json", *words)[1])
        assert (row["name"], row["gpu"]) == (NAME, H100)


def test_cpu_is_the_gpu_none(run: Run, tmp_path: Path) -> None:
    stack = SmallStack(tmp_path / "cpu")
    row = json.loads(run("build", stack, "--json", "--gpu", "none")[1])
    assert (row["name"], row["gpu"]) == (NAME, None)
    code, _, err = run("build", stack, "--gpu", L4)
    assert (code, err) == (2, f"error: --gpu: small is not for `{L4}`\nhint: --gpu none\n")


@pytest.mark.parametrize(
    ("gpu", "hint"), [("h100", f"hint: nearest: {H100}\n"), ("mi300x", ONE_OF)]
)
@pytest.mark.parametrize("command", ["build", "run", "plan", "render", "smoke"])
def test_an_unknown_gpu_is_refused(
    run: Run, stack: SmallStack, command: str, gpu: str, hint: str
) -> None:
    words = ("-o", "context") if command == "render" else ()
    code, out, err = run(command, stack, *words, "--gpu", gpu)
    assert (code, out) == (2, "")
    assert err == f"error: --gpu: small is not for `{gpu}`\n{hint}"


@pytest.mark.parametrize("command", ["run", "render", "smoke"])
def test_one_image_must_be_named_where_one_is_needed(
    run: Run, stack: SmallStack, command: str
) -> None:
    words = ("-o", "context") if command == "render" else ()
    code, out, err = run(command, stack, *words)
    fault = "one image is needed, and the stack has 2, one for each GPU"
    assert (code, out, err) == (2, "", f"error: {stack.path}: {fault}\n{ONE_OF}")


@pytest.mark.parametrize("output", ["oci:layout", "oci-archive:image.tar"])
def test_a_place_for_one_image_takes_no_more(
    run: Run, stack: SmallStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("build", stack, "--output", output)
    fault = "one image is needed, and the stack has 2, one for each GPU"
    assert (code, out, err) == (2, "", f"error: --output {output}: {fault}\n{ONE_OF}")
    assert run("build", stack, "--output", output, "--gpu", L4)[0] == 0
    assert (tmp_path / output.partition(":")[2]).exists()


def test_a_dry_run_names_the_layers_that_all_share(run: Run, stack: SmallStack) -> None:
    code, out, _ = run("build", stack, "--dry-run")
    assert (code, len(out.splitlines())) == (0, 5)


def layers(plan: str) -> str:
    return plan[plan.index("  layers ") : plan.index("  a release sends")]


def test_the_layers_of_a_plan_are_those_of_every_cell(run: Run, stack: SmallStack) -> None:
    code, out, err = run("plan", stack)
    assert (code, err) == (0, "")
    named = {gpu: run("plan", stack, "--gpu", gpu)[1] for gpu in (L4, H100)}
    assert layers(out) == layers(named[L4]) == layers(named[H100])


def test_the_lock_learns_the_layers_of_weights_for_all(run: Run, stack: SmallStack) -> None:
    made = stack.lock
    files = tuple(file.model_copy(update={"layer": None}) for file in made.models[0].files)
    models = (made.models[0].model_copy(update={"files": files}),)
    locks.write(stack.lock_path, made.model_copy(update={"models": models}))
    err = run("build", stack)[2]
    assert err.count("added the digests of weight layers") == 1
    assert [cell.name for cell in stack.lock.cells] == [L4, H100]
    assert any(file.layer for file in stack.lock.models[0].files)


def test_a_tag_that_is_given_is_exact_for_one_and_begins_those_of_several(
    run: Run, stack: SmallStack
) -> None:
    name = NAME.replace("0.32.0", "v2")
    rows = json.loads(run("build", stack, "--json", "--tag", "v2")[1])
    assert [row["name"] for row in rows] == [f"{name}-{L4}", f"{name}-{H100}"]
    row = json.loads(run("build", stack, "--json", "--tag", "v2", "--gpu", L4)[1])
    assert row["name"] == name


PUSHES = {
    "no tag": ("", (), [f"0.32.0-{L4}", f"0.32.0-{H100}"]),
    "a tag": (":v2", (), [f"v2-{L4}", f"v2-{H100}"]),
    "a tag for one": (":v2", ("--gpu", H100), ["v2"]),
    "no tag for one": ("", ("--gpu", H100), [f"0.32.0-{H100}"]),
}


@pytest.mark.parametrize("name", PUSHES)
def test_images_are_pushed_under_tags_of_their_own(
    run: Run, stack: SmallStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tag, words, expected = PUSHES[name]
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    (tmp_path / "registry").mkdir()
    with registry_server.serving(tmp_path / "registry") as registry:
        repository = f"{registry.host}/demo/small"
        code, out, err = run("build", stack, "--push", f"{repository}{tag}", "--json", *words)
        assert code == 0, err
        answer = json.loads(out)
        rows = answer if isinstance(answer, list) else [answer]
        pushed = [each for row in rows for each in row["pushed"]]
        assert [each["reference"] for each in pushed] == [f"{repository}:{t}" for t in expected]
        found = [registry.content.resolve("demo/small", t) for t in expected]
        assert found == [row["digest"] for row in rows]
        # Only its config and its manifest are new with a second image.
        assert [each["sent"] for each in pushed][1:] == [1] * (len(expected) - 1)


def test_several_images_have_no_digest_in_common() -> None:
    one = registry_output(f"r.test/a@sha256:{'0' * 64}", (), ())
    assert isinstance(one, Registry)
    with pytest.raises(UsageError, match="is one image, and several are built"):
        one.of_cell(L4)


def test_an_image_is_for_the_gpu_that_it_was_built_for() -> None:
    refused = "--gpu: some/image:1 is an image, for the GPU"
    with pytest.raises(UsageError, match=refused):
        pipeline.run("some/image:1", Options(), L4)
    with pytest.raises(UsageError, match=refused):
        pipeline.smoke("some/image:1", None, L4)


def test_one_build_is_of_one_image(stack: SmallStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(stack.cache))
    with pytest.raises(UsageError, match="one image is needed"):
        pipeline.build(stack.path, pipeline.BuildOptions())
    built = pipeline.build(stack.path, pipeline.BuildOptions(gpu=L4))
    assert built.locked.lock.gpu == stack.lock.cells[0]


def test_a_list_of_one_gpu_is_that_gpu(run: Run, tmp_path: Path) -> None:
    alone = run("build", stack_for(tmp_path / "alone", H100))[1]
    listed = SmallStack(tmp_path / "listed", gpu=f"[{H100}]", engine="vllm")
    assert run("build", listed)[:2] == (0, alone)
    assert cells.asked(listed.path, None) == (H100,)


def test_a_plan_of_a_cell_is_of_its_lock(stack: SmallStack) -> None:
    locked = cells.of(stack.path, H100, may_lock=False)
    assert locked.lock == locks.read(stack.lock_path).cell(H100)
    assert planning.plan_lock(locked, stack.cache, planning.PlanOptions()).layers
