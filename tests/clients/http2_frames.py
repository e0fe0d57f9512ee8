"""HTTP/2 below requests: the connection and its frames, in the sections of RFC 9113 and with the cases of h2spec."""

import struct

from http2_peer import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADERS, NO_ERROR, PADDED,
    PING, PREFACE, PRIORITISED, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE,
    COMPRESSION_ERROR, Peer,
)

BODY = END_HEADERS  # a request whose body is still to come
SETTING = struct.Struct(">HI")
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
POST = {"method": "POST", "path": "/v1/chat/completions", "more": [("content-type", "application/json")]}


def number(value):
    return struct.pack(">I", value)


def cut(*codes):
    return lambda peer: peer.is_cut(*codes)


def reset(*codes, stream=1):
    return lambda peer: peer.is_reset(*codes, stream=stream)


def answered(stream=1):
    return lambda peer: peer.is_answered(stream)


def pinged(peer):
    peer.is_pinged()


def sends(*frames):
    """Frames after an ordinary beginning; each is the arguments of `Peer.send`."""
    def drive(peer):
        for frame in frames:
            peer.send(*frame)
    return drive


def asks_then(*frames, flags=END_STREAM | END_HEADERS, **fields):
    """A request on stream 1, then frames."""
    def drive(peer):
        peer.ask(flags=flags, **fields)
        sends(*frames)(peer)
    return drive


def continued(*frames):
    """The beginning of a header block, then frames."""
    def drive(peer):
        block = peer.coded(peer.fields())
        peer.send(HEADERS, END_STREAM, 1, block[:2])
        for frame in frames:
            peer.send(*(block[2:] if part is None else part for part in frame))
    return drive


def head(peer, payload, flags=END_STREAM | END_HEADERS, length=None):
    peer.send(HEADERS, flags, 1, payload, length)


def closed_stream(*frames):
    """A request that is answered, then frames on its stream."""
    def drive(peer):
        peer.ask()
        peer.is_answered()
        sends(*frames)(peer)
    return drive


def two_ids(first, second):
    def drive(peer):
        peer.ask(stream=first)
        peer.ask(stream=second)
    return drive


def window_of_one(peer):
    """Gives the answer a window of one byte, and wants one byte first."""
    peer.send(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, 1))
    peer.ask(stream=1)
    while (frame := peer.frame())[0] != DATA:
        pass
    assert len(frame[3]) == 1, frame
    peer.send(WINDOW_UPDATE, 0, 1, number(1000))
    peer.is_answered()


def is_acknowledged(peer):
    peer.send(SETTINGS, 0, 0, SETTING.pack(MAX_CONCURRENT_STREAMS, 100))
    acknowledged = 0
    while acknowledged < 2:
        kind, flags, _, payload = peer.settings_frame()
        acknowledged += kind == SETTINGS and bool(flags & ACK) and payload == b""


def setting(*values):
    return sends((SETTINGS, 0, 0, b"".join(SETTING.pack(*value) for value in values)))


def nothing(_):
    """What the driving does is the whole case."""


