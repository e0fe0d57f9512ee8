"""Drives real clients against real servers and prints the table client → feature → works.

`scripts/clients` prepares what this needs. Two servers run: an ordinary one, and a narrow one with a token, one row and
one waiting place, which is easily full. Exit 0 when every cell works, 1 when one does not, 2 when nothing could be tried.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import servers
import table

MODULES = ("openai_python", "langchain_openai_chat", "litellm_completion", "llm_cli", "curl_command", "node_openai", "http2_conformance")
# Waiting longer than this is the 503 that retries are tried with.
NARROW = ("--rows", "1", "--queue-jobs", "1", "--queue-wait-seconds", "2")
TOKEN = "a-token-of-the-tests-of-clients"


def say(line):
    print(line, file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", type=Path, required=True, help="the server")
    parser.add_argument("--model", type=Path, required=True, help="the default model, a .gguf file")
    parser.add_argument("--node", type=Path, help="where Node's packages are; without it Node is not tried")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"some of {', '.join(MODULES)}; all when none is named")
    options = parser.parse_args()
    if unknown := set(options.clients) - set(MODULES):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    return options


def tried(options):
    """Every cell of every client that was asked for, and what is to be said of them."""
    outcomes, notes = [], []
    ordinary = servers.Site(options.binary, options.model)
    narrow = servers.Site(options.binary, options.model, *NARROW, token=TOKEN)
    with ordinary, narrow:
        for name in options.clients or MODULES:
            if name == "node_openai" and options.node is None:
                continue
            begun = time.monotonic()
            module = importlib.import_module(name)
            say(f"       {module.CELLS.client}: loaded in {time.monotonic() - begun:.1f} s")
            if name == "node_openai":
                module.MODULES = options.node
            outcomes += table.try_all(module.CELLS, ordinary, narrow, say)
            notes += module.CELLS.notes
    return outcomes, notes


def main():
    options = arguments()
    # No proxy stands between a client and this machine, and nothing is looked for elsewhere.
    os.environ.update(servers.environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"))
    begun = time.monotonic()
    outcomes, notes = tried(options)
    if not outcomes:
        say("clients: nothing was tried")
        sys.exit(2)
    print(table.shown(outcomes))
    print("".join(f"{note}\n" for note in notes), end="")
    if options.node is None:
        print("openai, Node: not tried, there is no node with npm on this machine")
    failed = sum(bool(outcome.fault) for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} cells work, in {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
