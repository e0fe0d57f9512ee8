"""Servers under the clients: a process on free ports with a home of its own, its metrics, and ways to fill it.

It owns everything that needs the server and no client library; it refuses to know any client. What it sends by itself goes
through the standard library, so that a fault of a client library cannot hide here.
"""

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 60
# Long enough that whoever waits behind it meets a refusal first.
OCCUPANT_TOKENS = 1500


def eventually(what, condition, seconds=PATIENCE_SECONDS):
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Wire:
    """One way to reach a server."""

    name: str  # "plain", "mTLS" or "mTLS, HTTP/2"
    site: "Site"
    origin: str  # http://127.0.0.1:PORT

    @property
    def url(self):
        """What clients call the base URL."""
        return f"{self.origin}/v1"

    @property
    def model(self):
        return self.site.state["model"]

    @property
    def is_tls(self):
        return self.origin.startswith("https:")

    @property
    def is_http2(self):
        return self.name.endswith("HTTP/2")

    @property
    def files(self):
        """The authority's certificate, the client's certificate and its key."""
        certs = self.site.home / "certs"
        return certs / "ca.crt", certs / "clients" / "default.crt", certs / "clients" / "default.key"

    def context(self):
        """What Python's TLS needs to reach it; nothing on the plain wire."""
        if not self.is_tls:
            return None
        authority, certificate, key = self.files
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        return context


class Site:
    """A server process; a context manager that waits until it is ready, ends it by SIGTERM and wants exit 0."""

    def __init__(self, binary, model, *arguments, token=None):
        self._folder = tempfile.TemporaryDirectory(prefix="sanctum-mlx-clients-")
        folder = Path(self._folder.name)
        self.home, self._log, self.token = folder / "home", folder / "stderr", token
        if token:
            file = folder / "token"
            file.touch(mode=0o600)
            file.write_text(token)
            arguments = (*arguments, "--api-key-file", file)
        flags = ["--model", model, "--home", self.home, "--port", "0", "--tls-port", "0", "--drain-seconds", "2"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in (binary, "serve", *flags, *arguments)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )

    def _until_ready(self):
        self.state = eventually("a ready server", self._read_state)
        plain, tls = f"http://{self.state['plain'][0]}", f"https://{self.state['tls'][0]}"
        self.plain = Wire("plain", self, plain)
        self.tls = Wire("mTLS", self, tls)
        self.http2 = Wire("mTLS, HTTP/2", self, tls)

    def _read_state(self):
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"the server ended with {code} before it was ready:\n{self.log()}")
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.home / "state" / "serve.json").read_text())
        return None

    def __enter__(self):
        try:
            self._until_ready()
        except BaseException:
            self._gone()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            code = self._process.wait(PATIENCE_SECONDS)
            assert code == 0, f"the server ended with {code}:\n{self.log()}"
        finally:
            self._gone()

    def _gone(self):
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def log(self):
        """Everything on stderr so far."""
        return self._log.read_text(errors="replace")

    def metric(self, name, **labels):
        """The value of one series, 0 while it does not exist."""
        connection = http.client.HTTPConnection(self.state["admin"], timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"sanctum_mlx_{name}{{{shown}}} " if shown else f"sanctum_mlx_{name} "
        values = [line[len(series):] for line in text.splitlines() if line.startswith(series)]
        return float(values[0]) if values else 0.0

    def refusals(self, status):
        """Responses so far of this status's class."""
        return self.metric("http_responses_total", **{"class": str(status // 100)})

    @contextlib.contextmanager
    def left(self):
        """Wants that a client which leaves within the block ends its row: no row runs on, and the reason is counted."""
        count = lambda: self.metric("finishes_total", reason="client_disconnected")
        before = count()
        yield
        eventually("the end of the row of a client that left", lambda: count() == before + 1, 10)
        eventually("a free server", lambda: self.metric("running_rows") == 0, 10)
        tokens = self.metric("completion_tokens_total")
        time.sleep(0.2)
        assert self.metric("completion_tokens_total") == tokens, "tokens are made for a client that left"


class Occupant:
    """A request that holds a row, or the place behind it, until it is let go."""

    def __init__(self, site):
        host = site.plain.origin.removeprefix("http://")
        self._connection = http.client.HTTPConnection(host, timeout=PATIENCE_SECONDS)
        body = {
            "messages": [{"role": "user", "content": "Tell a long story."}],
            "max_tokens": OCCUPANT_TOKENS, "ignore_eos": True, "stream": True,
        }
        headers = {"content-type": "application/json", "authorization": f"Bearer {site.token}"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)

    def leave(self):
        self._connection.close()


@contextlib.contextmanager
def full(site, status):
    """A server of one row and one waiting place that answers `status` (429 or 503) once, and then is free again.

    The first refusal frees it, so a client that comes again as it was told is served. Yields a function that says how
    many seconds have passed since the refusal.
    """
    before = site.refusals(status)
    occupants = [Occupant(site)]
    eventually("an occupied row", lambda: site.metric("running_rows") == 1)
    if status == 429:
        occupants.append(Occupant(site))
        eventually("an occupied queue", lambda: site.metric("queue_depth") == 1)
    refused = []

    def relieve():
        eventually(f"a refusal with {status}", lambda: site.refusals(status) > before)
        refused.append(time.monotonic())
        for occupant in occupants:
            occupant.leave()

    relief = threading.Thread(target=relieve, name="relief")
    relief.start()
    try:
        yield lambda: time.monotonic() - refused[0]
    finally:
        relief.join()
        eventually("a free server", lambda: site.metric("running_rows") + site.metric("queue_depth") == 0)


def environment(**more):
    """The environment of a client's process: no proxy stands between it and this machine."""
    return {**os.environ, "NO_PROXY": "127.0.0.1,localhost", **{name: str(value) for name, value in more.items()}}
