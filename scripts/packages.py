"""What the set-up scripts share: speech on stderr, commands that fail in one line, checked packages, locks.

It needs nothing but Python 3.9. Packages are fetched by pip's `download`, never installed, and their
SHA-256 is checked here, so that what is unpacked is what was tried.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def say(message):
    print(f"setup: {message}", file=sys.stderr, flush=True)


def fail(message):
    print(f"setup: error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def run(command, env=None, cwd=None):
    """Runs a command quietly and returns its output; a failure ends the script with its last lines."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(f"setup: error: {command[0]} is not installed") from None
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise SystemExit(f"setup: error: {' '.join(command)[:300]} failed with {done.returncode}:\n{tail}")
    return done.stdout


def cache_root():
    """The folder outside the clone that holds everything which can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(base).absolute() / "sanctum-mlx"
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextlib.contextmanager
def locked(path):
    """Holds an exclusive lock on a file for as long as the block runs; the kernel frees it if we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up that holds {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def folder_made_once(folder, fill):
    """Makes a folder that appears under its name, by one rename, when `fill(whole, work)` has made it whole."""
    if folder.is_dir():
        return
    with locked(folder.parent / ".lock"):
        if folder.is_dir():
            return
        # Whoever holds the lock is the only builder: what another one left behind is from a killed run.
        for leftover in folder.parent.glob(".building-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as work:
            whole = Path(work) / "whole"
            whole.mkdir()
            fill(whole, Path(work))
            whole.rename(folder)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def wheel(requirement, expected_sha256, folder):
    """Downloads the wheel of an exactly pinned requirement into an empty folder and returns its path."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode != 0:
        fail("pip is missing: install it with `apt-get install python3-pip` or `python3 -m ensurepip`")
    say(f"downloading {requirement}")
    folder.mkdir(parents=True, exist_ok=True)
    run([*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
         "--only-binary", ":all:", "--dest", folder, requirement])
    (path,) = folder.glob("*.whl")
    found = sha256(path)
    if found != expected_sha256:
        fail(f"{path.name} has SHA-256 {found}, expected {expected_sha256}: not unpacked")
    return path
