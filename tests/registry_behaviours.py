"""Everything a registry may do to a client, and what is to come of it: a specification by rows.

Each row lets a good registry misbehave in one way, and says how it ends: `pushed` or `read`, or
the class of the error with words that its message has.  `again` is how many blobs may at most be
sent once more.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from builder.digest import of_bytes
from builder.oci.image import Image
from tests import registry_faults as faults
from tests.registry_content import Code
from tests.registry_faults import FOREVER, Answers, Changed, Changes, Refuses, Resets, Rule, Sends
from tests.registry_server import AS_DOCKER_REGISTRY, Ways
from tests.registry_wire import Fault

KIB = 1 << 10
LAYER = 192 * KIB
LARGE = 6 * 1024 * KIB
"""More than the connection holds: the client still sends when it is answered."""
DAY = "86400"
HTML = b"<html><body><h1>Bad Gateway</h1>" + b"<p>nginx</p>" * 50 + b"</body></html>"
ODD = b'{"errors": [{"code": "X", "message": "\\u001b[2J\\u0007 red \\u202e"}]}'
_PUT, _POST, _TOKEN = "PUT upload", "POST uploads", "GET token"
_BLOB, _HEAD, _MANIFEST = "GET blob", "HEAD blob", "PUT manifest"

Act = Literal["push", "blob", "manifest", "referrers"]
Rules = tuple[Rule, ...]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    name: str
    made: Rules | Callable[[Image], Rules]
    result: str
    words: str = ""
    """A pattern that the error's message matches."""
    again: int = 0
    """Blobs that may be sent once more."""
    sent: bool | None = None
    """Whether blobs are sent at all, where that is the point."""
    act: Act = "push"
    mount: bool = False
    """The layers are in another repository."""
    present: bool = False
    """The layers are there."""
    login: bool = True
    auth: Literal["basic", "bearer"] = "bearer"
    layer: int = LAYER
    tls: bool = False
    quick: bool = False
    """Silence is meant to last longer than the client waits."""
    moved: bool = False
    """The tag names something else at the end."""
    foreign: bool | None = None
    """Whether another host is asked, where that is the point."""
    ways: Ways = field(default_factory=Ways)
    slept: tuple[float, float] | None = None
    """Between what the longest wait is."""

    def rules(self, image: Image) -> Rules:
        return self.made if isinstance(self.made, tuple) else self.made(image)


def on(words: str, fault: Fault, nth: int = 1, times: int = 1) -> Rules:
    role: Literal["token", "registry"] = "token" if words == _TOKEN else "registry"
    return (Rule(words, fault, nth, times, role),)


def always(words: str, fault: Fault) -> Rules:
    return on(words, fault, times=FOREVER)


def says_there(image: Image) -> Rules:
    sizes: dict[str, int] = {layer.digest: layer.size for layer in image.layers}
    sizes[of_bytes(image.config)] = len(image.config)
    return always(_HEAD, faults.SaysThere(sizes))


def moves_tag(image: Image) -> Rules:
    return on(_MANIFEST, faults.MovesTag(image.manifest + b"\n"), nth=2)


def _date(_: Image) -> Rules:
    return on(_PUT, faults.busy(faults.date_in(20, time.time())))


def case(
    name: str,
    made: Rules | Callable[[Image], Rules],
    result: str = "pushed",
    words: str = "",
    **more: object,
) -> Behaviour:
    return Behaviour(name=name, made=made, result=result, words=words, **more)  # type: ignore[arg-type]


