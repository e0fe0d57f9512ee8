"""What one tick of each watcher costs, as whole processes beside a server that serves.

Installs the release build into a folder of its own, starts the server from there with the default model, and runs each
watcher so often: processor time and resident memory are the kernel's (wait4), with those of the programs that the tick
started. On Linux a script stands for `systemctl`, so that nothing of this machine is asked or changed. The first run of
each is not counted: it finds caches cold. `drift, cold` begins each time without what it remembers of files that it read.

Exit 0 when every median is within its limit; 1 when not; 2 when it cannot be measured.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
READY_SECONDS = 120
CPU_SECONDS = 0.05
DRIFT_CPU_SECONDS = 1.0
RESIDENT_MB = 30.0

SYSTEMCTL = """#!/bin/sh
for unit; do :; done
echo LoadState=loaded
echo ActiveState=active
echo ExecMainStatus=0
echo ExecMainExitTimestampMonotonic=0
[ "$unit" = sanctum-mlx.service ] || {{ echo MainPID=0; exit 0; }}
echo MainPID={pid}
echo "FragmentPath={home}/.config/systemd/user/sanctum-mlx.service"
echo "ExecStart={{ path={program} ; argv[]={program} serve --home {root} ; ignore_errors=no ; pid={pid} ; status=0/0 }}"
"""


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="ticks-") as folder:
        site = Site(pathlib.Path(folder).resolve(), options.binary.resolve(), options.model.resolve())
        try:
            site.install()
            site.serve()
            rows = [measure(site, row, options.runs) for row in site.rows()]
        finally:
            site.end()
    return report(rows, options.runs)


def arguments():
    default = pathlib.Path(os.environ.get("SANCTUM_MLX_HOME", pathlib.Path.home() / ".sanctum-mlx")) / "models/default"
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release/sanctum-mlx", help="a release build")
    parser.add_argument("--model", type=pathlib.Path, default=default, help="what is served meanwhile")
    parser.add_argument("--runs", type=int, default=20, help="of each tick")
    options = parser.parse_args()
    for path in (options.binary, options.model):
        if not path.exists():
            stop(f"{path} is missing: run scripts/setup, cargo build --release")
    return options


class Site:
    """An installation below `folder`, and what runs in it."""

    def __init__(self, folder, binary, model):
        self.folder, self.binary, self.server = folder, binary, None
        self.root = folder / "home"
        self.root.mkdir(mode=0o700)
        self.plain, self.tls = free_port(), free_port()
        (self.root / "config.toml").write_text(f'model = "{model}"\nport = {self.plain}\ntls_port = {self.tls}\n')
        # A small model knows this one.
        question = '[canary]\nquestion = "What is the capital of France?"\nexpected = "Paris"\n'
        (self.root / "watch.toml").write_text(question)
        path = f"{folder / 'tools'}:{os.environ['PATH']}"
        # The last one as the watchers' units have it.
        self.environment = {"HOME": str(folder), "PATH": path, "OPENBLAS_NUM_THREADS": "1"}

    def install(self):
        self.tool(0)
        words = [self.binary, "install", "--no-start", "--home", self.root]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            stop(f"install: {done.stderr.strip()}")
        self.watcher = self.root / "watchers/bin/sanctum-mlx"

    def serve(self):
        program = self.root / "current/bin/sanctum-mlx"
        words = [program, "serve", "--home", self.root]
        log = (self.folder / "log").open("wb")
        self.server = subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.server.poll() is not None or time.monotonic() > deadline:
                stop(f"the server is not ready:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.1)
        self.tool(self.server.pid)

    def is_ready(self):
        try:
            state = json.loads((self.root / "state/serve.json").read_text())
        except OSError:
            return False
        return state["pid"] == self.server.pid

    def tool(self, pid):
        """What stands for systemctl; a Mac asks its own launchctl, which knows nothing of this server."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        program = self.root / "current/bin/sanctum-mlx"
        text = SYSTEMCTL.format(pid=pid, home=self.folder, program=program, root=self.root)
        (tools / "systemctl").write_text(text)
        (tools / "systemctl").chmod(0o755)

    def rows(self):
        """Name, words, what is forgotten before each run, seconds that it may take."""
        plain, tls = f"http://127.0.0.1:{self.plain}", f"https://127.0.0.1:{self.tls}"
        cache = self.root / "state/drift-cache.json"
        return [
            ("--version", ["--version"], None, CPU_SECONDS),
            ("guardian", ["guardian", "--listener", plain, "--listener", tls], None, CPU_SECONDS),
            ("canary", ["canary", "--retry-seconds", "0", "--url", tls], None, CPU_SECONDS),
            ("integrity", ["probe", "integrity", "--every-seconds", "300"], None, CPU_SECONDS),
            ("drift", ["drift"], None, DRIFT_CPU_SECONDS),
            ("drift, cold", ["drift"], cache, DRIFT_CPU_SECONDS),
        ]

    def end(self):
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait()


def measure(site, row, runs):
    name, words, forgotten, limit = row
    home = [] if words == ["--version"] else ["--home", str(site.root)]
    costs = []
    for run in range(runs + 1):
        if forgotten is not None:
            forgotten.unlink(missing_ok=True)
        costs.append(cost([str(site.watcher), *words, *home], site.environment))
        if run == 0:
            costs.clear()
    codes = sorted({code for code, _, _, _ in costs})
    return name, limit, codes, *(statistics.median(column) for column in list(zip(*costs))[1:])


def cost(words, environment):
    """Exit code, seconds of processor time, seconds, MB of one process with its children."""
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
    begun = time.monotonic()
    pid = os.posix_spawn(words[0], words, environment, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - begun
    bytes_per_unit = 1 if platform.system() == "Darwin" else 1024
    resident = usage.ru_maxrss * bytes_per_unit / 1e6
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, wall, resident


def report(rows, runs):
    well = True
    print(f"{'tick':12} {'cpu ms':>8} {'may':>6} {'wall ms':>8} {'MB':>6} {'may':>5}  exit   (median of {runs})")
    for name, limit, codes, cpu, wall, resident in rows:
        within = cpu <= limit and resident <= RESIDENT_MB
        well = well and within
        word = "" if within else "  TOO MUCH"
        exits = ",".join(map(str, codes))
        print(f"{name:12} {cpu * 1e3:8.1f} {limit * 1e3:6.0f} {wall * 1e3:8.1f} {resident:6.1f} {RESIDENT_MB:5.0f}  {exits}{word}")
    return 0 if well else 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(why):
    print(f"ticks: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
