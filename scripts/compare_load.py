"""The client of scripts/compare: unique prompts of known length, and streamed chats timed by the arrival of their bytes.

While answers arrive it only stores bytes with their time; everything is parsed when the last one is complete, so that the
client takes next to nothing from the servers. Definitions: TTFT runs from sending the request to the first chunk with
content; a gap is the time between two chunks with content; tokens are those that the server counts in `usage`.
"""

import bisect
import itertools
import json
import random
import selectors
import socket
import time

ANSWER_SECONDS_MAX = 600
RECEIVE_BYTES = 1 << 16
# Words that are one token each in the default model's vocabulary, with the space before them.
WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work government number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father power hour "
    "game line end member law car city community name president team minute idea body information back parent face level "
    "office door health person art war history party result change morning reason research girl moment air teacher force"
).split()
# In the system message: what templates put before the user's words must be unique too, or a prefix cache would help.
SYSTEM_WORDS = 6


class Failure(Exception):
    """A server answered with something else than the stream that was asked for."""


class Prompts:
    """Conversations of a wanted number of tokens. No two begin alike; the seed makes a run repeatable."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.around = 0

    def fit(self, found, asked):
        """Learns what the chat template adds: a server has counted `found` tokens where `asked` words were sent."""
        self.around = found - asked

    def of(self, tokens):
        words = self.random.choices(WORDS, k=max(2 * SYSTEM_WORDS, tokens - self.around))
        return [{"role": "system", "content": " ".join(words[:SYSTEM_WORDS])},
                {"role": "user", "content": " ".join(words[SYSTEM_WORDS:])}]


class Answer:
    """One stream, parsed: when each piece of content came, and what the server says it counted."""

    def __init__(self, sent, arrivals):
        self.sent = sent
        self.times, usage, finished = [], None, None
        for moment, event in events(arrivals):
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                if (choice.get("delta") or {}).get("content"):
                    self.times.append(moment)
                finished = moment if choice.get("finish_reason") else finished
        if usage is None:
            raise Failure("the stream carries no usage")
        if not self.times:
            # A single token may be half a character: then there is no content, only an end.
            self.times = [finished]
        self.prompt_tokens = usage["prompt_tokens"]
        self.tokens = usage["completion_tokens"]
        self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.ttft = self.times[0] - sent
        self.gaps = [after - before for before, after in zip(self.times, self.times[1:])]


def events(arrivals):
    """Server-sent events with the moment at which their last byte arrived."""
    raw, ends, moments = b"".join(data for _, data in arrivals), [], []
    for moment, data in arrivals:
        ends.append((ends[-1] if ends else 0) + len(data))
        moments.append(moment)
    head, _, _ = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if lines[0].split(b" ")[1:2] != [b"200"]:
        raise Failure(f"the server answered {raw[:400].decode(errors='replace')!r}")
    chunked = any(line.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for line in lines)
    body, starts = unchunk(raw, len(head) + 4) if chunked else (raw[len(head) + 4:], [(0, len(head) + 4)])
    at = 0
    for line in body.split(b"\n"):
        at += len(line) + 1
        data = line.strip()
        if not data.startswith(b"data:") or data.endswith(b"[DONE]"):
            continue
        # The byte of the body, in the raw stream, in the arrivals.
        start, raw_start = starts[bisect.bisect_right(starts, (at - 1, float("inf"))) - 1]
        moment = moments[min(bisect.bisect_left(ends, raw_start + at - start), len(moments) - 1)]
        try:
            event = json.loads(data[5:])
        except ValueError:
            raise Failure(f"the stream breaks off at {data[-80:].decode(errors='replace')!r}") from None
        if "error" in event:
            raise Failure(f"the server answered {event['error']!r}")
        yield moment, event


def unchunk(raw, at):
    """The body of a chunked answer, and for each chunk where it begins in the body and in the raw bytes."""
    body, starts = bytearray(), []
    while True:
        line_end = raw.find(b"\r\n", at)
        size = int(raw[at:line_end].split(b";")[0] or b"0", 16) if line_end > 0 else 0
        if size == 0:
            return bytes(body), starts or [(0, at)]
        starts.append((len(body), line_end + 2))
        body += raw[line_end + 2:line_end + 2 + size]
        at = line_end + 2 + size + 2


def request(port, body):
    """The bytes of one request. The connection is not kept: not every peer can."""
    payload = json.dumps(body).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n")
    return head.encode() + payload


def at_once(port, bodies):
    """Sends all requests at the same moment, each on its connection, and reads all answers to their ends."""
    selector, connections = selectors.DefaultSelector(), []
    arrivals, sent, open_count = [[] for _ in bodies], [], len(bodies)
    requests = [request(port, body) for body in bodies]
    try:
        for _ in bodies:
            connections.append(socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS_MAX))
        for index, (connection, data) in enumerate(zip(connections, requests)):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent.append(time.perf_counter())
            connection.sendall(data)
            selector.register(connection, selectors.EVENT_READ, index)
        deadline = time.perf_counter() + ANSWER_SECONDS_MAX
        while open_count:
            ready = selector.select(max(0.0, deadline - time.perf_counter()))
            moment = time.perf_counter()
            if moment >= deadline:
                raise Failure(f"no complete answer within {ANSWER_SECONDS_MAX} s")
            for key, _ in ready:
                data = key.fileobj.recv(RECEIVE_BYTES)
                arrivals[key.data].append((moment, data))
                if not data or b"[DONE]" in data:
                    selector.unregister(key.fileobj)
                    open_count -= 1
    except OSError as error:
        raise Failure(f"the connection broke: {error}") from None
    finally:
        selector.close()
        for connection in connections:
            connection.close()
    return [Answer(moment, list(pieces)) for moment, pieces in zip(sent, arrivals)]


def prefill_rate(answers):
    """Prompt tokens a second, from the first request sent to the last first token."""
    begun = min(answer.sent for answer in answers)
    done = max(answer.times[0] for answer in answers)
    return sum(answer.prompt_tokens for answer in answers) / (done - begun)


def decode_rate(answers):
    """Tokens a second of all streams together, while all of them run: from the last first token to the first last one.

    A server that answers one after the other never runs all streams; then the whole span counts, waiting included.
    """
    begun = max(answer.times[0] for answer in answers)
    ended = min(answer.times[-1] for answer in answers)
    chunks = sum(len(answer.times) for answer in answers)
    tokens_a_chunk = sum(answer.tokens for answer in answers) / chunks
    inside = sum(begun < moment <= ended for moment in itertools.chain(*(answer.times for answer in answers)))
    if inside * 4 < chunks:
        begun = min(answer.times[0] for answer in answers)
        ended = max(answer.times[-1] for answer in answers)
        inside = chunks - len(answers)
    return inside * tokens_a_chunk / max(ended - begun, 1e-9)