# Section, case, what is sent, what must come of it.
CASES = [
    ("3.4 Preface", "a wrong preface", {"preface": b"INVALID CONNECTION PREFACE\r\n\r\n"}, nothing, cut(PROTOCOL_ERROR)),
    ("3.4 Preface", "a first frame that is no SETTINGS", {"preface": PREFACE + b"\0\0\x08\x06\0\0\0\0\0alive???"}, nothing, cut(PROTOCOL_ERROR)),
    ("4.1 Frame format", "an unknown type", {}, sends((0x16, 0, 0, b"x" * 8)), pinged),
    ("4.1 Frame format", "undefined flags", {}, sends((PING, 0x16, 0, b"undefine")), pinged),
    ("4.1 Frame format", "a reserved bit", {}, sends((PING, 0, 1 << 31, b"reserved")), pinged),
    ("4.2 Frame size", "the largest DATA", {}, asks_then((DATA, 0, 1, b" " * 16384), flags=BODY, **POST), pinged),
    ("4.2 Frame size", "larger DATA", {}, asks_then((DATA, END_STREAM, 1, b" " * 16385), flags=BODY, **POST), reset(FRAME_SIZE_ERROR)),
    ("4.2 Frame size", "larger HEADERS", {}, sends((HEADERS, END_STREAM | END_HEADERS, 1, b"\x82" * 16385)), cut(FRAME_SIZE_ERROR)),
    ("4.3 Header blocks", "a block that is none", {}, lambda peer: head(peer, b"\x40\x05hi"), cut(COMPRESSION_ERROR)),
    ("4.3 Header blocks", "PRIORITY within a block", {}, continued((PRIORITY, 0, 1, b"\0\0\0\x03\x10"), (CONTINUATION, END_HEADERS, 1, None)), cut(PROTOCOL_ERROR)),
    ("4.3 Header blocks", "HEADERS of another stream within a block", {}, continued((HEADERS, END_HEADERS, 3, b"\x82"), (CONTINUATION, END_HEADERS, 1, None)), cut(PROTOCOL_ERROR)),
    ("5.1 Stream states", "DATA on an idle stream", {}, sends((DATA, END_STREAM, 1, b"x")), cut(PROTOCOL_ERROR)),
    ("5.1 Stream states", "RST_STREAM on an idle stream", {}, sends((RST_STREAM, 0, 1, number(8))), cut(PROTOCOL_ERROR)),
    ("5.1 Stream states", "WINDOW_UPDATE on an idle stream", {}, sends((WINDOW_UPDATE, 0, 1, number(100))), cut(PROTOCOL_ERROR)),
    ("5.1 Stream states", "CONTINUATION on an idle stream", {}, sends((CONTINUATION, END_HEADERS, 1, b"\x82")), cut(PROTOCOL_ERROR)),
    ("5.1 Stream states", "DATA after the end", {}, asks_then((DATA, END_STREAM, 1, b"x"), path="/v1/models"), reset(STREAM_CLOSED)),
    ("5.1 Stream states", "CONTINUATION after the end", {}, asks_then((CONTINUATION, END_HEADERS, 1, b"\x82")), reset(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("5.1 Stream states", "DATA after RST_STREAM", {}, asks_then((RST_STREAM, 0, 1, number(8)), (DATA, END_STREAM, 1, b"x"), flags=BODY, **POST), "left or cut"),
    ("5.1 Stream states", "DATA on a closed stream", {}, closed_stream((DATA, END_STREAM, 1, b"x")), reset(STREAM_CLOSED)),
    ("5.1 Stream states", "HEADERS on a closed stream", {}, closed_stream((HEADERS, END_STREAM | END_HEADERS, 1, b"\x82")), cut(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("5.1.1 Stream identifiers", "an even one", {}, two_ids(2, 4), cut(PROTOCOL_ERROR)),
    ("5.1.1 Stream identifiers", "a smaller one than before", {}, two_ids(5, 3), cut(PROTOCOL_ERROR, STREAM_CLOSED)),
    ("5.4.1 Connection errors", "GOAWAY and a closed connection", {}, sends((PING, 0, 3, b"illegal!")), cut(PROTOCOL_ERROR)),
    ("5.5 Extensions", "an unknown type within a block", {}, continued((0x16, 0, 1, b"x" * 8), (CONTINUATION, END_HEADERS, 1, None)), cut(PROTOCOL_ERROR)),
    ("6.1 DATA", "on stream 0", {}, sends((DATA, END_STREAM, 0, b"x")), cut(PROTOCOL_ERROR)),
    ("6.1 DATA", "padding longer than the frame", {}, asks_then((DATA, PADDED | END_STREAM, 1, b"\x06test"), flags=BODY, **POST), cut(PROTOCOL_ERROR)),
    ("6.2 HEADERS", "on stream 0", {}, sends((HEADERS, END_STREAM | END_HEADERS, 0, b"\x82")), cut(PROTOCOL_ERROR)),
    ("6.2 HEADERS", "padding longer than the frame", {}, lambda peer: head(peer, b"\x41\x82", END_STREAM | END_HEADERS | PADDED), cut(PROTOCOL_ERROR)),
    ("6.2 HEADERS", "padded, with a priority", {}, lambda peer: head(peer, b"\x02\0\0\0\0\x10" + peer.coded(peer.fields()) + b"\0\0", END_STREAM | END_HEADERS | PADDED | PRIORITISED), answered()),
    ("6.3 PRIORITY", "on an idle stream", {}, sends((PRIORITY, 0, 1, b"\0\0\0\0\x10")), pinged),
    ("6.3 PRIORITY", "on stream 0", {}, sends((PRIORITY, 0, 0, b"\0\0\0\x01\x10")), cut(PROTOCOL_ERROR)),
    ("6.3 PRIORITY", "of four bytes", {}, asks_then((PRIORITY, 0, 1, b"\0\0\0\x01"), flags=BODY, **POST), reset(FRAME_SIZE_ERROR)),
    ("6.4 RST_STREAM", "on stream 0", {}, sends((RST_STREAM, 0, 0, number(8))), cut(PROTOCOL_ERROR)),
    ("6.4 RST_STREAM", "of three bytes", {}, asks_then((RST_STREAM, 0, 1, b"\0\0\0"), flags=BODY, **POST), cut(FRAME_SIZE_ERROR)),
    ("6.5 SETTINGS", "an acknowledgement with a payload", {}, sends((SETTINGS, ACK, 0, b"\0")), cut(FRAME_SIZE_ERROR)),
    ("6.5 SETTINGS", "on stream 1", {}, sends((SETTINGS, 0, 1, SETTING.pack(3, 100))), cut(PROTOCOL_ERROR)),
    ("6.5 SETTINGS", "of three bytes", {}, sends((SETTINGS, 0, 0, b"\0\x03\0")), cut(FRAME_SIZE_ERROR)),
    ("6.5.2 Settings", "push of 2", {}, setting((ENABLE_PUSH, 2)), cut(PROTOCOL_ERROR)),
    ("6.5.2 Settings", "a window beyond 31 bits", {}, setting((INITIAL_WINDOW_SIZE, 1 << 31)), cut(FLOW_CONTROL_ERROR)),
    ("6.5.2 Settings", "frames below 16384", {}, setting((MAX_FRAME_SIZE, 16383)), cut(PROTOCOL_ERROR)),
    ("6.5.2 Settings", "frames beyond 24 bits", {}, setting((MAX_FRAME_SIZE, 1 << 24)), cut(PROTOCOL_ERROR)),
    ("6.5.2 Settings", "an unknown one", {}, setting((0xFF, 1), (MAX_HEADER_LIST_SIZE, 1 << 20), (HEADER_TABLE_SIZE, 0)), pinged),
    ("6.5.3 Settings", "are acknowledged", {}, is_acknowledged, nothing),
    ("6.7 PING", "with ACK is not answered", {}, sends((PING, ACK, 0, b"answered")), pinged),
    ("6.7 PING", "on stream 1", {}, sends((PING, 0, 1, b"illegal!")), cut(PROTOCOL_ERROR)),
    ("6.7 PING", "of six bytes", {}, sends((PING, 0, 0, b"sixsix")), cut(FRAME_SIZE_ERROR)),
    ("6.8 GOAWAY", "on stream 1", {}, sends((GOAWAY, 0, 1, bytes(8))), cut(PROTOCOL_ERROR)),
    ("6.8 GOAWAY", "ends the connection when all is answered", {}, lambda peer: (peer.ask(), sends((GOAWAY, 0, 0, bytes(8)))(peer), peer.is_answered()), cut(NO_ERROR)),
    ("6.9 WINDOW_UPDATE", "of 0 for the connection", {}, sends((WINDOW_UPDATE, 0, 0, number(0))), cut(PROTOCOL_ERROR)),
    ("6.9 WINDOW_UPDATE", "of 0 for a stream", {}, asks_then((WINDOW_UPDATE, 0, 1, number(0)), flags=BODY, **POST), reset(PROTOCOL_ERROR)),
    ("6.9 WINDOW_UPDATE", "of three bytes", {}, sends((WINDOW_UPDATE, 0, 0, b"\0\0\x01")), cut(FRAME_SIZE_ERROR)),
    ("6.9.1 Windows", "beyond 31 bits for the connection", {}, sends(*[(WINDOW_UPDATE, 0, 0, number((1 << 31) - 1))] * 2), cut(FLOW_CONTROL_ERROR)),
    ("6.9.1 Windows", "beyond 31 bits for a stream", {}, asks_then(*[(WINDOW_UPDATE, 0, 1, number((1 << 31) - 1))] * 2, flags=BODY, **POST), reset(FLOW_CONTROL_ERROR)),
    ("6.9.1 Windows", "of one byte is kept to", {}, window_of_one, nothing),
    ("6.10 CONTINUATION", "several make a block", {}, continued((CONTINUATION, 0, 1, b""), (CONTINUATION, END_HEADERS, 1, None)), answered()),
    ("6.10 CONTINUATION", "something else within a block", {}, continued((DATA, 0, 1, b"x"), (CONTINUATION, END_HEADERS, 1, None)), cut(PROTOCOL_ERROR)),
    ("6.10 CONTINUATION", "on stream 0", {}, continued((CONTINUATION, END_HEADERS, 0, None)), cut(PROTOCOL_ERROR)),
    ("6.10 CONTINUATION", "after END_HEADERS", {}, asks_then((CONTINUATION, END_HEADERS, 1, b"\x82"), flags=BODY, **POST), cut(PROTOCOL_ERROR)),
    ("7 Error codes", "an unknown one in GOAWAY", {}, sends((GOAWAY, 0, 0, number(0) + number(0xFF))), "left or cut"),
    ("7 Error codes", "an unknown one in RST_STREAM", {}, asks_then((RST_STREAM, 0, 1, number(0xFF)), flags=BODY, **POST), pinged),
]
# What a stream that is no more may be answered with, besides nothing.
LEFT = (NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM)


def run(wire, case):
    _, _, opening, drive, outcome = case
    with Peer(wire, **opening) as peer:
        drive(peer)
        if outcome == "left or cut":
            try:
                peer.is_pinged()
            except AssertionError:
                peer.is_cut(*LEFT)
        else:
            outcome(peer)
