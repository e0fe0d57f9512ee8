"""Serves mistral.rs' CPU engine over HTTP for scripts/compare: its Python package has the engine and no server.

Thin on purpose, so that what is measured is the engine: one thread a request, each chunk written as it comes. Runs inside
the environment that scripts/compare makes for it.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mistralrs


class Handler(BaseHTTPRequestHandler):
    """`GET` answers that the model is loaded, `POST` streams one chat."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bias = {int(token): float(value) for token, value in asked.get("logit_bias", {}).items()}
        stream = self.server.runner.send_chat_completion_request(mistralrs.ChatCompletionRequest(
            model="default", messages=asked["messages"], max_tokens=asked["max_tokens"], temperature=0.0, stream=True,
            logit_bias=bias))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        usage = None
        for chunk in stream:
            usage = chunk.usage or usage
            self.event({"choices": [{"delta": {"content": choice.delta.content}, "finish_reason": choice.finish_reason}
                                    for choice in chunk.choices]})
        if usage:
            self.event({"usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        """Says nothing for each request."""


def main():
    parser = argparse.ArgumentParser(description="Serve mistral.rs' engine for the comparison.")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    given = parser.parse_args()
    model = mistralrs.Which.GGUF(quantized_model_id=str(given.gguf.parent), quantized_filename=given.gguf.name)
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    server.runner = mistralrs.Runner(which=model, max_seqs=given.clients, prefix_cache_n=0)
    server.serve_forever()


main()
