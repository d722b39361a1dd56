"""An engine for the launcher's tests: the HTTP face of vLLM, without a model.

`python fake_engine.py --port N`. Behaviour at start comes from FAKE_ENGINE, one JSON object:
  die: {"code": 3, "text": "..."}  print the text and end before answering
  healthy: false                   listen, and say 503 to /health for ever
  deaf: true                       never listen
  refuse: {"/v1/...": 400}         answer a route with a status
  ignore_term: true                do not stop on SIGTERM
  print: ["...", 5]                print a text five times first
Later, POST /_control {"running": 1, "waiting": 0, "tokens": 7, "metrics": 200, "release": true,
"exit": 3} changes it, and GET /_seen lists the requests with their bodies and headers. Like vLLM,
it ends at once on SIGTERM, whatever is running.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

BEHAVIOUR: dict[str, Any] = json.loads(os.environ.get("FAKE_ENGINE", "{}"))


class Engine:
    """What the requests share."""

    lock = threading.Lock()
    release = threading.Event()
    seen: ClassVar[list[dict[str, Any]]] = []
    counts: ClassVar[dict[str, int]] = {"running": 0, "waiting": 0, "tokens": 0, "metrics": 200}

    @classmethod
    def add(cls, name: str, amount: int) -> None:
        """Move a counter."""
        with cls.lock:
            cls.counts[name] += amount


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does."""

    def do_GET(self) -> None:
        """Health, metrics, and what was seen."""
        if self.path == "/health":
            self.say(200 if BEHAVIOUR.get("healthy", True) else 503, {})
        elif self.path == "/metrics":
            self.send(Engine.counts["metrics"], metrics().encode())
        elif self.path == "/_seen":
            self.say(200, Engine.seen)
        else:
            self.say(404, {})

    def do_POST(self) -> None:
        """Generate, or be told how to behave."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/_control":
            self.control(body)
            return
        Engine.seen.append({"path": self.path, "body": body, "headers": dict(self.headers)})
        status = BEHAVIOUR.get("refuse", {}).get(self.path)
        if status:
            self.say(status, {"error": f"refused with {status}"})
        elif body.get("stream"):
            self.stream()
        else:
            Engine.add("tokens", body.get("max_tokens", 1))
            key = "data" if self.path in ("/v1/embeddings", "/pooling") else "choices"
            self.say(200, {key: [{"text": "hello"}]})

    def control(self, body: dict[str, Any]) -> None:
        """Change the behaviour."""
        if "exit" in body:
            os._exit(body["exit"])
        if body.pop("release", False):
            Engine.release.set()
        Engine.counts.update(body)
        self.say(200, {})

    def stream(self) -> None:
        """One chunk now, the rest when released."""
        Engine.add("running", 1)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        Engine.release.wait()
        Engine.add("tokens", 1)
        self.wfile.write(b"data: last\n\ndata: [DONE]\n\n")
        Engine.add("running", -1)

    def say(self, status: int, content: object) -> None:
        """Send JSON."""
        self.send(status, json.dumps(content).encode())

    def send(self, status: int, content: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
        """Keep the output for the tests."""


def metrics() -> str:
    """The counters as Prometheus text, in two series each."""
    counts = Engine.counts
    return (
        "# HELP vllm:num_requests_running Requests\n# TYPE vllm:num_requests_running gauge\n"
        f'vllm:num_requests_running{{engine="0",model_name="a b}}"}} {counts["running"]}.0\n'
        f'vllm:num_requests_waiting{{engine="0"}} {counts["waiting"]}.0\n'
        f'vllm:prompt_tokens_total{{engine="0"}} {counts["tokens"]}.0\n'
        'vllm:generation_tokens_total{engine="0"} 1e+02\n'
    )


def main() -> None:
    """Behave."""
    if "print" in BEHAVIOUR:
        text, times = BEHAVIOUR["print"]
        sys.stdout.write(text * times)
        sys.stdout.flush()
    if "die" in BEHAVIOUR:
        sys.stderr.write(BEHAVIOUR["die"]["text"])
        sys.exit(BEHAVIOUR["die"]["code"])
    handler = signal.SIG_IGN if BEHAVIOUR.get("ignore_term") else lambda *_: os._exit(0)
    signal.signal(signal.SIGTERM, handler)
    if BEHAVIOUR.get("deaf"):
        time.sleep(600)
    port = int(sys.argv[len(sys.argv) - 1 - sys.argv[::-1].index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