ACCESS = (
    case("nothing wrong, user and password", (), auth="basic", sent=True),
    case("nothing wrong, docker-registry", (), ways=AS_DOCKER_REGISTRY, sent=True),
    case("nothing wrong, TLS", (), tls=True, sent=True),
    case("nothing wrong", (), sent=True),
    case("401 in mid-upload: the token ended", on(_PUT, faults.TokenOver(0.5)), again=1),
    case(
        "401 in mid-upload: every token ended",
        on(_PUT, faults.TokenOver(0.5, everyone=True)),
        again=2,
    ),
    case(
        "401 in mid-upload, answered early", on(_PUT, faults.TokenOver(0.1)), again=1, layer=LARGE
    ),
    case("401 to every upload", always(_PUT, faults.TokenOver()), "UnauthorizedError", again=2),
    case("401 to everything", always("* [!p]*", faults.TokenOver()), "UnauthorizedError"),
    case("403 when an upload begins", always(_POST, Refuses(Code.DENIED)), "ForbiddenError"),
    case("404 name unknown", always(_POST, Refuses(Code.NAME_UNKNOWN)), "NotFoundError"),
    case("a stranger", (), "UnauthorizedError", login=False),
    case("400 that shows our header", always(_POST, faults.Echoes()), "RejectedError"),
)
TOKENS = (
    case("token service: 401", always(_TOKEN, Refuses(Code.UNAUTHORIZED)), "UnauthorizedError"),
    case("token service: 403", always(_TOKEN, Refuses(Code.DENIED)), "ForbiddenError"),
    case("token service: 500 once", on(_TOKEN, Answers(500))),
    case("token service: 500 always", always(_TOKEN, Answers(500)), "BusyError"),
    case("token service: 429", on(_TOKEN, faults.busy("3")), slept=(3, 4)),
    case("token service: not JSON", always(_TOKEN, Answers(200, {}, HTML)), "UnfitError"),
    case("token service: a list", always(_TOKEN, Answers(200, {}, b"[]")), "UnfitError"),
    case(
        "token service: token with a line end",
        always(_TOKEN, faults.Grants({"token": "a\r\nb"})),
        "UnfitError",
    ),
    case("token service: no expires_in", always(_TOKEN, faults.Grants({"expires_in": None}))),
    case("token service: ended at once", always(_TOKEN, faults.Grants({"expires_in": -1}))),
    case("token service: reset", on(_TOKEN, Resets())),
    case(
        "token service: redirect elsewhere",
        always(_TOKEN, Sends("elsewhere", 307)),
        "RejectedError",
        foreign=True,
    ),
    case(
        "token service: https to http",
        on(_TOKEN, Sends("plain", 307)),
        "UnfitError",
        tls=True,
        foreign=False,
    ),
)
BUSY = (
    case("429, wait 7 s", on(_PUT, faults.busy("7")), again=1, slept=(7, 7)),
    case("429, wait until a date", _date, again=1, slept=(15, 21)),
    case("429, no word how long", on(_PUT, faults.busy()), again=1, slept=(0.5, 1)),
    case(
        "429, wait a day",
        on(_PUT, faults.busy(DAY)),
        "BusyError",
        "asks to be left alone for",
        slept=(0, 0),
    ),
    case("429, nonsense", on(_PUT, faults.busy("soon")), again=1, slept=(0.5, 1)),
    *(
        case(f"{status} once", on(_PUT, Answers(status, {}, HTML)), again=1)
        for status in (500, 502, 503, 504)
    ),
    case("408 once", on(_PUT, Answers(408)), again=1),
    case("503 three times", on(_PUT, Answers(503), times=3), again=3),
    case("503 for ever", always(_PUT, Answers(503)), "BusyError", again=10),
    case("503 when asked for blobs", on(_HEAD, Answers(503), times=3)),
    case("503 when an upload begins", on(_POST, Answers(503), times=2)),
    case("503 to the manifest", on(_MANIFEST, Answers(503), times=2)),
    case("507: the disk is full", always(_PUT, Answers(507)), "RejectedError"),
)
_CLOSED = tuple(
    Rule(words, faults.HangsUp()) for words in ("GET ping", _HEAD, _POST, _PUT, _MANIFEST)
)
_STORM = (
    *on(_HEAD, Answers(502)),
    *on(_POST, Resets(), nth=2),
    Rule(_PUT, faults.TokenOver(0.5), 1),
    Rule(_PUT, Resets(0.5), 1),
    Rule(_PUT, faults.busy("2"), 1),
    *on(_MANIFEST, Answers(504)),
    *on("GET manifest", faults.Truncates()),
)
BREAKS = (
    case("seven faults in one push", _STORM, again=3),
    case("reset at the first question", on("GET ping", Resets())),
    case("reset when an upload begins", on(_POST, Resets())),
    case("reset before the body", on(_PUT, Resets()), again=1),
    case("reset after the first byte", on(_PUT, Resets(1e-9)), again=1),
    case("reset in the middle", on(_PUT, Resets(0.5)), again=1),
    case("reset in the middle of a large layer", on(_PUT, Resets(0.5)), again=1, layer=LARGE),
    case("reset at the last byte", on(_PUT, Resets(0.999999)), again=1),
    case("reset, though the blob is stored", on(_PUT, faults.ResetsLate())),
    case("reset of every upload", always(_PUT, Resets(0.5)), "BrokenError", again=10),
    case("reset, though the manifest is stored", on(_MANIFEST, faults.ResetsLate())),
    case("closed between requests", _CLOSED, again=1),
    case("answer in drops", always("*", faults.Drips())),
    case("no answer in time", on(_PUT, faults.Stalls()), quick=True),
    case("no answer in time to HEAD", on(_HEAD, faults.Stalls()), quick=True),
    case(
        "manifest cut short", on("GET manifest", faults.Truncates()), act="manifest", result="read"
    ),
    case(
        "manifest stops coming",
        on("GET manifest", faults.Stalls(0.5)),
        act="manifest",
        result="read",
        quick=True,
    ),
)
UPLOADS = (
    case("201 after the first bytes", on(_PUT, Answers(201, part=0.05)), again=1, layer=LARGE),
    case("201 and nothing stored", on(_PUT, Answers(201)), "RejectedError", "blob unknown"),
    case(
        "wrong digest of a blob",
        on(_PUT, Changes({"docker-content-digest": "sha256:" + "0" * 64})),
        "DigestError",
        "expected",
    ),
    case(
        "other bytes arrive: 400",
        on(_PUT, Refuses(Code.DIGEST_INVALID)),
        "RejectedError",
        "digest invalid",
    ),
    case("416 to an upload", on(_PUT, Answers(416)), again=1),
    case("404 upload unknown", on(_PUT, Refuses(Code.BLOB_UPLOAD_UNKNOWN)), again=1),
    case(
        "404 upload unknown, always",
        always(_PUT, Refuses(Code.BLOB_UPLOAD_UNKNOWN)),
        "LostError",
        again=10,
    ),
    case(
        "413 to a layer",
        always(_PUT, Answers(413, {}, HTML)),
        "TooLargeError",
        "refuses a layer",
    ),
    case(
        "413 while we send",
        always(_PUT, Answers(413, {}, HTML, 0.05)),
        "TooLargeError",
        layer=LARGE,
    ),
    case("location is relative", always(_POST, Changed(faults.relative))),
    case("location is on another host", always(_POST, Sends("elsewhere")), foreign=True),
    case(
        "location is on http",
        always(_POST, Sends("plain")),
        "UnfitError",
        "from https to `http",
        tls=True,
        foreign=False,
    ),
    case(
        "location is missing",
        always(_POST, Changes({"location": ""})),
        "UnfitError",
        "did not say where",
    ),
    case(
        "location is not an address",
        always(_POST, Changes({"location": "http://[::1"})),
        "UnfitError",
        "unreadable address",
    ),
    case(
        "redirect of the upload itself",
        always(_PUT, Sends("elsewhere", 307)),
        "RejectedError",
        "answered 307",
        foreign=False,
    ),
)
MOUNTS = (
    case("mount: 201", (), mount=True, sent=False),
    case("mount: 202", always("POST uploads", faults.OpensUpload()), mount=True, sent=True),
    *(
        case(f"mount: {status}", on(_POST, Answers(status), times=2), mount=True, sent=True)
        for status in (404, 405)
    ),
    case("mount: 500", on(_POST, Answers(500), times=4), mount=True, sent=True),
    case("mount: 403", on(_POST, Refuses(Code.DENIED), times=2), mount=True),
    case("mount: reset", on(_POST, Resets()), mount=True),
    case("mount: 201 and no blob", on(_POST, faults.SaysMounted(), times=2), mount=True, sent=True),
)
QUESTIONS = (
    case("layers are there", (), present=True, sent=False),
    case(
        "HEAD: 404 though there",
        always(_HEAD, Refuses(Code.BLOB_UNKNOWN)),
        present=True,
        sent=True,
        again=2,
    ),
    case("HEAD: 200 though missing", says_there, sent=True),
    case(
        "HEAD: no length", always(_HEAD, Changes({"content-length": ""})), present=True, sent=False
    ),
    case(
        "HEAD: another size", always(_HEAD, Changes({"content-length": "1"})), present=True, again=2
    ),
    case("HEAD: 405", always(_HEAD, Refuses(Code.UNSUPPORTED)), present=True, sent=False),
    case(
        "HEAD: redirect",
        always(_HEAD, Sends("elsewhere", 307)),
        present=True,
        sent=False,
        foreign=True,
    ),
)
MANIFESTS = (
    case(
        "manifest refused",
        always(_MANIFEST, Refuses(Code.MANIFEST_INVALID)),
        "RejectedError",
        "manifest invalid",
    ),
    case(
        "wrong digest of the manifest",
        on(_MANIFEST, Changes({"docker-content-digest": "sha256:" + "0" * 64})),
        "DigestError",
    ),
    case("tag is not there at once", on("GET manifest", Refuses(Code.MANIFEST_UNKNOWN), times=2)),
    case(
        "tag is never there",
        always("GET manifest", Refuses(Code.MANIFEST_UNKNOWN)),
        words="not shown yet",
    ),
    case("tag moved by somebody else", moves_tag, words="somebody else moved the tag", moved=True),
    case(
        "tag has another digest",
        on("GET manifest", Changes({"docker-content-digest": "sha256:" + "0" * 64})),
        act="manifest",
        result="IntegrityError",
    ),
    case(
        "manifest with other bytes",
        on("GET manifest", Changed(faults.other_bytes)),
        act="manifest",
        result="IntegrityError",
    ),
    case(
        "manifest without end",
        on("GET manifest", Answers(200, {}, b"x" * (8 << 20))),
        act="manifest",
        result="UnfitError",
        words="over",
    ),
    case("referrers", (), act="referrers", result="read"),
    case("referrers: no such API", (), act="referrers", result="read", ways=Ways(referrers=False)),
    case(
        "referrers: not filtered",
        always("GET referrers", Changes({"oci-filters-applied": ""})),
        act="referrers",
        result="read",
    ),
)
BLOBS = (
    case("blob cut short", on(_BLOB, faults.Truncates()), act="blob", result="read"),
    case(
        "blob cut short, ranges ignored",
        (*on(_BLOB, faults.Truncates()), *always(_BLOB, Changed(faults.whole))),
        act="blob",
        result="read",
    ),
    case(
        "blob with another part",
        (*on(_BLOB, faults.Truncates()), *on(_BLOB, Changed(faults.another_part))),
        act="blob",
        result="UnfitError",
    ),
    case("blob stops coming", on(_BLOB, faults.Stalls(0.5)), act="blob", result="read", quick=True),
    case(
        "blob with other bytes",
        on(_BLOB, Changed(faults.other_bytes)),
        act="blob",
        result="IntegrityError",
        words="expected blob",
    ),
    case(
        "blob too short",
        on(_BLOB, Changed(faults.shorter)),
        act="blob",
        result="IntegrityError",
        words="expected",
    ),
    case(
        "blob too long",
        on(_BLOB, Changed(faults.longer)),
        act="blob",
        result="IntegrityError",
        words="expected",
    ),
    case(
        "blob elsewhere",
        on(_BLOB, Sends("elsewhere", 307)),
        act="blob",
        result="read",
        foreign=True,
    ),
    case(
        "blob elsewhere, cut short",
        (
            *on(_BLOB, Sends("elsewhere", 307), times=2),
            Rule(_BLOB, faults.Truncates(), role="elsewhere"),
        ),
        act="blob",
        result="read",
        foreign=True,
    ),
    case(
        "blob in a circle",
        always(_BLOB, faults.Loops()),
        act="blob",
        result="UnfitError",
        words="over 5 redirects",
    ),
    case(
        "blob from https to http",
        on(_BLOB, Sends("plain", 307)),
        act="blob",
        result="UnfitError",
        words="from https to `http",
        tls=True,
        foreign=False,
    ),
)
BODIES = (
    case(
        "a portal: 200 and HTML to everything",
        always("* [!p]*", Answers(200, {}, HTML)),
        "RejectedError",
        "answered 200",
    ),
    case(
        "error page in HTML",
        always(_MANIFEST, Answers(400, {}, HTML)),
        "RejectedError",
        "answered 400",
    ),
    case(
        "error page without end",
        always(_MANIFEST, Answers(400, {}, b"x" * (4 << 20))),
        "UnfitError",
        "over",
    ),
    case(
        "error with control characters", always(_MANIFEST, Answers(400, {}, ODD)), "RejectedError"
    ),
    case(
        "error that is no text",
        always(_MANIFEST, Answers(400, {}, bytes(range(256)) * 8)),
        "RejectedError",
        "answered 400",
    ),
    case(
        "not a registry", always("GET ping", Answers(404, {}, HTML)), "UnfitError", "not a registry"
    ),
)
BEHAVIOURS = (
    ACCESS + TOKENS + BUSY + BREAKS + UPLOADS + MOUNTS + QUESTIONS + MANIFESTS + BLOBS + BODIES
)
