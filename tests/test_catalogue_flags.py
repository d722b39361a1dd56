"""Arguments of `vllm serve`, release by release."""

import pytest

from builder.catalogue import flags, releases, spans, tables
from builder.catalogue.arguments import Facts, Flag, releases_read
from builder.errors import BuilderError


@pytest.mark.parametrize(
    ("name", "version", "offered"),
    [
        ("--swap-space", "0.17.1", True),
        ("--swap-space", "0.18.0", False),
        ("--task", "0.12.0", True),
        ("--task", "0.13.0", False),
        ("--device", "0.9.2", True),
        ("--device", "0.10.0", False),
        ("--disable-log-requests", "0.16.0", True),
        ("--disable-log-requests", "0.17.0", False),
        ("--guided-decoding-backend", "0.11.2", True),
        ("--guided-decoding-backend", "0.12.0", False),
        ("--kv-cache-memory-bytes", "0.10.1.1", False),
        ("--kv-cache-memory-bytes", "0.10.2", True),
        ("--gpu-memory-utilization", "0.33.0", True),
        ("--enable-prefix-caching", "0.8.0", True),
        ("--worker-use-ray", "0.8.0", False),
        ("--grpc", "0.18.0", True),
    ],
)
def test_argument_of_a_release(name: str, version: str, offered: bool) -> None:
    assert flags.flags()[name].offered(version) is offered


def test_what_is_gone_says_what_took_its_place() -> None:
    assert flags.flags()["--task"].instead == "--runner and --convert"
    assert flags.flags()["--worker-use-ray"].instead == "--distributed-executor-backend ray"
    assert [row.name for row in flags.nevers()] == ["--enable-metrics"]


@pytest.mark.parametrize(
    ("name", "version", "removed", "added", "last"),
    [
        ("swap_space", "0.20.0", "0.18.0", None, "0.17.1"),
        ("swap-space", "0.17.0", None, None, "0.17.1"),
        ("runner", "0.9.0", None, "0.10.1", "0.33.0"),
        ("engine-use-ray", "0.20.0", "0.6.1.post1", None, None),
        ("enable-prompt-adapter", "0.12.0", "0.10.2", None, "0.10.1.1"),
    ],
)
def test_when_an_argument_came_and_went(
    name: str, version: str, removed: str | None, added: str | None, last: str | None
) -> None:
    found = flags.flag(name)
    assert found
    assert (found.removed_in(version), found.added_in(version)) == (removed, added)
    assert flags.last_with(name) == last


def test_last_release_with_an_argument_before_another() -> None:
    assert flags.last_with("port", "0.20.0") == "0.19.1"
    assert flags.last_with("no-such-thing") is None


@pytest.mark.parametrize(
    ("written", "version", "name", "negates"),
    [
        ("tensor-parallel-size", "0.20.2", "--tensor-parallel-size", False),
        ("tensor_parallel_size", "0.20.2", "--tensor-parallel-size", False),
        ("--tensor_parallel_size", "0.20.2", "--tensor-parallel-size", False),
        ("-tp", "0.20.2", "--tensor-parallel-size", False),
        ("-q", "0.8.0", "--quantization", False),
        ("-O", "0.11.2", "--compilation-config", False),
        ("-O3", "0.20.2", "--optimization-level", False),
        ("-cc.mode", "0.20.2", "--compilation-config", False),
        ("compilation-config.cudagraph_mode", "0.20.2", "--compilation-config", False),
        ("device-memory-utilization", "0.31.0", "--gpu-memory-utilization", False),
        ("no-enable-prefix-caching", "0.20.2", "--enable-prefix-caching", True),
        ("--no_enable_prefix_caching", "0.8.0", "--enable-prefix-caching", True),
        ("--disable-log-requests", "0.12.0", "--disable-log-requests", False),
        ("--disable-log-requests", "0.33.0", "--enable-log-requests", True),
    ],
)
def test_name_as_people_write_it(written: str, version: str, name: str, negates: bool) -> None:
    found = flags.spelling(written, version)
    assert found
    assert (found.flag.name, found.negates) == (name, negates)
    assert flags.flag(written)


