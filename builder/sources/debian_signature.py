"""Check who signed a suite's index: only bytes that Debian's archive keys cover are returned.

`InRelease` is a cleartext-signed message (RFC 9580, section 7).  It is taken apart here and checked
as a detached signature, as apt does it, because that is what `gpgv` and `sqv` have in common, and
because then the bytes that were checked are the bytes that are used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import HostError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYRING_VARIABLE = "BUILDER_DEBIAN_KEYRING"
_FOLDER = Path("/usr/share/keyrings")
_KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")

_MESSAGE = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----\n(?:Hash: [^\n]+\n)*\n"
    rb"(?P<text>.*?)\n"
    rb"(?P<signature>-----BEGIN PGP SIGNATURE-----\n.*?\n-----END PGP SIGNATURE-----)\s*",
    re.DOTALL,
)


def signed_text(message: bytes, place: str) -> str:
    """Return the text of a cleartext-signed `message` that a key of Debian's archive signed.

    Raises:
        HostError: this machine has no verifier or no keys.
        IntegrityError: it is not signed, or not by Debian.
    """
    verify = _verifier()
    keys = keyring()
    match = _MESSAGE.fullmatch(message.replace(b"\r\n", b"\n"))
    if match is None:
        raise _refused(place, "is not a signed message")
    # Lines are dash-escaped, and blanks at their ends are not covered by the signature.
    lines = [line.removeprefix(b"- ").rstrip(b" \t") for line in match["text"].split(b"\n")]
    text = b"\n".join(lines)
    with tempfile.TemporaryDirectory(prefix="builder-signature-") as folder:
        data, signature = Path(folder, "data"), Path(folder, "data.asc")
        data.write_bytes(text)
        signature.write_bytes(match["signature"] + b"\n")
        if not _is_good([*verify, "--keyring", str(keys), str(signature), str(data)], folder):
            raise _refused(place, "is not signed by a key of Debian's archive")
    return text.decode()


def keyring() -> Path:
    """Return the file with the keys of Debian's archive."""
    named = os.environ.get(KEYRING_VARIABLE)
    places = [Path(named)] if named else [_FOLDER / name for name in _KEYRINGS]
    for place in places:
        if place.is_file():
            return place.resolve()
    message = f"{places[0]}: no keys to check Debian's signatures with"
    hint = f"run `apt-get install debian-archive-keyring`, or set {KEYRING_VARIABLE} to its file"
    raise HostError(message, hint)


def _verifier() -> Sequence[str]:
    if gpgv := shutil.which("gpgv"):
        return [gpgv, "--quiet", "--status-fd", "1"]
    if sqv := shutil.which("sqv"):
        return [sqv]
    message = "neither `gpgv` nor `sqv` is installed; one is needed to check Debian's signatures"
    raise HostError(message, "run `apt-get install gpgv`")


def _is_good(argv: Sequence[str], home: str) -> bool:
    # Not `process.run`: gpgv fails when it lacks the key of any signature, and a suite has those of
    # several releases' keys.  One good signature and no bad one is what apt asks, too.
    done = subprocess.run(
        argv, capture_output=True, check=False, env={**os.environ, "GNUPGHOME": home}
    )
    if "--status-fd" not in argv:
        return done.returncode == 0
    status = {line.split(b" ")[1] for line in done.stdout.splitlines() if line.count(b" ")}
    return {b"GOODSIG", b"VALIDSIG"} <= status and b"BADSIG" not in status


def _refused(place: str, fault: str) -> IntegrityError:
    message = f"{place}: {fault}"
    hint = f"use another mirror, or name the keys of your own archive in {KEYRING_VARIABLE}"
    return IntegrityError(message, hint)
