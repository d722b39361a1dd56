"""Counters, progress, warm-up requests and last lines: the launcher's pure judgements."""

import json
from collections.abc import Mapping

import pytest

from builder.launcher.client import Answer, UnreachableError
from builder.launcher.metrics import Sample, sample, sums
from builder.launcher.progress import Progress, observe, stall
from builder.launcher.spec import Metrics
from builder.launcher.tail import KEPT_LINES, Tail, useful
from builder.launcher.warmup import WarmUpError, plan, prefill_lengths, run

COUNTERS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 1.0
vllm:num_requests_running{engine="1",model_name="a } b \\" c",x="{"} 2.0 1700000000000
vllm:num_requests_waiting 4
vllm:prompt_tokens_total{engine="0"} 1.5e+03
vllm:prompt_tokens_created{engine="0"} 1.7e+09
vllm:generation_tokens_total NaN
vllm:broken
"""
NAMES = Metrics(
    path="/metrics",
    waiting=("vllm:num_requests_waiting",),
    running=("vllm:num_requests_running",),
    tokens=("vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
)


def test_counters_are_summed_over_their_series() -> None:
    found = sample(COUNTERS, NAMES)
    assert found == Sample(waiting=4.0, running=3.0, tokens=1500.0)
    assert found.requests == 7


def test_counters_that_are_not_there() -> None:
    found = sample("other 1\n", NAMES)
    assert found == Sample(None, None, None)
    assert found.requests is None


def test_name_must_match_whole() -> None:
    assert sums("a_total 1\na_total_x 2\nxa_total 3\n", ["a_total"]) == {"a_total": 1.0}


def look(tokens: float | None, requests: float | None = 1.0) -> Sample:
    return Sample(waiting=0.0, running=requests, tokens=tokens)


def judged(*looks: Sample | None) -> str | None:
    """The verdict after looks at 10 s, 20 s, ... with a limit of 25 s."""
    progress = Progress(fine_at=0.0)
    now = 0.0
    for one in looks:
        now += 10.0
        progress = observe(progress, one, now)
    return stall(progress, now, limit=25.0)


@pytest.mark.parametrize(
    ("looks", "verdict"),
    [
        pytest.param([look(1), look(2), look(3), look(4)], None, id="tokens-move"),
        pytest.param([look(1, 0), look(1, 0), look(1, 0), look(1, 0)], None, id="nobody-waits"),
        pytest.param([look(1), look(1), look(1)], None, id="not-yet"),
        pytest.param(
            [look(1), look(1), look(1), look(1)],
            "no token for 30 s with 1 unfinished request",
            id="stuck",
        ),
        pytest.param([look(9), look(9), look(9), look(0)], None, id="reset"),
        pytest.param([look(1), look(1), look(1), look(1), look(2)], None, id="recovered"),
        pytest.param([look(1), look(1), look(1), look(1), look(1, 0)], None, id="gave-up"),
        pytest.param(
            [look(1), None, None, None], "the engine has not answered for 30 s", id="silent"
        ),
        pytest.param(
            [look(1), None, None, look(1)],
            "no token for 30 s with 1 unfinished request",
            id="back-and-stuck",
        ),
        pytest.param([look(None)] * 5, None, id="no-counters"),
    ],
)
def test_stall(looks: list[Sample | None], verdict: str | None) -> None:
    assert judged(*looks) == verdict


def test_limit_0_never_stalls() -> None:
    assert stall(Progress(fine_at=0.0), now=1e6, limit=0.0) is None


@pytest.mark.parametrize(
    ("max_model_len", "lengths"),
    [
        (None, (1, 4, 16, 64, 256, 1024, 2032)),
        (131072, (1, 4, 16, 64, 256, 1024, 2048)),
        (512, (1, 4, 16, 64, 256, 496)),
        (32, (1, 4, 16)),
        (8, (1,)),
    ],
)
def test_prefill_lengths_grow_up_to_what_fits(
    max_model_len: int | None, lengths: tuple[int, ...]
) -> None:
    assert prefill_lengths(max_model_len) == lengths


@pytest.mark.parametrize("max_model_len", [2, 8, 17, 33, 512, 4096, None])
def test_requests_fit_and_differ(max_model_len: int | None) -> None:
    steps = plan(["/v1/completions"], "tiny", max_model_len)
    prompts = []
    for step in steps:
        prompt = step.body["prompt"]
        tokens = step.body["max_tokens"]
        assert isinstance(prompt, list)
        assert isinstance(tokens, int)
        assert len(prompt) + tokens <= (max_model_len or 4096)
        assert all(5 <= token < 100 for token in prompt)
        prompts.append(prompt)
    assert len({prompt[0] for prompt in prompts}) == len(prompts), "the prefix cache would hit"


def test_embeddings_and_unknown_routes() -> None:
    steps = plan(["/v1/embeddings", "/v1/unheard-of"], "tiny", 64)
    assert [step.label for step in steps] == [
        "/v1/embeddings 1 tokens",
        "/v1/embeddings 4 tokens",
        "/v1/embeddings 16 tokens",
        "/v1/embeddings 48 tokens",
    ]
    assert steps[1].body == {"model": "tiny", "input": [6, 7, 8, 9]}


class FakeEngine:
    """Answers each route with a status, or not at all."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.asked: list[str] = []
        self.dislikes = ""

    def ask(self, path: str, body: Mapping[str, object] | None, seconds: float) -> Answer:
        assert seconds > 0
        assert body
        name = path.rsplit("/", maxsplit=2)[-2 if "chat" in path else -1]
        self.asked.append(name)
        status = 400 if self.dislikes in body else self.statuses.get(name, 200)
        if status == 0:
            fault = "connection refused"
            raise UnreachableError(fault)
        content = {"choices": [1]} if status == 200 else {"error": "no\nway"}
        return Answer(status, json.dumps(content).encode())


def warmed(engine: FakeEngine) -> list[str]:
    said: list[str] = []
    steps = plan(["/v1/completions", "/v1/chat/completions"], "tiny", 32)
    run(steps, engine.ask, lambda: 60.0, said.append)
    return said


def test_each_request_is_said_with_its_time() -> None:
    assert warmed(FakeEngine()) == [
        "warm-up: /v1/completions 1 + 30 tokens in 0.00 s",
        "warm-up: /v1/completions 4 + 1 tokens in 0.00 s",
        "warm-up: /v1/completions 16 + 1 tokens in 0.00 s",
        "warm-up: /v1/chat/completions one message in 0.00 s",
    ]


def test_route_that_refuses_is_asked_no_more() -> None:
    engine = FakeEngine(completions=404)
    said = warmed(engine)
    # Twice: the first request is repeated without what only some engines know.
    assert engine.asked == ["completions", "completions", "chat"]
    assert said[0] == (
        'warm-up: /v1/completions 1 + 30 tokens: not served, 404 {"error": "no\\nway"}'
    )


def test_engine_that_does_not_know_ignore_eos_is_asked_without() -> None:
    engine = FakeEngine()
    engine.dislikes = "ignore_eos"
    assert len(warmed(engine)) == 4


@pytest.mark.parametrize(
    ("statuses", "fault"),
    [
        ({"completions": 401, "chat": 400}, "/v1/completions: 401 .*; /v1/chat/completions: 400"),
        ({"chat": 500}, "/v1/chat/completions one message: 500"),
        ({"chat": 302}, "/v1/chat/completions one message: 302"),
        ({"completions": 0}, "/v1/completions 1 \\+ 30 tokens: no answer: connection refused"),
    ],
    ids=["all-refuse", "broken", "moved", "gone"],
)
def test_warm_up_fails(statuses: dict[str, int], fault: str) -> None:
    with pytest.raises(WarmUpError, match=fault):
        warmed(FakeEngine(**statuses))


@pytest.mark.parametrize("said", [b"", b"[]", b'{"choices": []}', b"<html>"])
def test_answer_without_a_result_is_a_failure(said: bytes) -> None:
    steps = plan(["/v1/completions"], "tiny", 32)
    with pytest.raises(WarmUpError, match="answered without a result"):
        run(steps, lambda *_: Answer(200, said), lambda: 60.0, lambda _: None)


def tail_of(*chunks: bytes) -> list[str]:
    tail = Tail()
    for chunk in chunks:
        tail.feed(chunk)
    return tail.lines()


def test_lines_may_come_in_pieces() -> None:
    assert tail_of(b"on", b"e\ntw", b"o\n", b"\xff three") == ["one", "two", "\ufffd three"]


def test_only_the_last_lines_are_kept() -> None:
    lines = tail_of(b"".join(b"%d\n" % number for number in range(KEPT_LINES + 5)))
    assert (lines[0], len(lines)) == ("5", KEPT_LINES)


def test_long_lines_are_cut() -> None:
    (line,) = tail_of(*[b"x" * 1500] * 3, b"\n")
    assert line == "x" * 2000 + "... (+2500 bytes)"


def test_carriage_returns_and_colours_leave_the_last_state() -> None:
    assert tail_of(b"10%\r\x1b[31m20%\x1b[0m", b"\r30%\n", b"done\r\n") == ["30%", "done"]


ROOT_CAUSE = """\
(EngineCore_0 pid=7) ERROR 05-10 12:00:00 [core.py:708] Traceback (most recent call last):
(EngineCore_0 pid=7) ERROR 05-10 12:00:00 [core.py:708]   File "core.py", line 7, in run
(EngineCore_0 pid=7) ERROR 05-10 12:00:01 [core.py:708] torch.OutOfMemoryError: CUDA out of memory.
(EngineCore_0 pid=7) INFO 05-10 12:00:01 [core.py:708] shutting down
Loading weights:  50%|#####     | 1/2 [00:01<00:01,  1.0it/s]
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "api.py", line 9, in main
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
bye
"""


def test_root_cause_is_preferred_to_what_points_to_it() -> None:
    lines = ROOT_CAUSE.splitlines()
    assert useful(lines) == lines[:3]


def test_last_traceback_of_several_with_its_message() -> None:
    text = """\
Traceback (most recent call last):
KeyError: 1

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "x.py", line 1
    x = (
        ^
ValidationError: 1 error
  value is wrong
INFO bye
"""
    assert useful(text.splitlines()) == [
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "    x = (",
        "ValidationError: 1 error",
        "  value is wrong",
    ]


def test_long_traceback_keeps_its_ends() -> None:
    lines = ["Traceback (most recent call last):", *["  at"] * 50, "ValueError: x"]
    found = useful(lines, limit=5)
    assert found == [lines[0], "  ...", "  at", "  at", "ValueError: x"]


def test_errors_are_preferred_to_chatter() -> None:
    lines = [
        "usage: x [--log-level {CRITICAL,ERROR,INFO}]",
        "api_server.py: error: unrecognized arguments: --x",
        "ERROR: b",
        "[ERROR] c",
        "INFO d",
    ]
    assert useful(lines) == lines[1:4]


def test_otherwise_the_last_lines_without_noise() -> None:
    lines = ["a", "", " 99%|###| 9/10 [00:01<00:00, 9.9it/s]", "b"]
    assert useful(lines, limit=1) == ["b"]
    assert useful(lines) == ["a", "b"]
    assert useful([]) == []