@pytest.mark.parametrize(
    ("written", "version"),
    [
        ("tensor-parallel-sise", "0.20.2"),
        ("device-memory-utilization", "0.30.0"),
        ("no-trust-remote-code", "0.8.0"),  # a switch then
        ("no-port", "0.20.2"),
        ("-xyz", "0.20.2"),
        ("swap-space", "0.18.0"),
    ],
)
def test_name_that_a_release_does_not_take(written: str, version: str) -> None:
    assert flags.spelling(written, version) is None


def test_arguments_that_were_meant() -> None:
    assert flags.similar("tensor-parallel-sise", "0.20.2")[0] == "--tensor-parallel-size"
    assert "--swap-space" not in flags.similar("swap-spac", "0.20.2")
    assert flags.similar("qqqqqqqq", "0.20.2") == ()


@pytest.mark.parametrize(
    ("name", "version", "offered"),
    [
        ("VLLM_USE_V1", "0.11.0", True),
        ("VLLM_USE_V1", "0.11.1", False),
        ("VLLM_ATTENTION_BACKEND", "0.15.0", False),
        ("VLLM_ENABLE_CUDA_COMPATIBILITY", "0.17.0", True),
        ("VLLM_ENABLE_CUDA_COMPATIBILITY", "0.16.0", False),
        ("VLLM_HOST_IP", "0.8.0", True),
        ("VLLM_CUSTOM_OPS", "0.8.0", False),
    ],
)
def test_variable_of_a_release(name: str, version: str, offered: bool) -> None:
    found = flags.variable(name)
    assert found
    assert found.offered(version) is offered
    assert flags.variable(name + "_") is None


@pytest.mark.parametrize(
    ("name", "version", "kind", "form"),
    [
        ("tensor-parallel-size", "0.20.2", "int", ""),
        ("gpu-memory-utilization", "0.8.0", "float", ""),
        ("dtype", "0.20.2", "str", ""),
        ("enable-prefix-caching", "0.8.0", "bool", "pair"),
        ("trust-remote-code", "0.8.0", "bool", "switch"),
        ("trust-remote-code", "0.20.2", "bool", "pair"),
        ("enable-chunked-prefill", "0.8.0", "bool", "value"),
        ("compilation-config", "0.20.2", "json", ""),
        ("hf-overrides", "0.20.2", "json-or-str", ""),
        ("served-model-name", "0.20.2", "str", "list"),
        ("middleware", "0.20.2", "str", "repeat"),
        ("hf-token", "0.20.2", "str", "optional"),
        ("swap-space", "0.18.0", None, None),
    ],
)
def test_kind_and_form_of_a_value(
    name: str, version: str, kind: str | None, form: str | None
) -> None:
    assert (flags.kind(name, version), flags.form(name, version)) == (kind, form)
    assert flags.is_boolean(name, version) is (kind == "bool")


@pytest.mark.parametrize(
    ("name", "version", "value", "accepted"),
    [
        ("dtype", "0.8.0", "fp8", False),
        ("dtype", "0.33.0", "fp8", False),
        ("dtype", "0.33.0", "half", True),
        ("kv-cache-dtype", "0.9.2", "fp8_inc", False),
        ("kv-cache-dtype", "0.10.0", "fp8_inc", True),
        ("kv-cache-dtype", "0.10.2", "bfloat16", False),
        ("kv-cache-dtype", "0.11.0", "bfloat16", True),
        ("kv-cache-dtype", "0.19.1", "nvfp4", False),
        ("kv-cache-dtype", "0.20.0", "nvfp4", True),
        ("kv-cache-dtype", "0.33.0", "anything", None),  # checked later, as plugins add to it
        ("task", "0.8.0", "draft", False),
        ("task", "0.9.0", "draft", True),
        ("runner", "0.10.1", "pooling", True),
        ("convert", "0.16.0", "reward", False),
        ("quantization", "0.8.0", "awq", True),
        ("quantization", "0.8.0", "fp4", False),
        ("quantization", "0.20.2", "fp4", None),
        ("moe-backend", "0.20.2", "FlashInfer-Cutlass", True),
        ("reasoning-parser", "0.8.5", "granite", True),
        ("reasoning-parser", "0.8.5", "gpt", False),
        ("port", "0.20.2", "8000", None),
        ("swap-space", "0.18.0", "4", None),
    ],
)
def test_word_that_an_argument_takes(
    name: str, version: str, value: str, accepted: bool | None
) -> None:
    assert flags.accepts(name, version, value) is accepted


