"""Warm-up: real requests before `ready`, so that no client pays for what is compiled on first use.

`plan` decides what to ask (pure), `run` asks. A route that refuses with 4xx is not served (a model
without a chat template, say) and is noted; all routes refusing, a 5xx or no answer is a failure.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from builder.launcher.client import Answer, Ask, UnreachableError

LONGEST_PREFILL = 2048
"""Tokens. Longer prompts are cut into chunks of about this size by the engines."""

DECODE_TOKENS = 32

_STEP = 4
"""Factor from one prefill length to the next."""

_MARGIN = 16
"""Tokens left free below max_model_len: engines add special tokens and count differently."""

_FIRST_ID, _IDS = 5, 89
"""Token ids that every vocabulary has, above the usual special ones."""

_OK, _REFUSED, _BROKEN = 200, 400, 500


@dataclass(frozen=True)
class Step:
    """One request."""

    label: str
    route: str
    body: Mapping[str, object]
    extras: Mapping[str, object]
    """What only some engines understand; asked again without it if refused."""


class WarmUpError(Exception):
    """The engine cannot do what it is there for."""


def plan(routes: Iterable[str], model: str, max_model_len: int | None) -> tuple[Step, ...]:
    """What to ask on `routes`; nothing on a route for which no request is known."""
    steps: list[Step] = []
    for route in routes:
        make = _STEPS.get(route)
        if make:
            steps += make(route, model, max_model_len)
    return tuple(steps)


def prefill_lengths(max_model_len: int | None) -> tuple[int, ...]:
    """Prompt lengths in tokens: 1, then growing fast up to what one prefill takes."""
    longest = min(LONGEST_PREFILL, max(1, (max_model_len or LONGEST_PREFILL) - _MARGIN))
    lengths = [1]
    while lengths[-1] * _STEP < longest:
        lengths.append(lengths[-1] * _STEP)
    return tuple(dict.fromkeys([*lengths, longest]))


def run(
    steps: Iterable[Step], ask: Ask, left: Callable[[], float], say: Callable[[str], None]
) -> None:
    """Ask every step in turn; `left` gives the seconds that remain of the start budget."""
    refused: dict[str, str] = {}
    served: set[str] = set()
    for step in steps:
        if step.route in refused:
            continue
        before = left()
        answer = _ask(step, ask, left)
        seconds = before - left()
        if answer.status == _OK:
            _verify(step, answer)
            served.add(step.route)
            say(f"warm-up: {step.label} in {seconds:.2f} s")
        else:
            refused[step.route] = f"{answer.status} {answer.text()}"
            say(f"warm-up: {step.label}: not served, {refused[step.route]}")
    if refused and not served:
        raise WarmUpError("; ".join(f"{route}: {said}" for route, said in refused.items()))


def _ask(step: Step, ask: Ask, left: Callable[[], float]) -> Answer:
    try:
        answer = ask(step.route, {**step.body, **step.extras}, max(left(), 0.1))
        if step.extras and _REFUSED <= answer.status < _BROKEN:
            answer = ask(step.route, step.body, max(left(), 0.1))
    except UnreachableError as error:
        fault = f"{step.label}: no answer: {error}"
        raise WarmUpError(fault) from error
    if answer.status == _OK or _REFUSED <= answer.status < _BROKEN:
        return answer
    fault = f"{step.label}: {answer.status} {answer.text()}"
    raise WarmUpError(fault)


def _verify(step: Step, answer: Answer) -> None:
    try:
        content = json.loads(answer.body)
    except ValueError:
        content = None
    results = content.get("choices") or content.get("data") if isinstance(content, dict) else None
    if not results:
        fault = f"{step.label}: answered without a result: {answer.text()}"
        raise WarmUpError(fault)


def _prompt(length: int, salt: int) -> list[int]:
    # Prompts of different lengths begin differently, or the prefix cache would do the work.
    return [_FIRST_ID + (salt + position) % _IDS for position in range(length)]


def _completions(route: str, model: str, max_model_len: int | None) -> list[Step]:
    decoded = min(DECODE_TOKENS, max(1, (max_model_len or LONGEST_PREFILL) - 2))
    steps = []
    for salt, length in enumerate(prefill_lengths(max_model_len)):
        tokens = decoded if length == 1 else 1
        body = {
            "model": model,
            "prompt": _prompt(length, salt),
            "max_tokens": tokens,
            "temperature": 0,
        }
        label = f"{route} {length} + {tokens} tokens"
        steps.append(Step(label, route, body, {"ignore_eos": True} if tokens > 1 else {}))
    return steps


def _chat(route: str, model: str, max_model_len: int | None) -> list[Step]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": min(_MARGIN, max(1, (max_model_len or LONGEST_PREFILL) // 4)),
        "temperature": 0,
    }
    return [Step(f"{route} one message", route, body, {})]


def _embeddings(route: str, model: str, max_model_len: int | None) -> list[Step]:
    return [
        Step(
            f"{route} {length} tokens", route, {"model": model, "input": _prompt(length, salt)}, {}
        )
        for salt, length in enumerate(prefill_lengths(max_model_len))
    ]


_STEPS: dict[str, Callable[[str, str, int | None], list[Step]]] = {
    "/v1/completions": _completions,
    "/v1/chat/completions": _chat,
    "/v1/embeddings": _embeddings,
    "/pooling": _embeddings,
}
