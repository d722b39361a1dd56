"""Which files of a model enter an image, and what their content may say."""

import hashlib
import json
from typing import Any

import pytest

from builder.errors import IntegrityError, StackError
from builder.lock import ModelFile
from builder.sources import model_contents, model_facts, model_files
from builder.sources.model_contents import Contents
from builder.sources.safetensors import Header
from builder.stack.model import Files
from builder.stack.model import Model as Asked
from tests.model_maker import index

GOOD = ("config.json", "model.safetensors", "tokenizer.json")


def asked(
    include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), allow: tuple[str, ...] = ()
) -> Asked:
    files = Files(include=include, exclude=exclude)
    return Asked(repo="acme/tiny", files=files, allow_code=allow)


def refused(request: Asked, *paths: str) -> StackError:
    with pytest.raises(StackError) as caught:
        model_files.select(request, paths)
    return caught.value


def test_everything_but_bookkeeping_is_taken_and_sorted() -> None:
    paths = ("tokenizer.json", "README.md", "LICENSE", "model.safetensors", "config.json")
    hidden = (".gitattributes", ".git/config", ".cache/huggingface/x.lock", "a/.gitignore")
    assert model_files.select(asked(), (*paths, *hidden)) == tuple(sorted(paths))


PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], set[str]]] = {
    "all": ((), (), {"config.json", "model.safetensors", "docs/a.md", "docs/b/c.md"}),
    "star-crosses-folders": ((), ("docs/*",), {"config.json", "model.safetensors"}),
    "folder": ((), ("docs/",), {"config.json", "model.safetensors"}),
    "suffix": ((), ("*.md",), {"config.json", "model.safetensors"}),
    "include": (("*.json", "*.safetensors"), (), {"config.json", "model.safetensors"}),
    "both": (("*",), ("docs/b/*",), {"config.json", "model.safetensors", "docs/a.md"}),
    "case": ((), ("*.MD",), {"config.json", "model.safetensors", "docs/a.md", "docs/b/c.md"}),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_mean_what_they_mean_to_the_hubs_client(name: str) -> None:
    include, exclude, left = PATTERNS[name]
    paths = ("config.json", "model.safetensors", "docs/a.md", "docs/b/c.md")
    assert set(model_files.select(asked(include, exclude), paths)) == left


def test_pickles_are_refused_with_the_line_to_write() -> None:
    paths = (*GOOD, "pytorch_model.bin", "original/consolidated.00.pth", "training_args.bin")
    fault = refused(asked(exclude=("docs/*",)), *paths)
    assert fault.message == (
        "acme/tiny: `original/consolidated.00.pth`, `pytorch_model.bin`, `training_args.bin` "
        "can run code when they are loaded"
    )
    line = 'files: {exclude: ["docs/*", "*.pth", "*.bin"]}'
    assert fault.hint == f"write under model: {line}"
    model_files.select(asked(exclude=("docs/*", "*.pth", "*.bin")), paths)


def test_all_that_is_refused_is_said_at_once() -> None:
    fault = refused(asked(), *GOOD, "a.PT", "b.gguf", "original/model.safetensors")
    assert fault.message.splitlines() == [
        "acme/tiny: `a.PT` can run code when they are loaded",
        "acme/tiny: `b.gguf` are in a format that is not served",
        "acme/tiny: `original/model.safetensors` are not in the model's own folder",
    ]
    assert fault.hint.endswith('exclude: ["*.PT", "*.gguf", "original/*"]}')


def test_many_names_are_cut() -> None:
    fault = refused(asked(), *GOOD, *(f"pytorch_model-{n}.bin" for n in range(9)))
    assert "`pytorch_model-4.bin` and 4 more" in fault.message


def test_the_line_keeps_what_was_included() -> None:
    fault = refused(asked(include=("*",)), *GOOD, "x.bin")
    assert fault.hint.endswith('files: {include: ["*"], exclude: ["*.bin"]}')


def test_weights_that_include_names_are_meant() -> None:
    paths = (*GOOD, "adapter/model.safetensors")
    assert model_files.select(asked(include=("*",)), paths) == tuple(sorted(paths))


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (("config.json", "pytorch_model.bin"), "has no weights in safetensors format"),
        (("config.json", "unet/model.safetensors"), "has no weights in safetensors format"),
        (("model.safetensors",), "has no `config.json`"),
        ((), "has no `config.json`"),
    ],
)
def test_what_a_model_needs(paths: tuple[str, ...], reason: str) -> None:
    assert refused(asked(), *paths).message == f"acme/tiny: {reason}"


