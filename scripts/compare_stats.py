"""Numbers of scripts/compare: percentiles, bootstrap intervals, and the guard that tells clean blocks from disturbed ones.

It knows nothing of servers. A block is what one A-B-B-A turn measured; a statistic is a function of a list of blocks.
"""

import hashlib
import random
import time

TICKS_A_SECOND = 100.0
BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_SEED = 1
# Bytes that the calibration loop hashes: long enough for a figure, short beside what is measured.
CALIBRATION_BYTES = 1 << 20
CALIBRATION_TURNS = 24
CALIBRATION_REPEATS = 4


def percentile(values, share):
    """The nearest rank: the smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def bootstrap(blocks, statistic):
    """A statistic of all blocks and the 95 % interval of it over blocks drawn again with replacement."""
    draw = random.Random(BOOTSTRAP_SEED)
    drawn = sorted(statistic(draw.choices(blocks, k=len(blocks))) for _ in range(BOOTSTRAP_DRAWS))
    return statistic(blocks), drawn[int(0.025 * BOOTSTRAP_DRAWS)], drawn[int(0.975 * BOOTSTRAP_DRAWS) - 1]


def busy_seconds():
    """Processor time that the machine has spent on anything, a neighbour on the same host (steal) included."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:]]
    # user nice system (idle iowait) irq softirq steal; guests are counted in user already.
    return sum(ticks[at] for at in (0, 1, 2, 5, 6, 7)) / TICKS_A_SECOND


def calibration():
    """Seconds of a fixed loop, the best of a few: what the processor gives us now."""
    data, best = bytes(CALIBRATION_BYTES), float("inf")
    for _ in range(CALIBRATION_REPEATS):
        begun = time.perf_counter()
        for _ in range(CALIBRATION_TURNS):
            hashlib.sha256(data).digest()
        best = min(best, time.perf_counter() - begun)
    return best


class Guard:
    """Says whether a block was measured on a quiet machine.

    `own_seconds` gives the processor time of everything that belongs to the comparison: client and servers.
    """

    def __init__(self, foreign_max, slower_max):
        self.foreign_max = foreign_max
        self.slower_max = slower_max
        # The best loop of the whole run: a machine that is slow throughout must not look normal later.
        self.best = calibration()

    def open(self, own_seconds):
        speed = calibration()
        self.best = min(self.best, speed)
        return speed, time.perf_counter(), busy_seconds(), own_seconds()

    def close(self, opened, own_seconds):
        """The reason to discard the block, or None, and the figures that say so."""
        before, begun, busy, own = opened
        wall = time.perf_counter() - begun
        # Ticks of 10 ms: what cannot be told apart is not foreign.
        foreign = max(0.0, busy_seconds() - busy - (own_seconds() - own)) / wall
        after = calibration()
        self.best = min(self.best, after)
        slower = max(before, after) / self.best - 1
        reason = "foreign" if foreign > self.foreign_max else "slowed" if slower > self.slower_max else None
        return reason, {"wall_s": wall, "foreign_cores": foreign, "slower": slower}
