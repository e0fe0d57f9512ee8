"""Type-checks the crate for macOS on Linux, where most of it is written.

A Mac, or a machine whose rustup has the target, checks with its own standard library. Elsewhere Debian's packages
bring what is missing: a compiler and the sources of its standard library, unpacked (not installed, so that no root
is needed and nothing else changes) into the cache folder and built with `-Zbuild-std`. C and C++ dependencies are
compiled by zig from PyPI, which carries the headers of macOS. Nothing is linked.
"""

import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

from packages import REPOSITORY, cache_root, fail, folder_made_once, run, say, wheel

TARGET = "aarch64-apple-darwin"
ZIG_WHEEL = "ziglang==0.17.1"
ZIG_WHEEL_SHA256 = "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54"
DEBIAN_PACKAGES = ["rustc-web", "cargo-web", "rust-web-src"]

# Raised when what is put into the cache folder changes.
RECIPE = 2

# The flags that cc-rs adds for Apple's clang and zig does not take. The path is relative, so the folder can move.
WRAPPER = """#!/usr/bin/env bash
arguments=()
for argument in "$@"; do
  case "$argument" in
    --target=* | -mmacosx-version-min=* | -gfull) ;;
    *) arguments+=("$argument") ;;
  esac
done
exec "$(dirname "${BASH_SOURCE[0]}")/../ziglang/zig" %s "${arguments[@]}"
"""
TOOLS = {"cc": "cc -target aarch64-macos", "c++": "c++ -target aarch64-macos", "ar": "ar"}


def has_target():
    """Whether the toolchain in use has the target's standard library."""
    folder = subprocess.run(["rustc", "--print", "target-libdir", "--target", TARGET], cwd=REPOSITORY,
                            capture_output=True, text=True)
    return folder.returncode == 0 and any(Path(folder.stdout.strip()).glob("libstd-*"))


def folder_for(name, fill):
    folder = cache_root() / "macos-check" / name
    folder_made_once(folder, fill)
    return folder


def fill_zig(folder, work):
    with zipfile.ZipFile(wheel(ZIG_WHEEL, ZIG_WHEEL_SHA256, work / "zig")) as package:
        package.extractall(folder, [name for name in package.namelist() if name.startswith("ziglang/")])
    (folder / "ziglang" / "zig").chmod(0o755)
    (folder / "bin").mkdir()
    for name, command in TOOLS.items():
        tool = folder / "bin" / name
        tool.write_text(WRAPPER % command)
        tool.chmod(0o755)


def missing_debian_packages():
    """Names of the packages, dependencies included, that an installation would add; asks without installing."""
    ask = ["apt-get", "install", "--simulate", "--no-install-recommends", *DEBIAN_PACKAGES]
    # Lists that came with the machine may know an older compiler only.
    if os.geteuid() == 0:
        say("refreshing the package lists of apt-get")
        run(["apt-get", "update", "--quiet"])
    done = subprocess.run(ask, capture_output=True, text=True)
    if done.returncode != 0:
        names = " ".join(DEBIAN_PACKAGES)
        fail(f"apt-get knows no way to install {names}: run `apt-get update` as root once (Debian 12 or later), "
             f"or `rustup target add {TARGET}`\n{done.stderr.strip()}")
    return re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE)


def fill_debian(folder, work):
    names = missing_debian_packages()
    if not set(DEBIAN_PACKAGES) <= set(names):
        fail(f"some of {' '.join(DEBIAN_PACKAGES)} are installed and some are not: install or remove all of them")
    say(f"downloading {len(names)} Debian packages (about 150 MB)")
    debs = work / "debs"
    debs.mkdir()
    run(["apt-get", "download", "--quiet", "-o", "APT::Sandbox::User=root", *names], cwd=debs)
    for package in sorted(debs.glob("*.deb")):
        run(["dpkg-deb", "-x", package, folder])
    # The sources of the compiler and its tools are most of what was unpacked; only the library is built.
    for sources in folder.glob("usr/src/rustc-*"):
        for part in sources.iterdir():
            if part.is_dir() and part.name != "library":
                shutil.rmtree(part)


def debian_environment():
    """Debian's compiler: from the system if it is installed there, otherwise from the cache folder."""
    root = Path("/")
    installed = ["/usr/lib/rustlib/src/rust/library", "/usr/bin/cargo", "/usr/bin/rustc"]
    if not all(Path(path).exists() for path in installed):
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            fail(f"the standard library for {TARGET} is missing: run `rustup target add {TARGET}`")
        root = folder_for(f"debian-{RECIPE}", fill_debian)
    env = {"RUSTC": root / "usr/bin/rustc", "RUSTDOC": root / "usr/bin/rustdoc", "RUSTC_BOOTSTRAP": "1"}
    if root != Path("/"):
        folders = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/llvm-22/lib", "lib/x86_64-linux-gnu"]
        libraries = [root / folder for folder in folders]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(str(path) for path in libraries if path.is_dir())
    answer = subprocess.run([env["RUSTC"], "--version"], env={**os.environ, **{k: str(v) for k, v in env.items()}},
                            capture_output=True, text=True)
    if answer.returncode != 0:
        fail(f"Debian's rustc does not start: {answer.stderr.strip()}")
    return root / "usr/bin/cargo", env


def cargo():
    """The Cargo to call, its extra arguments, and what to add to the environment."""
    if platform.system() == "Darwin":
        return "cargo", [], {}
    zig = folder_for(f"zig-{ZIG_WHEEL.split('==')[1]}-{RECIPE}", fill_zig)
    suffix = TARGET.replace("-", "_")
    env = {f"CC_{suffix}": zig / "bin/cc", f"CXX_{suffix}": zig / "bin/c++", f"AR_{suffix}": zig / "bin/ar",
           "ZIG_GLOBAL_CACHE_DIR": zig.parent / "zig-cache", "ZIG_LOCAL_CACHE_DIR": zig.parent / "zig-cache"}
    if has_target():
        return "cargo", [], env
    command, debian = debian_environment()
    return command, ["-Zbuild-std=std,panic_abort,proc_macro"], {**env, **debian}


def main():
    command, extra, env = cargo()
    # Dependencies are not run here: compiling their build scripts and macros without optimising is quicker.
    quick = ["--config", 'profile.dev.package."*".opt-level=0', "--config", "profile.dev.debug=false"]
    check = [command, "check", "--locked", "--target", TARGET, "--target-dir", REPOSITORY / "target" / "macos",
             *extra, *quick, "--all-targets"]
    environment = {**os.environ, **{name: str(value) for name, value in env.items()}}
    for features in [[], ["--all-features"]]:
        say(f"checking for {TARGET}, {'all features' if features else 'default features'}")
        done = subprocess.run([str(part) for part in [*check, *features]], cwd=REPOSITORY, env=environment)
        # zig leaves this empty file where a build script asks it which compiler it is.
        (REPOSITORY / "a.o").unlink(missing_ok=True)
        if done.returncode != 0:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