def test_words_of_an_argument_by_release() -> None:
    assert flags.choices("scheduling-policy", "0.20.2") == ("fcfs", "priority")
    assert flags.choices("port", "0.20.2") is None
    assert flags.choices("quantization", "0.20.2") is None
    assert "compressed-tensors" in flags.known("quantization", "0.20.2")
    assert "hermes" in flags.known("tool-call-parser", "0.20.2")
    assert "FLASHINFER" in flags.known("attention-backend", "0.20.2")
    assert flags.known("attention-backend", "0.12.0") == ()
    assert flags.variables()["VLLM_ATTENTION_BACKEND"].held("values", "0.8.0")


@pytest.mark.parametrize(
    ("name", "word", "when"),
    [
        ("kv-cache-dtype", "fp8_inc", (("0.10.0",),)),
        ("kv-cache-dtype", "fp8", (("0.8.0",),)),
        ("task", "draft", (("0.9.0", "0.13.0"),)),
        ("convert", "reward", (("0.10.1", "0.16.0"),)),
        ("kv-cache-dtype", "fp2", ()),
        ("no-such-thing", "fp2", ()),
    ],
)
def test_releases_that_list_a_word(name: str, word: str, when: spans.Pairs) -> None:
    assert flags.when(name, word) == when


def test_numbers_with_a_suffix() -> None:
    assert flags.is_scaled("max-model-len", "0.20.2")
    assert not flags.is_scaled("max-model-len", "0.8.0")
    assert not flags.is_scaled("max-num-seqs", "0.20.2")
    assert flags.number_words("max-model-len", "0.20.2") == ("auto",)
    assert flags.number_words("max-model-len", "0.12.0") == ()


def test_deprecated_and_default() -> None:
    assert flags.is_deprecated("task", "0.12.0")
    assert not flags.is_deprecated("task", "0.10.0")
    assert flags.default_of("gpu-memory-utilization", "0.19.1") == "0.9"
    assert flags.default_of("gpu-memory-utilization", "0.20.0") == "0.92"
    assert flags.default_of("max-model-len", "0.20.0") is None


def test_spans_are_of_releases_in_order() -> None:
    order = list(releases.releases())
    for flag in flags.flags().values():
        assert flag.name.startswith("--")
        known = [version for span in flag.present for version in span if version in order]
        assert known == sorted(known, key=order.index)
        assert all(len(span) in {1, 2} for span in flag.present)


def test_table_covers_the_releases_of_the_catalogue() -> None:
    assert list(releases_read()) == list(releases.releases())


def test_every_row_is_read_strictly() -> None:
    for part in ("flags", "variables"):
        for name, row in tables.table("serve")[part].items():
            facts = tables.read(Facts, row, name)
            assert part == "variables" or facts.kind
            for key in ("kind", "form", "default"):
                for version in releases_read():
                    assert len(spans.at(getattr(facts, key), version, "0.8.0")) <= 1
    strange = Flag("--x", (("0.8.0",),), "", row={"kinds": "int"})
    with pytest.raises(BuilderError, match=r"serve\.toml: --x: unknown key `kinds`"):
        strange.held("kind", "0.8.0")


def test_what_people_wrote_concerns_arguments_that_exist() -> None:
    known = flags.flags().keys() | flags.variables().keys()
    assert tables.table("flags")["instead"].keys() <= known
    generated = {*tables.table("serve")["flags"], *tables.table("serve")["variables"]}
    assert not generated & tables.table("flags")["former"].keys()


def test_default_that_changed() -> None:
    old, new = (flags.default("gpu_memory_utilization", v) for v in ("0.19.1", "0.20.0"))
    assert old
    assert new
    assert (old.value, new.value) == ("0.9", "0.92")
    assert flags.default("enable_prefix_caching", "0.11.2") is None


def test_hand_written_defaults_are_those_of_the_parsers() -> None:
    for version in ("0.19.1", "0.20.0"):
        kept = flags.default("gpu_memory_utilization", version)
        assert kept
        assert kept.value == flags.default_of("gpu_memory_utilization", version)
