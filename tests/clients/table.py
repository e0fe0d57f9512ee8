"""The table client → feature → works: what is tried, how it went, and how that is shown.

A client's file holds one `Cells`, and each of its functions is one cell: it drives one feature over the wire that it is
given, and raises when the feature does not work. It refuses to know servers and clients.
"""

import time
import traceback
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Feature:
    """One cell to be tried."""

    name: str
    drive: object  # a function of a wire
    narrow: bool  # wants the server with one row and one waiting place, over its plain wire only


@dataclass
class Cells:
    """What is tried with one client."""

    client: str
    wires: tuple  # attributes of a site: "plain", "tls", "http2"
    features: list = field(default_factory=list)
    notes: list = field(default_factory=list)  # said below the table

    def works(self, name, narrow=False):
        """Names the feature that the decorated function drives."""

        def keep(drive):
            self.features.append(Feature(name, drive, narrow))
            return drive

        return keep


@dataclass(frozen=True)
class Outcome:
    """One tried cell."""

    client: str
    wire: str
    feature: str
    seconds: float
    fault: str  # empty when it works


def try_all(cells, site, narrow, say):
    """Drives every cell of a client; a cell that fails does not keep the others from being tried."""
    outcomes = []
    for attribute in cells.wires:
        for feature in cells.features:
            if feature.narrow and attribute != "plain":
                continue
            wire = getattr(narrow if feature.narrow else site, attribute)
            begun = time.monotonic()
            try:
                feature.drive(wire)
                fault = ""
            except Exception:
                fault = traceback.format_exc()
            outcome = Outcome(cells.client, wire.name, feature.name, time.monotonic() - begun, fault)
            outcomes.append(outcome)
            say(f"{'FAILS' if fault else 'works'}  {cells.client}, {wire.name}: {feature.name} ({outcome.seconds:.1f} s)")
            if fault:
                say(fault)
    return outcomes


def shown(outcomes):
    """The table for people: a line for each client and wire, then features in the order in which they were tried."""
    rows = {}
    for outcome in outcomes:
        rows.setdefault((outcome.client, outcome.wire), []).append(outcome)
    features = list(dict.fromkeys(outcome.feature for outcome in outcomes))
    client_width = max(len(client) for client, _ in rows)
    wire_width = max(len(wire) for _, wire in rows)
    feature_width = max(len(feature) for feature in features)
    lines = [f"{'client':{client_width}}  {'wire':{wire_width}}  {'feature':{feature_width}}  works"]
    for (client, wire), tried in rows.items():
        for feature in features:
            for outcome in tried:
                if outcome.feature == feature:
                    works = "FAILS" if outcome.fault else "yes"
                    lines.append(f"{client:{client_width}}  {wire:{wire_width}}  {feature:{feature_width}}  {works}")
    return "\n".join(lines)
