"""One server of scripts/compare as a process group: started on a free port, watched through /proc, paused, stopped.

An `Arm` says what to start and what to ask of it; a `Server` is a running one. Nothing here knows which peer it is.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from compare_load import Failure
from compare_stats import TICKS_A_SECOND

START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 30
POLL_SECONDS = 0.05


@dataclass
class Arm:
    """One column of the comparison: a server on one representation of the weights."""

    # Short name, as `--peers` takes it.
    name: str
    # What the weights are in memory: named in every row.
    weights: str
    version: str
    # The command line for a port and a number of clients.
    command: Callable[[int, int], list]
    # Fields added to each request, so that all answers have the asked length and no prompt cache helps.
    fields: dict
    # A path that answers 200 when the server is ready.
    ready: str = "/health"
    env: dict = field(default_factory=dict)
    # The BLAS that it multiplies with, where there is one.
    blas: str = "none"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A running arm. Its processes have a group of their own, on the cores given to servers."""

    def __init__(self, arm, clients, cores, log):
        self.arm = arm
        self.port = free_port()
        self.log = log
        self.paused = False
        # Seconds a token of prompt and a token of answer, as the warm-up has found them.
        self.pace = (0.0, 0.0)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SANCTUM_MLX_")}
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in arm.command(self.port, clients)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env={**environment, **arm.env}, start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores))

    def until_ready(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.arm.name} ended with {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", self.arm.ready)
                if connection.getresponse().status == 200:
                    return
            time.sleep(POLL_SECONDS)
        raise Failure(f"{self.arm.name} is not ready after {START_SECONDS_MAX} s: {self.last_words()}")

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1][:200] if lines else 'it said nothing'} ({self.log})"

    def processes(self):
        """Ids of the group; a server may have started helpers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    if os.getpgid(int(entry.name)) == self.process.pid:
                        found.append(int(entry.name))
        return found

    def cpu_seconds(self):
        """Processor time of all its processes, those that have ended included."""
        ticks = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                # The name in brackets may hold anything; what follows is numbers: utime, stime, cutime, cstime.
                after = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(int(number) for number in after[11:15])
        return ticks / TICKS_A_SECOND

    def peak_bytes(self):
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1]) * 1024
        return total

    def pause(self):
        self.paused = True
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self):
        if self.paused:
            self.paused = False
            os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self.resume()
            os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS_MAX)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
