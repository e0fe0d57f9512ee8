"""Whether the mutual TLS port speaks HTTP/2 as the RFC says: h2spec's cases frame by frame, and a good conversation by the
package `h2`, which ends the connection at the first frame that is wrong. A cell is a section.
"""

import json
import socket

import h2.config
import h2.connection
import h2.events

import http2_frames
import http2_requests
from questions import MESSAGES, TOKENS, is_of_paris
from table import Cells

CELLS = Cells("h2, frame by frame", ("http2",))
GENERAL = "hyper's h2 says PROTOCOL_ERROR where the RFC has a more exact code; the connection ends all the same"
# Where the server does otherwise than the RFC because the library below it does, and why that harms nobody. A case that
# is here and passes is a mistake too: it was mended.
UPSTREAM = {
    ("3.4 Preface", "a first frame that is no SETTINGS"): "hyper's h2 takes any frame for the first; what follows is judged as ever",
    ("5.1 Stream states", "DATA after the end"): GENERAL,
    ("6.3 PRIORITY", "of four bytes"): GENERAL,
    ("6.4 RST_STREAM", "of three bytes"): GENERAL,
    ("6.5 SETTINGS", "an acknowledgement with a payload"): GENERAL,
    ("6.5 SETTINGS", "of three bytes"): GENERAL,
    ("6.5.2 Settings", "a window beyond 31 bits"): GENERAL,
    ("6.7 PING", "of six bytes"): GENERAL,
    ("6.9 WINDOW_UPDATE", "of three bytes"): GENERAL,
    ("4.3 Header blocks", "a block that is none"): GENERAL,
    ("HPACK 2.3.3 Index", "beyond both tables"): GENERAL,
    ("HPACK 6.1 Index", "0"): GENERAL,
    ("HPACK 4.2 Table size", "an update at the end of a block"): GENERAL,
    ("HPACK 6.3 Table size", "beyond what was allowed"): GENERAL,
    ("HPACK 5.2 Strings", "padding longer than 7 bits"): GENERAL,
    ("HPACK 5.2 Strings", "padding of zeros"): GENERAL,
    ("HPACK 5.2 Strings", "the symbol EOS"): GENERAL,
}
CELLS.notes += [f"upstream, {case[0]}, {case[1]}: {reason}" for case, reason in UPSTREAM.items()]


def fault_of(wire, case):
    """What is wrong with a case, or nothing."""
    known = case[:2] in UPSTREAM
    try:
        http2_frames.run(wire, case)
    except AssertionError as error:
        return None if known else f"{case[1]}: {error}"
    return f"{case[1]}: is named as upstream, and passes" if known else None


def section(name, cases):
    def drive(wire):
        faults = [fault for case in cases if (fault := fault_of(wire, case))]
        # Whatever was sent cost its own connection only.
        with http2_frames.Peer(wire) as peer:
            peer.ask()
            peer.is_answered()
        assert not faults, "; ".join(faults)

    CELLS.works(f"{name} ({len(cases)})")(drive)


ALL = http2_frames.CASES + http2_requests.CASES
for title in dict.fromkeys(case[0] for case in ALL):
    section(title, [case for case in ALL if case[0] == title])


@CELLS.works("a conversation judged by h2")
def conversation(wire):
    """Four streams at once on one connection; `h2` raises at whatever a server must not send."""
    host, port = wire.origin.removeprefix("https://").rsplit(":", 1)
    context = wire.context()
    context.set_alpn_protocols(["h2"])
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    body = json.dumps({"messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS}).encode()
    fields = [(":method", "POST"), (":scheme", "https"), (":path", "/v1/chat/completions"), (":authority", f"{host}:{port}"),
              ("content-type", "application/json"), ("content-length", str(len(body)))]
    texts, ended = {}, set()
    with context.wrap_socket(socket.create_connection((host, int(port)), 60), server_hostname=host) as stream:
        connection.initiate_connection()
        for number in (1, 3, 5, 7):
            connection.send_headers(number, fields)
            connection.send_data(number, body, end_stream=True)
        stream.sendall(connection.data_to_send())
        while len(ended) < 4:
            for event in connection.receive_data(stream.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    texts[event.stream_id] = texts.get(event.stream_id, b"") + event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
                assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)), event
            stream.sendall(connection.data_to_send())
    for text in texts.values():
        is_of_paris(json.loads(text)["choices"][0]["message"]["content"])
