"""One HTTP/2 connection, frame by frame: what is sent may be illegal, what comes back is read as it is. Headers are coded
by the package `hpack`, which belongs to `h2`; `h2` itself refuses to send what these cases are about.
"""

import socket
import struct
import time

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 7, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# An answer that does not come within this is none.
PATIENCE_SECONDS = 5


class Closed(AssertionError):
    """The server closed the connection; a fault where nobody expects it."""


class Peer:
    """A connection whose handshake is done, unless told otherwise."""

    def __init__(self, wire, preface=PREFACE, settings=b""):
        context = wire.context()
        context.set_alpn_protocols(["h2"])
        host, port = wire.origin.removeprefix("https://").rsplit(":", 1)
        self._socket = context.wrap_socket(socket.create_connection((host, int(port)), PATIENCE_SECONDS), server_hostname=host)
        assert self._socket.selected_alpn_protocol() == "h2", "h2 was not agreed on"
        self._encoder, self._received = hpack.Encoder(), b""
        self._decoder = hpack.Decoder()
        self.authority = f"{host}:{port}"
        self.raw(preface)
        self.send(SETTINGS, 0, 0, settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def raw(self, data):
        """Sends bytes; that nobody takes them any more shows when an answer is read."""
        try:
            self._socket.sendall(data)
        except OSError:
            pass

    def send(self, kind, flags, stream, payload=b"", length=None):
        length = len(payload) if length is None else length
        self.raw(struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def fields(self, method="GET", path="/health/live", without=(), more=(), first=()):
        """The fields of a request, those of `first` before everything else."""
        pseudo = [(":method", method), (":scheme", "https"), (":path", path), (":authority", self.authority)]
        return [*first, *(field for field in pseudo if field[0] not in without), *more]

    def coded(self, fields):
        return self._encoder.encode(fields, huffman=True)

    def ask(self, stream=1, flags=END_STREAM | END_HEADERS, **fields):
        """Sends the head of a request, complete unless `flags` say otherwise."""
        self.send(HEADERS, flags, stream, self.coded(self.fields(**fields)))

    def frame(self):
        """The next frame that is not about settings or windows: kind, flags, stream, payload."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            head = self._exactly(9, deadline)
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = self._exactly(length, deadline)
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0)
            if kind == HEADERS:
                payload = self._decoder.decode(payload)
            if kind not in (SETTINGS, WINDOW_UPDATE):
                return kind, flags, stream, payload

    def settings_frame(self):
        """The next frame, settings and windows included."""
        head = self._exactly(9, time.monotonic() + PATIENCE_SECONDS)
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        return kind, flags, stream, self._exactly(int.from_bytes(head[:3], "big"), time.monotonic() + PATIENCE_SECONDS)

    def _exactly(self, count, deadline):
        while len(self._received) < count:
            left = deadline - time.monotonic()
            assert left > 0, "nothing was heard in time"
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError("nothing was heard in time") from None
            except OSError:
                raise Closed from None
            if not data:
                raise Closed
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def is_answered(self, stream=1, status="200"):
        """Wants a complete answer on a stream."""
        while True:
            kind, flags, at, payload = self.frame()
            assert kind not in (RST_STREAM, GOAWAY), f"frame {kind} on {at}: {payload!r}"
            if kind == HEADERS and at == stream:
                assert dict(payload)[":status"] == status, payload
            if at == stream and flags & END_STREAM:
                return

    def is_pinged(self):
        """Wants the connection to live: a PING comes back."""
        self.send(PING, 0, 0, b"alive???")
        while True:
            kind, flags, _, payload = self.frame()
            assert kind != GOAWAY, f"the server leaves: {payload!r}"
            if kind == PING and flags & ACK:
                return

    def is_cut(self, *codes):
        """Wants the connection to end, with one of these codes when one is said."""
        while True:
            try:
                kind, _, _, payload = self.frame()
            except Closed:
                return
            if kind == GOAWAY:
                code = int.from_bytes(payload[4:8], "big")
                assert code in codes, f"GOAWAY with {code} instead of {codes}"
                return

    def is_reset(self, *codes, stream=1):
        """Wants the stream to end, or the connection with it, with one of these codes."""
        while True:
            try:
                kind, _, at, payload = self.frame()
            except Closed:
                return
            if kind == GOAWAY:
                payload = payload[4:]
            if kind == GOAWAY or (kind == RST_STREAM and at == stream):
                code = int.from_bytes(payload[:4], "big")
                assert code in codes, f"frame {kind} with {code} instead of {codes}"
                return
            refused = kind == HEADERS and at == stream and dict(payload)[":status"] == "400"
            assert not (at == stream and kind == HEADERS) or refused, f"an answer: {payload!r}"
            if refused:
                return
