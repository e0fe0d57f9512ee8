#!/usr/bin/env python3
"""A `systemctl --user` that really starts, stops and restarts what the user's units say, for tests.

Each service that is started has a manager of its own: a process that outlives this one, starts the program, starts it
again RestartSec after it ended (times DOUBLE_SCALE), and on a request to stop sends SIGTERM, and SIGKILL after
TimeoutStopSec. Timers are loaded and never fire: tests run the ticks themselves. State lies in $XDG_RUNTIME_DIR.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path(os.environ["HOME"]) / ".config" / "systemd" / "user"
STATE = Path(os.environ["XDG_RUNTIME_DIR"])
SCALE = float(os.environ.get("DOUBLE_SCALE", "1"))


def read(name):
    try:
        return json.loads((STATE / f"{name}.json").read_text())
    except FileNotFoundError:
        return {}


def write(name, state):
    beside = STATE / f".{name}.{os.getpid()}"
    beside.write_text(json.dumps(state))
    beside.rename(STATE / f"{name}.json")


def setting(name, key, default=None):
    lines = (UNITS / name).read_text().splitlines()
    found = [line.split("=", 1)[1] for line in lines if line.startswith(f"{key}=")]
    return found[-1] if found else default


def command(name):
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(setting(name, "ExecStart"))]


def manage(name):
    """The life of one started service."""
    stop = {"asked": False}
    signal.signal(signal.SIGTERM, lambda *_: stop.update(asked=True))
    state = {"manager": os.getpid(), "starts": 0}
    while not stop["asked"]:
        state["starts"] += 1
        try:
            child = subprocess.Popen(command(name), stdin=subprocess.DEVNULL, start_new_session=True,
                                     stdout=open(STATE / f"{name}.log", "ab"), stderr=subprocess.STDOUT)
        except OSError as error:
            write(name, {**state, "pid": 0, "ended": 203})
            with open(STATE / f"{name}.log", "a") as log:
                log.write(f"{error}\n")
        else:
            write(name, {**state, "pid": child.pid})
            asked = None
            while child.poll() is None:
                if stop["asked"] and asked is None:
                    asked = time.monotonic()
                    child.terminate()
                if asked is not None and time.monotonic() - asked > int(setting(name, "TimeoutStopSec", "90")) * SCALE:
                    child.kill()
                time.sleep(0.01)
            state["ended"] = child.returncode
            write(name, {**state, "pid": 0})
        until = time.monotonic() + float(setting(name, "RestartSec", "0.1")) * SCALE
        while not stop["asked"] and time.monotonic() < until:
            time.sleep(0.01)
    (STATE / f"{name}.json").unlink(missing_ok=True)


def start(name):
    if not (UNITS / name).is_file():
        sys.exit(f"Failed to start {name}: Unit {name} not found.")
    stop(name)
    if name.endswith(".timer"):
        write(name, {"pid": 0})
        return
    log = open(STATE / "managers.log", "ab")
    subprocess.Popen([sys.executable, __file__, "--manage", name], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                     start_new_session=True)
    while not read(name):
        time.sleep(0.01)


def stop(name):
    manager = read(name).get("manager")
    if manager:
        os.kill(manager, signal.SIGTERM)
        while (STATE / f"{name}.json").exists():
            time.sleep(0.01)
    (STATE / f"{name}.json").unlink(missing_ok=True)


def show(name):
    state, unit = read(name), UNITS / name
    if not state and not unit.is_file():
        print("LoadState=not-found\nMainPID=0")
        return
    print(f"LoadState=loaded\nMainPID={state.get('pid', 0)}\nFragmentPath={unit if unit.is_file() else ''}")
    ended = state.get("ended")
    print(f"ExecMainStatus={ended or 0}\nExecMainExitTimestampMonotonic={0 if ended is None else 1}")
    if name.endswith(".service") and unit.is_file():
        words = command(name)
        print(f"ExecStart={{ path={words[0]} ; argv[]={' '.join(words)} ; ignore_errors=no ; pid={state.get('pid', 0)} }}")


def main(words):
    if words[0] == "--manage":
        return manage(words[1])
    assert words[0] == "--user", words
    options = [word for word in words[1:] if word.startswith("--")]
    verb, *names = [word for word in words[1:] if not word.startswith("--")]
    if "--property" in options:
        names = names[1:]
    STATE.mkdir(parents=True, exist_ok=True)
    if verb in ("daemon-reload", "reset-failed"):
        return None
    (name,) = names
    if verb == "show":
        return show(name)
    if verb == "enable":
        return write(f"enabled-{name}", {})
    if verb in ("start", "restart"):
        return start(name)
    if verb == "disable":
        (STATE / f"enabled-{name}.json").unlink(missing_ok=True)
        return stop(name) if "--now" in options else None
    sys.exit(f"Unknown command verb {verb}.")


main(sys.argv[1:])
