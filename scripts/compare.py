"""Compares our server with others on the same weights, machine and threads; run it through scripts/compare.

The protocol. For each number of clients and each peer, ours and the peer are started afresh and warmed up. Each load is
measured in blocks, ours-peer-peer-ours, one server computing at a time; a block counts if the machine was quiet. The
figure of a cell is the median of its blocks' ratios, with a bootstrap interval of 95 %.

The loads. `prefill 128` and `prefill 1024`: all clients send a prompt of so many tokens at once and want one token; the
figure is prompt tokens by the time until the last one has come. `decode`: all clients send 128 tokens and want --tokens;
TTFT (median of a block, and p95 of all requests of all blocks), gaps between tokens (p99 of all gaps of all blocks) and
tokens a second of all clients together, while all streams run, are taken from it. From 4 clients on, a last table says
what was to be reached beside the best peer of each row.

Time: on two cores some ten minutes for one client and both llama.cpp arms; hours for everything, because two of the peers
are slow there.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import compare_peers
import compare_report
from compare_load import Failure, Prompts, at_once, decode_rate, prefill_rate
from compare_servers import Arm, Server
from compare_stats import Guard, median
from default_model import is_there, model_path
from packages import REPOSITORY

TOKENS_OFF_MAX = 0.10
# Tokens that the warm-up generates, and words of the prompt that shows what the template adds.
WARM_TOKENS = 8
FIT_WORDS = 64
# What of a prompt may come from a cache: the tokens that every template begins with.
CACHED_TOKENS_MAX = 8
# An idle server that takes more of a core than this is stopped while the other one is measured.
IDLE_CORES_MAX = 0.01
IDLE_SECONDS = 1.0
SETTLE_SECONDS = 0.5
# Prompts that are over quickly are sent several times, one after the other, to make one sample.
PREFILL_TURNS = {128: 4, 1024: 1}
TURN_SECONDS = 1.0
# Discarded blocks are measured again, up to this many attempts a wanted block.
ATTEMPTS = 3


@dataclass(frozen=True)
class Metric:
    """A row of a cell: where its figure is in a sample, and which way is better.

    With a share, the figure is that percentile of all samples of all blocks.
    """

    name: str
    unit: str
    key: str
    higher: bool
    share: Optional[float] = None


@dataclass(frozen=True)
class Load:
    """What all clients ask for at once, and the rows that it yields."""

    name: str
    prompt_tokens: int
    tokens: int
    turns: int
    metrics: tuple


def loads(tokens):
    prefill = [Load(f"prefill {size}", size, 1, turns, (Metric(f"prefill {size}", "tok/s", "rate", True),))
               for size, turns in PREFILL_TURNS.items()]
    return [*prefill, Load("decode", 128, tokens, 1, (
        Metric("TTFT at 128", "ms", "ttft_ms", False), Metric("TTFT p95", "ms", "ttfts_ms", False, share=0.95),
        Metric("decode", "tok/s", "rate", True), Metric("gap p99", "ms", "gaps_ms", False, share=0.99)))]


def say(message):
    print(f"compare: {message}", file=sys.stderr, flush=True)


class Comparison:
    """Owns the running servers, the guard and the counters; `rows` is what it is for."""

    def __init__(self, given, model, ours):
        self.given, self.model, self.ours = given, model, ours
        self.cores = set(sorted(os.sched_getaffinity(0))[:given.threads])
        self.prompts = Prompts(given.seed)
        self.guard = Guard(float("inf"), float("inf")) if given.no_guard else Guard(given.foreign / 100, given.slower / 100)
        self.totals = Counter(kept=0, foreign=0, slowed=0, client_seconds=0.0, cpu_seconds=0.0)
        self.rows = []

    def pair(self, clients, peer):
        """Every row of one number of clients and one peer."""
        say(f"{clients} clients: ours and {peer.name}")
        with contextlib.ExitStack() as stack:
            servers = {}
            for side, arm in (("ours", self.ours), ("peer", peer)):
                log = REPOSITORY / "target" / "compare" / f"{side}-{peer.name}-{clients}.log"
                servers[side] = Server(arm, clients, self.cores, log)
                stack.callback(servers[side].stop)
                servers[side].until_ready()
            for server in servers.values():
                self.warm_up(server, clients)
            idle = {side: self.idles(server) for side, server in servers.items()}
            for load in loads(self.given.tokens):
                if not self.given.loads or load.name in self.given.loads:
                    self.cell(load, clients, peer, servers, idle)
            peaks = [servers[side].peak_bytes() for side in ("ours", "peer")]
            self.rows.append(compare_report.memory_row(clients, self.ours, peer, *peaks))

    def warm_up(self, server, clients):
        if not self.prompts.around:
            self.prompts.fit(self.ask(server, 1, FIT_WORDS, 1)[0].prompt_tokens, FIT_WORDS)
        first, long, _ = loads(self.given.tokens)
        begun = time.perf_counter()
        answers = self.ask(server, clients, first.prompt_tokens, WARM_TOKENS)
        seconds = time.perf_counter() - begun
        decoding = seconds - max(answer.ttft for answer in answers)
        server.pace = ((seconds - decoding) / first.prompt_tokens, decoding / WARM_TOKENS)
        if expected_seconds([server], long) <= self.given.seconds:
            self.ask(server, clients, long.prompt_tokens, long.tokens)

    def ask(self, server, clients, prompt_tokens, tokens):
        """One unique prompt from each client, all at once."""
        return at_once(server.port, [{
            "messages": self.prompts.of(prompt_tokens), "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **server.arm.fields} for _ in range(clients)])

    def idles(self, server):
        """Whether a server that has nothing to do does nothing."""
        time.sleep(SETTLE_SECONDS)
        before = server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        cores = (server.cpu_seconds() - before) / IDLE_SECONDS
        if cores > IDLE_CORES_MAX:
            say(f"{server.arm.name} takes {cores:.0%} of a core when idle: stopped while the other one is measured")
        return cores <= IDLE_CORES_MAX

    def cell(self, load, clients, peer, servers, idle):
        """Blocks until enough are clean, or time or attempts are used up."""
        blocks, discarded, begun = [], Counter(), time.perf_counter()
        once = replace(load, turns=1)
        if expected_seconds(servers.values(), once) > 2 * TURN_SECONDS * len(servers):
            load = once
        try:
            expected = expected_seconds(servers.values(), load)
            if expected > self.given.seconds:
                raise Failure(f"one block would take {expected:.0f} s, more than --seconds")
            for attempt in itertools.count(1):
                block, reason, figures = self.block(load, clients, servers, idle)
                if reason:
                    discarded[reason] += 1
                else:
                    blocks.append(block)
                spent = time.perf_counter() - begun
                say(f"  {load.name}: block {attempt} {'discarded, ' + reason if reason else 'kept'} "
                    f"(foreign {figures['foreign_cores']:.1%} of a core, {figures['slower']:+.1%} slower, {spent:.0f} s)")
                over = spent + spent / attempt > self.given.seconds
                if len(blocks) >= self.given.blocks or attempt >= ATTEMPTS * self.given.blocks or over:
                    break
        except Failure as failure:
            say(f"  {load.name}: void: {failure}")
            self.rows += [compare_report.void_row(metric.name, clients, self.ours, peer, str(failure)[:160])
                          for metric in load.metrics]
            return
        self.totals.update(discarded)
        self.totals["kept"] += len(blocks)
        self.rows += [compare_report.row(metric, clients, self.ours, peer, blocks, dict(discarded), self.given.blocks)
                      for metric in load.metrics]

    def block(self, load, clients, servers, idle):
        def own_seconds():
            return time.process_time() + sum(server.cpu_seconds() for server in servers.values())

        opened = self.guard.open(own_seconds)
        used, client = own_seconds(), time.process_time()
        samples = {"ours": [], "peer": []}
        for side, other in (("ours", "peer"), ("peer", "ours"), ("peer", "ours"), ("ours", "peer")):
            if not idle[other]:
                servers[other].pause()
            samples[side].append(self.sample(load, clients, servers[side]))
            servers[other].resume()
        self.totals["client_seconds"] += time.process_time() - client
        self.totals["cpu_seconds"] += own_seconds() - used
        reason, figures = self.guard.close(opened, own_seconds)
        return {side: merged(pair) for side, pair in samples.items()}, reason, figures

    def sample(self, load, clients, server):
        rates, first, gaps = [], [], []
        for _ in range(load.turns):
            answers = self.ask(server, clients, load.prompt_tokens, load.tokens)
            for answer in answers:
                check(server.arm, load, answer)
            rates.append(prefill_rate(answers) if load.tokens == 1 else decode_rate(answers))
            first += [answer.ttft for answer in answers]
            gaps += [gap for answer in answers for gap in answer.gaps]
        # Turns do the same work one after the other: their common rate is the harmonic mean.
        return {"rate": len(rates) / sum(1 / rate for rate in rates), "ttft_ms": 1e3 * median(first),
                "ttfts_ms": [1e3 * time for time in first], "gaps_ms": [1e3 * gap for gap in gaps]}


def expected_seconds(servers, load):
    """How long one block takes, by the pace that the warm-up has shown."""
    return 2 * load.turns * sum(
        server.pace[0] * load.prompt_tokens + server.pace[1] * load.tokens for server in servers)


def merged(pair):
    """The two samples that one side has in a block."""
    first, second = pair
    return {"rate": (first["rate"] + second["rate"]) / 2, "ttft_ms": (first["ttft_ms"] + second["ttft_ms"]) / 2,
            "ttfts_ms": first["ttfts_ms"] + second["ttfts_ms"], "gaps_ms": first["gaps_ms"] + second["gaps_ms"]}


def check(arm, load, answer):
    """Both sides did the work that was asked for, all of it, and no cache did it for them."""
    for what, found, wanted in (("prompt", answer.prompt_tokens, load.prompt_tokens), ("answer", answer.tokens, load.tokens)):
        if abs(found - wanted) > TOKENS_OFF_MAX * wanted:
            raise Failure(f"{arm.name} counts {found} tokens of {what}, expected {wanted}")
    if answer.cached_tokens > CACHED_TOKENS_MAX:
        raise Failure(f"{arm.name} took {answer.cached_tokens} tokens of a unique prompt from a cache")


def our_arm(binary, model, home, given):
    def command(port, clients):
        return [binary, "serve", "--home", home, "--model", model, "--port", port, "--no-tls", "--rows", clients,
                "--queue-wait-seconds", 600, "--prefix-cache-mb", 0]

    threads = {"OPENBLAS_NUM_THREADS": str(given.threads), "OMP_NUM_THREADS": str(given.threads)}
    version = compare_report.text_of(binary, "--version")
    return Arm("ours", given.weights, version, command, compare_peers.NO_END, ready="/health/ready", env=threads,
               blas=compare_report.linked_blas(binary))


def refuse_stale(binary):
    """Figures of another source than the one at hand are worse than none."""
    if not binary.is_file():
        sys.exit(f"compare: error: {binary} is missing: `cargo build --release --locked --bin sanctum-mlx`")
    sources = [path for path in (REPOSITORY / "src").rglob("*") if path.is_file()]
    sources += [REPOSITORY / name for name in ("build.rs", "Cargo.toml", "Cargo.lock")]
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > binary.stat().st_mtime:
        sys.exit(f"compare: error: {binary} is older than {newest.relative_to(REPOSITORY)}: build it again")


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/compare", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="Peers: " + ", ".join(compare_peers.NAMES) + ". They are made once, in the cache folder, niced; what cannot "
        "be made is left out.\nLogs of the servers are in target/compare/. Exit codes: 0 a table was printed, 1 it was not, "
        "2 usage.\n\nExamples:\n  scripts/compare\n  scripts/compare --quick\n"
        "  scripts/compare --clients 1,4,8 --loads decode\n"
        "  scripts/compare --peers llama-q4_1,llama-q4_0 --clients 1,8 --blocks 15")
    listed = lambda kind: lambda text: [kind(item) for item in text.split(",")]  # noqa: E731
    parser.add_argument("--peers", type=listed(str), default=compare_peers.NAMES, help="names, by commas (default: all)")
    parser.add_argument("--clients", type=listed(int), help="numbers of clients (default: 1,2,4,8)")
    parser.add_argument("--blocks", type=int, help="clean blocks of each load (default: 7)")
    parser.add_argument("--seconds", type=float, default=600,
                        help="most time for one load of one cell; slow peers get fewer blocks (default: 600)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer of the decode load (default: 128)")
    parser.add_argument("--loads", type=listed(str), help="only these: 'prefill 128','prefill 1024',decode (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each server (default: 2)")
    parser.add_argument("--quick", action="store_true", help="1 client and 3 blocks, for a look: rows get no verdict")
    parser.add_argument("--foreign", type=float, default=5, metavar="PERCENT",
                        help="of a core that others may use during a block (default: 5)")
    parser.add_argument("--slower", type=float, default=3, metavar="PERCENT",
                        help="by which a fixed loop may be slower than at its best (default: 3)")
    parser.add_argument("--no-guard", action="store_true", help="keep every block; the figures mean nothing")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target" / "release" / "sanctum-mlx",
                        help="ours; without this option scripts/compare builds it")
    parser.add_argument("--weights", default="Q4_1, the file", help="what our weights are in memory, for the rows")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "target" / "compare.json", help="where the figures go")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts (default: 1)")
    given = parser.parse_args()
    unknown = [name for name in given.peers if name not in compare_peers.NAMES]
    if unknown:
        parser.error(f"unknown peers {', '.join(unknown)}: choose from {', '.join(compare_peers.NAMES)}")
    unknown = [name for name in given.loads or [] if name not in [load.name for load in loads(1)]]
    if unknown:
        parser.error(f"unknown loads {', '.join(unknown)}")
    given.clients = given.clients or ([1] if given.quick else [1, 2, 4, 8])
    given.blocks = given.blocks or (3 if given.quick else 7)
    return given


def main():
    given = arguments()
    if not sys.platform.startswith("linux"):
        sys.exit("compare: error: what processes use is read from /proc: it runs on Linux only")
    binary = given.binary.absolute()
    refuse_stale(binary)
    model = model_path()
    if not is_there(model):
        sys.exit(f"compare: error: {model} is missing: run scripts/setup")
    peers = compare_peers.arms(model, given.threads, given.peers)
    if not peers:
        sys.exit("compare: error: there is no peer to compare with")
    # A signal must not leave servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    home = Path(tempfile.mkdtemp(prefix="sanctum-mlx-compare-"))
    try:
        ours = our_arm(binary, model, home, given)
        head = compare_report.header(binary, model, given.threads, set(sorted(os.sched_getaffinity(0))[:given.threads]),
                                     [ours, *peers])
        comparison = Comparison(given, model, ours)
        for clients, peer in itertools.product(given.clients, peers):
            try:
                comparison.pair(clients, peer)
            except Failure as failure:
                say(f"void: {failure}")
                comparison.rows.append(compare_report.void_row("all", clients, ours, peer, str(failure)[:200]))
        compare_report.show(head, comparison.rows, dict(comparison.totals), given.json)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
