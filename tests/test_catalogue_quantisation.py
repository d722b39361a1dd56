"""How quantised weights and caches run, GPU by GPU."""

import pytest
from packaging.version import Version

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
        ("fp8-block", "0.8.5", "8.0", "refused"),
        ("fp8-block", "0.9.0", "8.0", "weight-only"),
        ("fp8-block", "0.13.0", "7.5", "refused"),
        ("int8-w8a8", "0.33.0", "9.0", "native"),
        ("int8-w8a8", "0.33.0", "10.0", "refused"),
        ("int8-w8a8", "0.33.0", "12.0", "refused"),
        ("w4a16", "0.11.2", "7.5", "refused"),
        ("w4a16", "0.12.0", "7.5", "weight-only"),
        ("w4a16", "0.20.2", "12.1", "weight-only"),
        ("w4a8-fp8", "0.20.2", "9.0", "native"),
        ("w4a8-fp8", "0.10.0", "9.0", "refused"),
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
        assert {backend.since, backend.until or backend.since} <= set(releases.releases())
    for order in quantisation.orders():
        named = {row.name for row in quantisation.attentions() if row.mla == order.mla}
        assert set(order.backends) <= named


@pytest.mark.parametrize("mla", [False, True])
def test_every_release_has_one_order_for_every_gpu(*, mla: bool) -> None:
    own = [row for row in quantisation.orders() if row.mla == mla]
    for version in releases.releases():
        asked = Version(version)
        there = [
            row
            for row in own
            if Version(row.since) <= asked and (not row.until or asked < Version(row.until))
        ]
        majors = [major for row in there for major in (row.majors or (0,))]
        assert 0 in majors, version
        assert len(majors) == len(set(majors)), version


def test_every_release_runs_attention_on_every_gpu_that_it_has_code_for() -> None:
    for version, release in releases.releases().items():
        for capability in CAPABILITIES:
            if releases.code(release.architectures, capability) != "none":
                assert quantisation.attention(version, capability, "auto"), (version, capability)
                assert quantisation.attention(version, capability, "auto", mla=True)


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


@pytest.mark.parametrize(
    ("version", "capability", "cache", "backend"),
    [
        ("0.23.0", "7.5", "auto", "FLASHINFER"),
        ("0.24.0", "7.5", "auto", "TRITON_ATTN"),
        ("0.8.0", "8.0", "auto", "FLASH_ATTN"),
        ("0.9.2", "7.5", "auto", "XFORMERS"),
        ("0.10.2", "7.5", "auto", "FLEX_ATTENTION"),
        ("0.10.2", "8.0", "fp8", "XFORMERS"),
        ("0.10.2", "10.0", "auto", "FLASHINFER"),
        ("0.11.0", "8.0", "fp8", None),
        ("0.11.1", "8.0", "fp8", "FLASHINFER"),
        ("0.14.1", "9.0", "bfloat16", None),
        ("0.15.0", "9.0", "bfloat16", "FLASH_ATTN"),
        ("0.21.0", "9.0", "fp8_e5m2", "FLASH_ATTN"),
        ("0.22.0", "9.0", "fp8_e5m2", "FLASHINFER"),
        ("0.26.0", "10.0", "fp8", "FLASHINFER"),
        ("0.31.0", "12.0", "nvfp4", None),
        ("0.32.0", "12.0", "nvfp4", "FLASHINFER"),
    ],
)
def test_backends_moved_between_releases(
    version: str, capability: str, cache: str, backend: str | None
) -> None:
    assert quantisation.attention(version, capability, cache) == backend


@pytest.mark.parametrize(
    ("version", "capability", "backend"),
    [
        ("0.10.2", "9.0", "FLASHMLA"),
        ("0.10.2", "8.0", "TRITON_MLA"),
        ("0.14.0", "10.0", "CUTLASS_MLA"),
        ("0.15.0", "10.0", "FLASHINFER_MLA"),
    ],
)
def test_latent_attention_moved_between_releases(
    version: str, capability: str, backend: str
) -> None:
    assert quantisation.attention(version, capability, "auto", mla=True) == backend


@pytest.mark.parametrize(
    ("method", "version", "dtypes"),
    [
        ("awq", "0.20.2", {"float16"}),
        ("awq", "0.24.0", {"float16", "bfloat16"}),
        ("gptq", "0.21.0", {"float16"}),
        ("gptq", "0.22.0", {"float16", "bfloat16"}),
        ("mxfp4", "0.20.2", {"bfloat16"}),
        ("compressed-tensors", "0.10.0", {"float16", "bfloat16"}),
        ("compressed-tensors", "0.10.1", {"float32", "float16", "bfloat16"}),
        ("fp8_per_tensor", "0.33.0", set()),
    ],
)
def test_what_a_method_multiplies_in(method: str, version: str, dtypes: set[str]) -> None:
    floor = quantisation.methods()[method].floor(version)
    assert floor
    assert set(floor.dtypes) == dtypes


@pytest.mark.parametrize(
    ("method", "version", "deprecated"),
    [
        ("fbgemm_fp8", "0.13.0", False),
        ("fbgemm_fp8", "0.14.0", True),
        ("experts_int8", "0.19.1", True),
        ("experts_int8", "0.20.0", False),
        ("awq", "0.33.0", False),
    ],
)
def test_when_a_method_needs_leave(method: str, version: str, *, deprecated: bool) -> None:
    assert quantisation.methods()[method].is_deprecated(version) == deprecated


def test_what_a_method_loads() -> None:
    known = quantisation.methods()
    assert known["awq_marlin"].takes("awq")
    assert known["awq"].takes("awq")
    assert not known["awq"].takes("gptq")
    assert known["humming"].takes("compressed-tensors")
    named = {name for method in known.values() for name in method.loads}
    assert named - set(known) == {"any"}
