"""The engine's flags in `serve.args`: those on its command line, and those that must not be.

What other keys own would contradict the stack; some would run code of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.stack.document import Document, Fault, Path

_ARGS: Path = ("serve", "args")
_OWNERS = {
    "port": "serve.port",
    "model": "model.path or model.repo",
    "served-model-name": "serve.name",
    "max-model-len": "serve.max_model_len",
    "max-num-seqs": "serve.max_num_seqs",
    "gpu-memory-utilization": "serve.gpu_memory_utilization",
}
"""By flag: the key that sets it, and that health checks, metrics and labels are made from."""
_HOST = "is always 0.0.0.0 in the container"
_CODE = "would run code of the model's repository"
_ALLOW = "read it, then write model.allow_code with the sha256 of each file"


def on_the_line(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that reach the command line, spelt with dashes."""
    return {
        name.replace("_", "-"): value
        for name, value in args.items()
        if value is not None and value is not False
    }


def arguments(document: Document) -> Iterator[Fault]:
    """Yield every flag that other keys own, and trust in code that nobody read."""
    args = document.get(*_ARGS)
    for name, value in args.items() if isinstance(args, dict) else ():
        path, flag = (*_ARGS, name), name.replace("_", "-")
        if owner := _OWNERS.get(flag):
            yield document.fault(path, f"is set by {owner}", f"write {owner} instead")
        elif flag == "host":
            yield document.fault(path, _HOST, "leave it out")
        elif flag == "trust-remote-code" and _trusts(value, document):
            yield document.fault(path, _CODE, _ALLOW)


def _trusts(value: object, document: Document) -> bool:
    """Not only `true` trusts: an empty list is a bare flag too."""
    return value is not None and value is not False and not document.get("model", "allow_code")
