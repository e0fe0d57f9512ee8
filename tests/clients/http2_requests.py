"""HTTP/2 requests: what a head may hold, and how it may be coded; sections of RFC 9113 and RFC 7541, cases of h2spec."""

from http2_frames import BODY, POST, answered, asks_then, cut, head, reset
from http2_peer import COMPRESSION_ERROR, DATA, END_HEADERS, END_STREAM, HEADERS, PROTOCOL_ERROR, PUSH_PROMISE

MALFORMED = reset(PROTOCOL_ERROR)
GOOD = ("content-type", "application/json")


def asks(**fields):
    return lambda peer: peer.ask(**fields)


def trailers(*fields, flags=END_STREAM | END_HEADERS):
    """A request with a body and these trailers."""
    def drive(peer):
        peer.ask(flags=BODY, **POST)
        peer.send(DATA, 0, 1, b"{}")
        peer.send(HEADERS, flags, 1, peer.coded(list(fields)))
    return drive


def declares(length):
    """A request whose body has two bytes and says that it has another number."""
    more = {**POST, "more": [GOOD, ("content-length", str(length))]}
    return asks_then((DATA, END_STREAM, 1, b"{}"), flags=BODY, **more)


def coded(block):
    """A request's head followed by these coded bytes."""
    return lambda peer: head(peer, peer.coded(peer.fields()) + block)


CASES = [
    ("8.1 Requests", "GET", {}, asks(), answered()),
    ("8.1 Requests", "HEAD", {}, asks(method="HEAD"), answered()),
    ("8.1 Requests", "trailers are taken", {}, trailers(("x-trailer", "1")), lambda peer: peer.is_answered(status="400")),
    ("8.1 Requests", "a second head without the end", {}, trailers(("x-trailer", "1"), flags=END_HEADERS), MALFORMED),
    ("8.2 Fields", "a name in upper case", {}, asks(more=[("X-Upper", "1")]), MALFORMED),
    ("8.2.2 Connection fields", "connection", {}, asks(more=[("connection", "keep-alive")]), MALFORMED),
    ("8.2.2 Connection fields", "transfer-encoding", {}, asks(more=[("transfer-encoding", "chunked")]), MALFORMED),
    ("8.2.2 Connection fields", "te that is not trailers", {}, asks(more=[("te", "trailers, deflate")]), MALFORMED),
    ("8.2.2 Connection fields", "te: trailers", {}, asks(more=[("te", "trailers")]), answered()),
    ("8.3 Pseudo-fields", "an unknown one", {}, asks(more=[(":test", "1")]), MALFORMED),
    ("8.3 Pseudo-fields", "one of a response", {}, asks(more=[(":status", "200")]), MALFORMED),
    ("8.3 Pseudo-fields", "one in trailers", {}, trailers((":method", "GET")), MALFORMED),
    ("8.3 Pseudo-fields", "one after a regular field", {}, asks(without=(":path",), more=[("x", "1"), (":path", "/health/live")]), MALFORMED),
    ("8.3.1 Request pseudo-fields", "an empty path", {}, asks(path=""), MALFORMED),
    ("8.3.1 Request pseudo-fields", "no method", {}, asks(without=(":method",)), MALFORMED),
    ("8.3.1 Request pseudo-fields", "no scheme", {}, asks(without=(":scheme",)), MALFORMED),
    ("8.3.1 Request pseudo-fields", "no path", {}, asks(without=(":path",)), MALFORMED),
    ("8.3.1 Request pseudo-fields", "two methods", {}, asks(first=[(":method", "GET")]), MALFORMED),
    ("8.3.1 Request pseudo-fields", "two paths", {}, asks(first=[(":path", "/")]), MALFORMED),
    ("8.1.1 Lengths", "a body shorter than declared", {}, declares(1), MALFORMED),
    ("8.1.1 Lengths", "a body longer than declared", {}, declares(5), MALFORMED),
    ("8.4 Push", "from a client", {}, lambda peer: peer.send(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02\x82"), cut(PROTOCOL_ERROR)),
    ("HPACK 2.3.3 Index", "beyond both tables", {}, coded(b"\xff\x80\x01"), cut(COMPRESSION_ERROR)),
    ("HPACK 6.1 Index", "0", {}, coded(b"\x80"), cut(COMPRESSION_ERROR)),
    ("HPACK 4.2 Table size", "an update at the end of a block", {}, coded(b"\x20"), cut(COMPRESSION_ERROR)),
    ("HPACK 6.3 Table size", "beyond what was allowed", {}, lambda peer: head(peer, b"\x3f\xe1\xff\x03" + peer.coded(peer.fields())), cut(COMPRESSION_ERROR)),
    ("HPACK 5.2 Strings", "padding longer than 7 bits", {}, coded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), cut(COMPRESSION_ERROR)),
    ("HPACK 5.2 Strings", "padding of zeros", {}, coded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), cut(COMPRESSION_ERROR)),
    ("HPACK 5.2 Strings", "the symbol EOS", {}, coded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"), cut(COMPRESSION_ERROR)),
]
