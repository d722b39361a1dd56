"""Names of images are read as Docker reads them."""

import pytest

from builder.digest import Digest
from builder.errors import UsageError
from builder.reference import Reference, parse

DIGEST = Digest("sha256:" + "ab" * 32)
NAME_HINT = "use a-z, 0-9 and single `.`, `_`, `-` between them, parts divided by `/`"
TAG_HINT = "use up to 128 letters, digits, `_`, `.` and `-`, neither `.` nor `-` first"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("debian", "docker.io", "library/debian", None),
        ("debian:12", "docker.io", "library/debian", "12"),
        ("vllm/vllm-openai:v0.20.2", "docker.io", "vllm/vllm-openai", "v0.20.2"),
        ("docker.io/debian", "docker.io", "library/debian", None),
        ("index.docker.io/a/b", "docker.io", "a/b", None),
        ("registry-1.docker.io/a", "docker.io", "library/a", None),
        ("localhost/demo", "localhost", "demo", None),
        ("localhost:5000/demo:1.0", "localhost:5000", "demo", "1.0"),
        ("LocalHost/demo", "LocalHost", "demo", None),
        ("ghcr.io/a/b/c:x_Y.z-1", "ghcr.io", "a/b/c", "x_Y.z-1"),
        ("registry:5000/demo", "registry:5000", "demo", None),
        ("[::1]:5000/demo:1", "[::1]:5000", "demo", "1"),
        ("127.0.0.1/a__b/c---d/e.f", "127.0.0.1", "a__b/c---d/e.f", None),
    ],
)
def test_what_a_name_means(text: str, registry: str, repository: str, tag: str | None) -> None:
    assert parse(text) == Reference(registry, repository, tag)


def test_a_digest_stands_beside_a_tag() -> None:
    assert parse(f"debian:12@{DIGEST}") == Reference("docker.io", "library/debian", "12", DIGEST)


@pytest.mark.parametrize(
    "text", ["docker.io/library/debian:12", f"localhost:5000/a/b@{DIGEST}", "ghcr.io/a/b"]
)
def test_the_whole_form_reads_as_itself(text: str) -> None:
    assert str(parse(text)) == text


def test_docker_hub_answers_under_another_name() -> None:
    assert [parse(text).host for text in ("debian", "ghcr.io/a/b")] == [
        "registry-1.docker.io",
        "ghcr.io",
    ]


def test_a_tag_and_a_digest_replace_each_other() -> None:
    reference = parse("localhost:5000/demo:1.0")
    assert str(reference.with_digest(DIGEST)) == f"localhost:5000/demo@{DIGEST}"
    assert str(reference.with_digest(DIGEST).with_tag("2")) == "localhost:5000/demo:2"


@pytest.mark.parametrize(
    ("text", "fault", "hint"),
    [
        ("", "`library/` is not a name of a repository", NAME_HINT),
        ("a//b", "`a//b` is not a name of a repository", NAME_HINT),
        ("a/b/", "`a/b/` is not a name of a repository", NAME_HINT),
        ("a___b", "`library/a___b` is not a name of a repository", NAME_HINT),
        ("-a", "`library/-a` is not a name of a repository", NAME_HINT),
        ("Debian", "has capitals", "write docker.io/library/debian"),
        ("ghcr.io/Acme/X", "has capitals", "write ghcr.io/acme/x"),
        ("ab" * 32, "is an image ID, not a name", "name the repository: NAME@sha256:…"),
        ("a:", "`` is not a tag", TAG_HINT),
        ("a:.b", "`.b` is not a tag", TAG_HINT),
        ("a:" + "b" * 129, f"`{'b' * 129}` is not a tag", TAG_HINT),
        ("-a.b/c", "`-a.b` is not a host", "write HOST[:PORT]/NAME[:TAG]"),
        ("a.b:99999/c", "`a.b:99999` is not a host", "write HOST[:PORT]/NAME[:TAG]"),
        ("https://a.b/c", "has a scheme", "leave `https://` out: builder finds it out itself"),
        ("a.b/" + "c" * 252, "has over 255 characters", "use a shorter name"),
        (
            "localhost:5000",
            "names a registry and no repository",
            "write localhost:5000/NAME[:TAG]",
        ),
        (
            "a@sha256:12",
            "expected `sha256:` and 64 hex digits, got `sha256:12`",
            "copy the whole digest: NAME@sha256:…",
        ),
    ],
)
def test_nonsense_is_told_from_names(text: str, fault: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.message == f"image reference `{text[:255]}`: {fault}"
    assert caught.value.hint == hint


def test_a_new_tag_is_checked() -> None:
    with pytest.raises(UsageError, match="`a b` is not a tag"):
        parse("localhost/demo").with_tag("a b")


def test_a_password_before_the_host_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse("me:s3cret@registry.test/a:v1")
    assert "s3cret" not in caught.value.message + caught.value.hint
