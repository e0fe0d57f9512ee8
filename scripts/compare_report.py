"""What scripts/compare prints and keeps: the header that makes figures attributable, the one table, the JSON beside it.

Every row is ours ÷ peer. A row is lost or won only if its interval leaves out 1.00; lost ones come first.
"""

import datetime
import json
import os
import platform
import re
import subprocess
from pathlib import Path

from compare_stats import bootstrap, median, percentile
from packages import REPOSITORY, sha256

CPU_FLAGS = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"]
# With fewer blocks an interval says nothing, and the row gets no verdict.
BLOCKS_FOR_VERDICT = 5
# What many clients are to get, ours by the better of llama-server and mlx_lm.server: tokens a second of all together, and
# the time to the first token.
TARGETS = {"decode": 1.2, "TTFT p95": 1.0}
TARGET_CLIENTS_MIN = 4
TARGET_PEERS = ("llama-", "mlx-")
ORDER = {"lost": 0, "parity": 1, "unclear": 2, "won": 3, "void": 4}


def text_of(*command):
    done = subprocess.run([str(part) for part in command], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip()


def linked_blas(binary):
    """The BLAS that our binary loads. The file keeps the name that libmlx.so asks for; what it is, only it tells."""
    found = re.search(r"\S*blas\S* => (\S+)", text_of("ldd", binary))
    if not found:
        return "none"
    name = re.search(rb"OpenBLAS \d+\.[\d.]*\d", Path(found.group(1)).read_bytes())
    return name.group().decode() if name else Path(found.group(1)).name


def header(binary, model, threads, cores, arms):
    info = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^flags\s*: (.*)$", info, re.MULTILINE).group(1).split()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": text_of("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "binary": f"{binary.name}, SHA-256 {sha256(binary)[:16]}",
        "model": f"{model.name}, SHA-256 {sha256(model)[:16]}",
        "cpu": f"{re.search('^model name.*: (.*)$', info, re.MULTILINE).group(1)}, {os.cpu_count()} cores",
        "features": " ".join(flag for flag in CPU_FLAGS if flag in flags) or "none of those that kernels ask for",
        "governor": governor.read_text().strip() if governor.is_file() else "not told",
        "kernel": platform.release(),
        "threads": f"{threads}; servers on cores {','.join(map(str, sorted(cores)))}",
        "load": Path("/proc/loadavg").read_text().split()[:3],
        "arms": {arm.name: {"weights": arm.weights, "version": arm.version, "BLAS": arm.blas} for arm in arms},
    }


def ratio_of(metric, blocks):
    """Ours ÷ peer over all clean blocks, with its interval, and both sides' own figures."""
    if metric.share:
        # A high percentile needs all samples of all blocks: of one block's, it would be the maximum.
        def side(chosen, name):
            return percentile([sample for block in chosen for sample in block[name][metric.key]], metric.share)

        value, low, high = bootstrap(blocks, lambda chosen: side(chosen, "ours") / side(chosen, "peer"))
        return side(blocks, "ours"), side(blocks, "peer"), value, low, high
    value, low, high = bootstrap(blocks, lambda chosen: median(
        [block["ours"][metric.key] / block["peer"][metric.key] for block in chosen]))
    return (median([block["ours"][metric.key] for block in blocks]),
            median([block["peer"][metric.key] for block in blocks]), value, low, high)


def row(metric, clients, ours, peer, blocks, discarded, wanted):
    """One line of the table. `blocks` are the clean ones; `discarded` counts the others by reason."""
    result = {"metric": metric.name, "unit": metric.unit, "clients": clients, "peer": peer.name,
              "weights_ours": ours.weights, "weights_peer": peer.weights, "higher_is_better": metric.higher,
              "blocks": len(blocks), "blocks_wanted": wanted, "discarded": discarded}
    if not blocks:
        return {**result, "verdict": "void", "why": "no clean block"}
    mine, theirs, value, low, high = ratio_of(metric, blocks)
    result.update(ours=mine, peer_value=theirs, ratio=value, low=low, high=high,
                  advantage=value if metric.higher else 1 / value)
    if not metric.share:
        result["samples"] = [[block["ours"][metric.key], block["peer"][metric.key]] for block in blocks]
    return {**result, "verdict": verdict(result)}


def memory_row(clients, ours, peer, mine, theirs):
    """Peak memory is read once, at the end: the kernel keeps the maximum, and there is no interval."""
    value = mine / theirs
    return {"metric": "peak memory", "unit": "MB", "clients": clients, "peer": peer.name, "weights_ours": ours.weights,
            "weights_peer": peer.weights, "higher_is_better": False, "blocks": 1, "blocks_wanted": 1, "discarded": {},
            "ours": mine / 1e6, "peer_value": theirs / 1e6, "ratio": value, "low": value, "high": value,
            "advantage": 1 / value, "verdict": "lost" if value > 1 else "won"}


def void_row(name, clients, ours, peer, why):
    return {"metric": name, "unit": "", "clients": clients, "peer": peer.name, "weights_ours": ours.weights,
            "weights_peer": peer.weights, "blocks": 0, "blocks_wanted": 0, "discarded": {}, "verdict": "void", "why": why}


def verdict(result):
    if result["blocks"] < BLOCKS_FOR_VERDICT:
        return "unclear"
    if result["low"] <= 1 <= result["high"]:
        return "parity"
    return "won" if (result["ratio"] > 1) == result["higher_is_better"] else "lost"


def targets(rows):
    """What is to be reached with many clients, beside the peer that is best in it. Peers that no target names are left out."""
    for clients in sorted({row["clients"] for row in rows if row["clients"] >= TARGET_CLIENTS_MIN}):
        for metric, bound in TARGETS.items():
            cells = [row for row in rows if (row["metric"], row["clients"]) == (metric, clients)
                     and row["verdict"] != "void" and row["peer"].startswith(TARGET_PEERS)]
            if cells:
                best = min(cells, key=lambda row: row["advantage"])
                reached = best["ratio"] >= bound if best["higher_is_better"] else best["ratio"] <= bound
                met = "unclear" if best["blocks"] < BLOCKS_FOR_VERDICT else "met" if reached else "not met"
                yield {"metric": metric, "clients": clients, "peer": best["peer"], "ratio": best["ratio"], "low": best["low"],
                       "high": best["high"], "bound": bound, "higher_is_better": best["higher_is_better"], "met": met}


def target_line(target):
    wanted = f"{'≥' if target['higher_is_better'] else '≤'} {target['bound']:.2f}"
    found = f"{target['ratio']:.2f} ({target['low']:.2f}–{target['high']:.2f})"
    return (f"target    {target['clients']} clients, {target['metric']}: ours ÷ the best peer's ({target['peer']}) {found}, "
            f"wants {wanted}: {target['met']}")


def ordered(rows):
    """Losing cells first, the worst at the top; cells that say nothing at the end."""
    return sorted(rows, key=lambda row: (ORDER[row["verdict"]], row.get("advantage", 0), row["peer"], row["clients"]))


def number(value):
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def lines(rows):
    """The table, its columns as wide as their contents."""
    titles = ["verdict", "peer", "clients", "metric", "ours", "peer", "ours÷peer", "95 %", "blocks", "weights: ours | peer"]
    cells = [titles]
    for row in ordered(rows):
        left_out = sum(row["discarded"].values())
        count = f"{row['blocks']}/{row['blocks_wanted']}" + (f" −{left_out}" if left_out else "")
        weights = f"{row['weights_ours']} | {row['weights_peer']}"
        if row["verdict"] == "void":
            cells.append(["void", row["peer"], str(row["clients"]), row["metric"], "–", "–", "–", "–", count, row["why"]])
            continue
        better = "↑" if row["higher_is_better"] else "↓"
        interval = "one reading" if row["metric"] == "peak memory" else f"{row['low']:.2f}–{row['high']:.2f}"
        cells.append([row["verdict"], row["peer"], str(row["clients"]), f"{row['metric']}, {row['unit']} {better}",
                      number(row["ours"]), number(row["peer_value"]), f"{row['ratio']:.2f}", interval, count, weights])
    widths = [max(len(line[at]) for line in cells) for at in range(len(titles) - 1)]
    for line in cells:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[-1]])


def show(head, rows, totals, path):
    """Prints everything and writes the JSON."""
    for name, value in head.items():
        if name != "arms":
            print(f"{name:<9} {' '.join(value) if isinstance(value, list) else value}")
    for name, arm in head["arms"].items():
        print(f"{name:<11} {arm['weights']}; {arm['version']}; BLAS {arm['BLAS']}")
    print()
    for line in lines(rows):
        print(line)
    print()
    for target in targets(rows):
        print(target_line(target))
    print(f"blocks    {totals['kept']} kept, discarded: {totals['foreign']} for foreign load, {totals['slowed']} because the "
          f"processor had slowed; −n in a row counts its own")
    share = totals["client_seconds"] / max(totals["cpu_seconds"], 1e-9)
    print(f"client    {share:.2%} of the processor time used" + ("" if share <= 0.02 else ": MORE THAN 2 %"))
    print("reading   ↑ higher is better, ↓ lower; parity: the interval holds 1.00; unclear: fewer than "
          f"{BLOCKS_FOR_VERDICT} clean blocks; kernels of mlx_lm on x86 are MLX's own, unchanged")
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {"header": head, "totals": totals, "targets": list(targets(rows)), "rows": ordered(rows)}
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(f"JSON      {path}")
