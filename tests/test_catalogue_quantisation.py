"""How quantised weights and caches run, GPU by GPU."""

import pytest

from builder import catalogue
from builder.catalogue import quantisation, releases

CAPABILITIES = [name for name in catalogue.architectures() if name not in {"8.7", "11.0"}]


@pytest.mark.parametrize(
    ("scheme", "version", "capability", "how"),
    [
        ("fp8", "0.20.2", "8.0", "weight-only"),
        ("fp8", "0.20.2", "8.6", "weight-only"),
        ("fp8", "0.20.2", "8.9", "native"),
        ("fp8", "0.13.0", "7.5", "refused"),
        ("fp8", "0.14.0", "7.5", "weight-only"),
        ("fp8", "0.19.1", "7.0", "refused"),
        ("fp8-block", "0.20.2", "8.6", "weight-only"),
        ("fp8-block", "0.20.2", "9.0", "native"),
        ("int8-w8a8", "0.33.0", "9.0", "native"),
        ("int8-w8a8", "0.33.0", "10.0", "refused"),
        ("int8-w8a8", "0.33.0", "12.0", "refused"),
        ("w4a16", "0.13.0", "7.5", "refused"),
        ("w4a16", "0.20.2", "12.1", "weight-only"),
        ("w4a8-fp8", "0.20.2", "9.0", "native"),
        ("w4a8-fp8", "0.20.2", "10.0", "refused"),
        ("nvfp4", "0.20.2", "8.6", "weight-only"),
        ("nvfp4", "0.20.2", "10.0", "native"),
        ("nvfp4", "0.19.1", "10.3", "refused"),
        ("nvfp4", "0.20.0", "10.3", "native"),
        ("nvfp4", "0.20.0", "12.1", "native"),
        ("mxfp4", "0.20.2", "7.5", "refused"),
        ("mxfp4", "0.20.2", "9.0", "weight-only"),
        ("mxfp8", "0.33.0", "9.0", "weight-only"),
        ("bitsandbytes", "0.27.1", "8.0", "weight-only"),
        ("bitsandbytes", "0.28.0", "8.0", "refused"),
        ("gguf", "0.24.0", "8.0", "refused"),
    ],
)
def test_how_a_scheme_runs(scheme: str, version: str, capability: str, how: str) -> None:
    found = quantisation.path(scheme, version, capability)
    assert found
    assert found.how == how


def test_what_no_source_says_is_not_guessed() -> None:
    assert quantisation.path("mxfp4", "0.9.0", "10.0") is None
    assert quantisation.path("no such scheme", "0.20.2", "9.0") is None


@pytest.mark.parametrize("scheme", quantisation.schemes())
def test_rows_of_a_scheme_do_not_contradict_each_other(scheme: str) -> None:
    own = [row for row in quantisation.paths() if row.scheme == scheme]
    for version in releases.releases():
        for capability in CAPABILITIES:
            found = {row.how for row in own if row.covers(version, capability)}
            assert len(found) <= 1, (version, capability)


@pytest.mark.parametrize("scheme", quantisation.schemes())
def test_newest_release_has_an_answer_for_every_gpu(scheme: str) -> None:
    newest = list(releases.releases())[-1]
    for capability in CAPABILITIES:
        assert quantisation.path(scheme, newest, capability), capability


@pytest.mark.parametrize(
    ("method", "version", "capability"),
    [
        ("fp8", "0.13.0", "8.0"),
        ("fp8", "0.14.0", "7.5"),
        ("modelopt", "0.20.2", "8.9"),
        ("modelopt", "0.27.0", "8.0"),
        ("awq_marlin", "0.13.0", "8.0"),
        ("gptq_marlin", "0.21.0", "7.5"),
        ("mxfp4", "0.20.2", "8.0"),
        ("compressed-tensors", "0.33.0", "7.0"),
        ("fp_quant", "0.33.0", "10.0"),
    ],
)
def test_floor_of_a_method(method: str, version: str, capability: str) -> None:
    floor = quantisation.methods()[method].floor(version)
    assert floor
    assert floor.capability == capability


@pytest.mark.parametrize(
    ("method", "version"),
    [
        ("gguf", "0.24.0"),
        ("bitsandbytes", "0.28.0"),
        ("hqq", "0.15.0"),
        ("mxfp4", "0.10.0"),
        ("humming", "0.19.1"),
    ],
)
def test_method_that_a_release_does_not_offer(method: str, version: str) -> None:
    assert quantisation.methods()[method].floor(version) is None


def test_tables_refer_to_each_other() -> None:
    for scheme in quantisation.schemes().values():
        assert set(scheme.methods) <= set(quantisation.methods())
    for path in quantisation.paths():
        assert path.scheme in quantisation.schemes()
        assert {path.minimum, path.maximum or path.minimum} <= {*CAPABILITIES, "8.7"}
    for backend in quantisation.attentions():
        assert set(backend.kv_cache) <= set(quantisation.cache_types())
        assert backend.read_in in releases.releases()
    for order in quantisation.orders():
        named = {row.name for row in quantisation.attentions() if row.read_in == order.read_in}
        assert set(order.backends) <= named


@pytest.mark.parametrize(
    ("version", "capability", "cache", "backend"),
    [
        ("0.20.2", "7.5", "auto", "FLASHINFER"),
        ("0.33.0", "7.5", "auto", "TRITON_ATTN"),
        ("0.20.2", "8.6", "auto", "FLASH_ATTN"),
        ("0.20.2", "8.0", "fp8", "FLASHINFER"),
        ("0.20.2", "9.0", "fp8", "FLASH_ATTN"),
        ("0.33.0", "9.0", "fp8_e5m2", "FLASHINFER"),
        ("0.33.0", "7.5", "fp8", None),
        ("0.20.2", "10.0", "auto", "FLASHINFER"),
        ("0.33.0", "12.0", "nvfp4", "FLASHINFER"),
        ("0.20.2", "12.0", "nvfp4", None),
        ("0.33.0", "8.0", "turboquant_k8v4", "TURBOQUANT"),
    ],
)
def test_backend_that_takes_a_cache(
    version: str, capability: str, cache: str, backend: str | None
) -> None:
    assert quantisation.attention(version, capability, cache) == backend


@pytest.mark.parametrize(
    ("capability", "cache", "backend"),
    [
        ("8.0", "auto", "TRITON_MLA"),
        ("8.0", "fp8", None),
        ("9.0", "auto", "FLASH_ATTN_MLA"),
        ("9.0", "fp8", "FLASHMLA"),
        ("10.0", "fp8", "FLASHINFER_MLA"),
        ("12.0", "fp8", "TRITON_MLA"),
    ],
)
def test_backend_of_latent_attention(capability: str, cache: str, backend: str | None) -> None:
    assert quantisation.attention("0.33.0", capability, cache, mla=True) == backend


def test_release_between_those_read_is_taken_as_the_older_one() -> None:
    assert quantisation.attention("0.25.0", "7.5", "auto") == "FLASHINFER"
    assert quantisation.attention("0.8.0", "8.0", "auto") == "FLASH_ATTN"