def test_the_stack_that_left_it_out_is_named() -> None:
    fault = refused(asked(exclude=("*.safetensors",)), *GOOD)
    assert fault.message.endswith("safetensors format among the files that `model.files` leaves")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up", "a//b", "a/./b", "a\nb", "a\\b", "x" * 256, "a/.wh.b", "\u202eabc"],
)
def test_odd_names_are_refused(path: str) -> None:
    assert "exclude it in model.files" in refused(asked(), *GOOD, path).hint


def test_the_same_path_twice_is_refused_but_not_in_another_case() -> None:
    assert "is there twice" in refused(asked(), *GOOD, "a.txt", "a.txt").message
    model_files.select(asked(), (*GOOD, "a.txt", "A.txt"))


# --- contents -----------------------------------------------------------------------------------


def header(*names: str) -> Header:
    return Header({"BF16": 8 * len(names)}, frozenset(names))


def check(request: Asked, files: dict[str, bytes], headers: dict[str, Header]) -> None:
    locked = [
        ModelFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in files.items()
    ]
    documents = {
        path: model_contents.document(data, path)
        for path, data in files.items()
        if path in model_contents.LOOKED_INTO
    }
    model_contents.check(request, locked, Contents(documents, headers))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


CODE = b"import os\n"
AUTO_MAP = json.dumps({"auto_map": {"AutoModel": "modeling_x.M", "T": ["tok.A", None]}}).encode()


def test_code_is_refused_by_its_digest() -> None:
    with pytest.raises(StackError) as caught:
        check(asked(allow=("0" * 64,)), {"modeling_x.py": CODE, "lib/x.so": b"so"}, {})
    assert caught.value.message.splitlines() == [
        f"acme/tiny: `modeling_x.py` is code: sha256 {sha256(CODE)}",
        f"acme/tiny: `lib/x.so` is code: sha256 {sha256(b'so')}",
    ]
    line = f'allow_code: ["{"0" * 64}", "{sha256(CODE)}", "{sha256(b"so")}"]'
    assert caught.value.hint == f"read it, then write under model: {line}"


def test_code_that_the_stack_names_is_allowed_with_its_auto_map() -> None:
    files = {"config.json": AUTO_MAP, "modeling_x.py": CODE, "tok.py": CODE}
    check(asked(allow=(sha256(CODE),)), files, {})


@pytest.mark.parametrize("path", ["config.json", "tokenizer_config.json"])
def test_auto_map_without_its_code_must_be_named_itself(path: str) -> None:
    with pytest.raises(StackError, match="names code to run in `auto_map`"):
        check(asked(), {path: AUTO_MAP}, {})
    check(asked(allow=(sha256(AUTO_MAP),)), {path: AUTO_MAP}, {})


def test_auto_map_of_another_repository_is_refused() -> None:
    data = json.dumps({"auto_map": {"AutoModel": "evil/repo--modeling_x.M"}}).encode()
    with pytest.raises(StackError, match="auto_map"):
        check(asked(allow=(sha256(CODE),)), {"config.json": data, "modeling_x.py": CODE}, {})


def test_an_index_that_agrees() -> None:
    shards = {"a": "1.safetensors", "b": "2.safetensors"}
    headers = {"1.safetensors": header("a"), "2.safetensors": header("b")}
    check(asked(), {model_contents.INDEX: index(shards)}, headers)


