"""What the machine allows: the least work that any tool has to do, done in the plainest way."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.driver import usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PIECE = 1 << 20
_IN_FLIGHT = 4
"""Connections of the plain PUT."""


def main() -> None:
    """Do one of them, and say as JSON what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("floor", choices=("hash", "double", "put"))
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--to", default="")
    options = parser.parse_args()
    lock = json.loads(options.lock.read_text("utf-8"))
    if options.floor == "put":
        _put(lock["blobs"], options.to)
    else:
        states = 1 if options.floor == "hash" else 2
        _spread(lambda file: _hash(file, states), lock["files"], os.cpu_count() or 1)
    print(json.dumps(usage()))


def _spread(work: Callable[[Any], None], items: Sequence[Any], threads: int) -> None:
    """Do the work in threads that share nothing: all items are of one size."""

    def share(first: int) -> None:
        for item in items[first::threads]:
            work(item)

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(share, range(threads)))


def _pieces(path: str) -> Iterator[memoryview]:
    with Path(path).open("rb", buffering=0) as file:
        # No larger than needed: to clear 1 MiB takes longer than to hash a small file.
        buffer = memoryview(bytearray(min(_PIECE, os.fstat(file.fileno()).st_size)))
        while count := file.readinto(buffer):
            yield buffer[:count]


def _hash(file: dict[str, Any], states: int) -> None:
    hashes = [hashlib.sha256() for _ in range(states)]
    for piece in _pieces(file["path"]):
        for state in hashes:
            state.update(piece)


def _put(blobs: Sequence[dict[str, Any]], place: str) -> None:
    """Upload blobs, each by POST and one PUT; their digests are known beforehand."""
    host, _, repository = place.partition("/")
    _spread(lambda blob: _upload(host, repository, blob), blobs, _IN_FLIGHT)


def _upload(host: str, repository: str, blob: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection(host)
    connection.request("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
    answer = connection.getresponse()
    answer.read()
    location = urlsplit(answer.headers["Location"])
    query = "&".join(filter(None, (location.query, f"digest=sha256:{blob['sha256']}")))
    connection.putrequest("PUT", f"{location.path}?{query}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(blob["size"]))
    connection.endheaders()
    for path in blob["paths"]:
        for piece in _pieces(path):
            connection.send(piece)
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.HTTPStatus.CREATED:
        message = f"the registry answered {answer.status} to a plain PUT"
        raise SystemExit(message)
    connection.close()


if __name__ == "__main__":
    main()