INDEXES: dict[str, tuple[Any, dict[str, Header], str]] = {
    "shard": (
        {"a": "1.safetensors", "b": "2.safetensors"},
        {"1.safetensors": header("a")},
        "names `2.safetensors`, which is not there",
    ),
    "missing": (
        {"a": "1.safetensors", "b": "1.safetensors"},
        {"1.safetensors": header("a")},
        "tensor `b` is not in `1.safetensors`",
    ),
    "unnamed": (
        {"a": "1.safetensors"},
        {"1.safetensors": header("a", "b")},
        "tensor `b` of `1.safetensors` is not what",
    ),
    "duplicate": (
        {"a": "1.safetensors", "b": "2.safetensors"},
        {"1.safetensors": header("a"), "2.safetensors": header("a", "b")},
        "tensor `a` of `2.safetensors` is not what",
    ),
    "empty": ({}, {"1.safetensors": header("a")}, "has no `weight_map`"),
    "number": ({"a": 1}, {}, "has no `weight_map`"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_contradicts_its_files(name: str) -> None:
    shards, headers, reason = INDEXES[name]
    with pytest.raises(IntegrityError) as caught:
        check(asked(), {model_contents.INDEX: index(shards)}, headers)
    assert reason in caught.value.message


def test_weights_that_no_index_names_are_refused() -> None:
    files = {model_contents.INDEX: index({"a": "1.safetensors"})}
    headers = {"1.safetensors": header("a"), "consolidated.safetensors": header("x")}
    with pytest.raises(StackError) as caught:
        check(asked(), files, headers)
    assert caught.value.hint == (
        'write under model: files: {exclude: ["consolidated.safetensors"]}'
    )
    check(asked(include=("*",)), files, headers)


def test_without_an_index_no_tensor_is_twice() -> None:
    with pytest.raises(IntegrityError, match=r"tensor `a` is in both `1\.safetensors` and"):
        check(asked(), {}, {"1.safetensors": header("a"), "2.safetensors": header("a")})


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_document_that_is_no_object(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"m: config\.json: is not a JSON object"):
        model_contents.document(data, "m: config.json")


# --- facts --------------------------------------------------------------------------------------


def test_facts_keep_what_rules_read_and_what_a_lock_can_hold() -> None:
    config = {
        "model_type": "x",
        "hidden_act": "silu",
        "head_dim": None,
        "architectures": ["A"],
        "rope_scaling": {"type": "yarn", "factor": 4.0, "none": None, "inf": float("inf")},
        "text_config": {"hidden_size": 8, "bos_token_id": 1},
        "vision_config": {"bos": 1},
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "ignore": ["lm_head"] * 500,
            "kv_cache_scheme": None,
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "observer": "x"}}
            },
        },
    }
    facts = model_facts.facts(config, [header("a"), header("b", "c")])
    assert facts.tensor_bytes == {"BF16": 24}
    assert facts.config == {
        "architectures": ("A",),
        "model_type": "x",
        "quantization_config": {
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
            "quant_method": "compressed-tensors",
        },
        "rope_scaling": {"factor": 4.0, "type": "yarn"},
        "text_config": {"hidden_size": 8},
    }
    assert list(facts.config) == sorted(facts.config)


def test_quantisation_beside_the_config_counts() -> None:
    separate = {"producer": {}, "quantization": {"quant_algo": "FP8"}}
    contents = Contents({"config.json": {}, "hf_quant_config.json": separate}, {})
    facts = model_facts.facts(contents.config, contents.weights)
    assert facts.config["quantization_config"] == {"quant_algo": "FP8", "quant_method": "modelopt"}


def test_bytes_count_the_index_only() -> None:
    headers = {"1.safetensors": header("a"), "extra.safetensors": header("x")}
    with_index = {model_contents.INDEX: {"weight_map": {"a": "1.safetensors"}}}
    assert Contents(with_index, headers).weights == [headers["1.safetensors"]]
    assert len(Contents({}, headers).weights) == 2
