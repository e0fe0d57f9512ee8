"""Prepares MLX for this machine, so that `cargo build` finds it.

On macOS mlx-sys builds MLX itself; this script only says which tools are missing. On Linux x86-64 the
build script of mlx-sys cannot work (it needs Apple's frameworks), so this one makes what that would have
made, in a cache folder, and writes `.cargo/config.toml`, which overrides it through `links = "mlx"`:

    <native>/<key>/mlx/lib/libmlx.so, mlx/include   from the Python package mlx-cpu
    <native>/<key>/mlx_cpu.libs                     what libmlx.so loads, with OpenBLAS in place of reference BLAS
    <native>/<key>/mlx-c                            mlx-c's headers, from the mlx-sys crate
    <native>/<key>/lib/libmlxc.a                    mlx-c's sources compiled, with half-precision accessors added
    <native>/<key>/bindings/bindings.rs             bindgen's view of mlx-c, configured by mlx-sys' own code

`<native>` is $SANCTUM_MLX_NATIVE, or `sanctum-mlx/native` in the user's cache folder; `<key>` changes with the
recipe. A folder appears under its key by one rename, when it is whole, so its existence is the whole check.
"""

import concurrent.futures
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from packages import REPOSITORY, cache_root, fail, folder_made_once, locked, run, say, wheel

MLX_SYS = "0.7.0"
MLX = "0.32.2"
MLX_WHEEL = f"mlx-cpu=={MLX}"
MLX_WHEEL_SHA256 = "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878"
LIBCLANG_WHEEL = "libclang==18.1.1"
LIBCLANG_WHEEL_SHA256 = "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b"
CXXFLAGS = ["-std=c++20", "-O2", "-fPIC"]

# Raised when the steps below change in a way that the texts and versions hashed into the key do not show.
RECIPE = 1

# The name under which libmlx.so asks for BLAS, and where distributions keep an OpenBLAS with 32-bit indices.
WHEEL_BLAS = "libblas-bd8a282c.so.3.10.0"
WHEEL_GFORTRAN = "libgfortran-f7379c93.so.5.0.0"
OPENBLAS_INSTALLED = ["/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0", "/usr/lib64/libopenblasp.so.0"]
OPENBLAS_PACKAGE = "libopenblas0-pthread"

CONFIG = REPOSITORY / ".cargo" / "config.toml"
CONFIG_HEADER = "# Written by scripts/setup; not tracked. Run it again instead of editing.\n"

# GCC 12 has no <format>; mlx-c uses it for `{}` only.
FORMAT_SHIM = r"""#pragma once
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>
namespace std {
inline void format_into(ostringstream& out, string_view text) { out << text; }
template <class Head, class... Tail>
void format_into(ostringstream& out, string_view text, const Head& head, const Tail&... tail) {
  auto at = text.find("{}");
  out << text.substr(0, at);
  if (at != string_view::npos) {
    out << head;
    format_into(out, text.substr(at + 2), tail...);
  }
}
template <class... Args>
string format(string_view text, const Args&... args) {
  ostringstream out;
  format_into(out, text, args...);
  return out.str();
}
}
#endif
"""

# mlx-c declares these on Arm only, and mlx-rs needs them everywhere. The bits travel as uint16_t.
HALF_SHIM = r"""#include <cstdint>
#include <cstring>
#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#define HALF_ACCESSORS(name, type)                                                  \
  extern "C" int mlx_array_item_##name(uint16_t* res, const mlx_array arr) {        \
    try {                                                                           \
      auto value = mlx_array_get_(arr).item<type>();                                \
      static_assert(sizeof(value) == sizeof(*res));                                 \
      std::memcpy(res, &value, sizeof(*res));                                       \
    } catch (std::exception & e) {                                                  \
      mlx_error(e.what());                                                          \
      return 1;                                                                     \
    }                                                                               \
    return 0;                                                                       \
  }                                                                                 \
  extern "C" const uint16_t* mlx_array_data_##name(const mlx_array arr) {           \
    try {                                                                           \
      return reinterpret_cast<const uint16_t*>(mlx_array_get_(arr).data<type>());   \
    } catch (std::exception & e) {                                                  \
      mlx_error(e.what());                                                          \
      return nullptr;                                                               \
    }                                                                               \
  }
HALF_ACCESSORS(float16, mlx::core::float16_t)
HALF_ACCESSORS(bfloat16, mlx::core::bfloat16_t)
"""

HALF_BINDINGS = """
#[repr(transparent)]
#[derive(Debug, Default, Copy, Clone)]
pub struct float16_t(pub u16);
pub type bfloat16_t = u16;
extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}
"""

# A build of its own for bindgen: the command line tool takes three times as long to compile.
BINDGEN_MANIFEST = """[package]
name = "bindings"
version = "0.0.0"
edition = "2021"
[dependencies]
bindgen = { version = "=0.72.1", default-features = false, features = ["runtime"] }
[profile.dev]
debug = false
incremental = false
[workspace]
"""
BINDGEN_MAIN = """#[allow(dead_code)]
#[path = %s]
mod bindgen_config;
fn main() {
    let mut args = std::env::args().skip(1);
    let root = std::path::PathBuf::from(args.next().expect("a folder"));
    let headers = bindgen_config::discover_headers(&root).expect("headers");
    let bindings = bindgen_config::builder(&root, &headers).generate().expect("bindings");
    bindings.write_to_file(args.next().expect("a file")).expect("written");
}
"""


def key():
    parts = [RECIPE, MLX_SYS, MLX_WHEEL_SHA256, LIBCLANG_WHEEL_SHA256, CXXFLAGS, FORMAT_SHIM, HALF_SHIM, HALF_BINDINGS,
             BINDGEN_MANIFEST, BINDGEN_MAIN]
    return f"mlx-{MLX}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def compiler():
    for name in [os.environ.get("CXX"), "g++", "c++", "clang++"]:
        if name and shutil.which(name):
            return name
    fail("a C++ 20 compiler is missing: install one with `apt-get install g++`")


def check_lock():
    """An override made for another mlx-sys would link, and then misbehave."""
    lock = REPOSITORY / "Cargo.lock"
    if not lock.is_file():
        return
    versions = re.findall(r'^name = "mlx-sys"\nversion = "(.+)"$', lock.read_text(), re.MULTILINE)
    if versions != [MLX_SYS]:
        fail(f"Cargo.lock has mlx-sys {', '.join(versions) or 'nowhere'}, expected {MLX_SYS}: "
             "scripts/native.py and Cargo.toml must change together")


def mlx_sys_folder():
    """The sources of mlx-sys, which Cargo unpacks into its registry folder when it resolves the crate."""
    say("asking Cargo for the mlx-sys crate")
    metadata = json.loads(run(["cargo", "metadata", "--format-version", "1", "--filter-platform",
                               "x86_64-unknown-linux-gnu"], cwd=REPOSITORY))
    check_lock()
    return next(Path(package["manifest_path"]).parent for package in metadata["packages"]
                if package["name"] == "mlx-sys")


def compile_mlx_c(pool, sources, folder, work):
    """Starts one compilation per source file; returns the futures of their object files."""
    cxx = compiler()
    (work / "format.h").write_text(FORMAT_SHIM)
    (work / "half_accessors.cpp").write_text(HALF_SHIM)
    flags = [*CXXFLAGS, "-include", work / "format.h", f"-I{sources}", f"-I{folder / 'mlx' / 'include'}"]

    def one(source):
        target = work / f"{source.stem}.o"
        run([cxx, *flags, "-c", source, "-o", target])
        return target

    # The largest first, so that no core is left alone with it at the end.
    files = sorted((sources / "mlx" / "c").glob("*.cpp"), key=lambda file: -file.stat().st_size)
    return [pool.submit(one, source) for source in [*files, work / "half_accessors.cpp"]]


def write_bindings(crate, folder, work, jobs):
    """Builds a small program around bindgen and mlx-sys' own configuration of it, and runs it."""
    helper = work / "bindings"
    (helper / "src").mkdir(parents=True)
    (helper / "Cargo.toml").write_text(BINDGEN_MANIFEST)
    # The versions that the repository has locked are the ones that Cargo has already fetched.
    shutil.copy(REPOSITORY / "Cargo.lock", helper / "Cargo.lock")
    (helper / "src" / "main.rs").write_text(BINDGEN_MAIN % json.dumps(str(crate / "src" / "bindgen_config.rs")))
    env = {name: value for name, value in os.environ.items()
           if name not in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER")}
    run(["cargo", "build", "--quiet", "--jobs", jobs, "--manifest-path", helper / "Cargo.toml",
         "--target-dir", helper / "target"], env=env, cwd=REPOSITORY)

    with zipfile.ZipFile(wheel(LIBCLANG_WHEEL, LIBCLANG_WHEEL_SHA256, work / "libclang")) as package:
        (member,) = [name for name in package.namelist() if name.endswith("/libclang.so")]
        env["LIBCLANG_PATH"] = str(Path(package.extract(member, work / "libclang")).parent)
    # That package has no builtin headers (stddef.h …); the compiler's do.
    builtin = run([compiler(), "-print-file-name=include"]).strip()
    env["BINDGEN_EXTRA_CLANG_ARGS"] = f"-I{builtin}"
    target = folder / "bindings" / "bindings.rs"
    target.parent.mkdir()
    run([helper / "target" / "debug" / "bindings", crate / "src" / "mlx-c", target], env=env)
    with open(target, "a") as bindings:
        bindings.write(HALF_BINDINGS)


def downloaded_openblas(work):
    """Debian's OpenBLAS unpacked into the work folder, which needs no root; None where that cannot be done."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    folder = work / "openblas"
    folder.mkdir(exist_ok=True)
    download = ["apt-get", "download", "--quiet", "-o", "APT::Sandbox::User=root", OPENBLAS_PACKAGE]
    if subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
        if os.geteuid() != 0:
            return None
        say("refreshing the package lists of apt-get")
        subprocess.run(["apt-get", "update", "--quiet"], capture_output=True)
        if subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
            return None
    (package,) = folder.glob("*.deb")
    run(["dpkg-deb", "-x", package, folder])
    return next(folder.glob("usr/lib/*/openblas-pthread/libopenblas.so.0"), None)


def loads(folder):
    """Whether the dynamic linker resolves everything that libmlx.so needs."""
    script = f"import ctypes, os; ctypes.CDLL({str(folder / 'mlx' / 'lib' / 'libmlx.so')!r}, mode=os.RTLD_NOW)"
    return subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def install_openblas(folder, work):
    """Puts OpenBLAS under the name by which libmlx.so asks for BLAS, if there is one and it loads."""
    installed = next((Path(path) for path in OPENBLAS_INSTALLED if Path(path).is_file()), None)
    source = installed or (work and downloaded_openblas(work))
    if not source:
        return False
    libraries = folder / "mlx_cpu.libs"
    reference, new = libraries / f"{WHEEL_BLAS}.reference", libraries / f"{WHEEL_BLAS}.new"
    shutil.copy2(libraries / WHEEL_BLAS, reference)
    shutil.copy2(libraries / WHEEL_GFORTRAN, libraries / "libgfortran.so.5")
    shutil.copyfile(source, new)
    new.replace(libraries / WHEEL_BLAS)
    if loads(folder):
        reference.unlink()
        (folder / "openblas").write_text(f"{source.resolve().name}\n")
        return True
    reference.replace(libraries / WHEEL_BLAS)
    return False


def build(folder, work):
    crate = mlx_sys_folder()
    sources = crate / "src" / "mlx-c"
    with zipfile.ZipFile(wheel(MLX_WHEEL, MLX_WHEEL_SHA256, work / "mlx")) as package:
        package.extractall(folder, [name for name in package.namelist()
                                    if name.startswith(("mlx/lib/", "mlx/include/", "mlx_cpu.libs/"))])
    for header in (sources / "mlx" / "c").rglob("*.h"):
        target = folder / "mlx-c" / header.relative_to(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(header, target)
    install_openblas(folder, work)
    if not loads(folder):
        fail("libmlx.so does not load here: it needs x86-64, glibc 2.35 or later and libstdc++.so.6")

    cores = len(os.sched_getaffinity(0))
    say(f"compiling mlx-c and its Rust bindings on {cores} cores (about a minute on two)")
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        bindings = pool.submit(write_bindings, crate, folder, work, max(1, cores // 2))
        objects = compile_mlx_c(pool, sources, folder, work)
        try:
            compiled = [job.result() for job in objects]
            bindings.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    (folder / "lib").mkdir()
    run(["ar", "rcs", folder / "lib" / "libmlxc.a", *compiled])


def prepare(folder):
    """Makes the folder if it is not there; a reference BLAS in it gives way to an OpenBLAS installed since."""
    if not folder.is_dir():
        folder_made_once(folder, build)
        say(f"MLX {MLX} is ready in {folder}")
    if not (folder / "openblas").is_file():
        with locked(folder.parent / ".lock"):
            if (folder / "openblas").is_file() or install_openblas(folder, None):
                say("OpenBLAS has replaced the reference BLAS")
            else:
                say(f"no OpenBLAS: prefill will be slow; `apt-get install {OPENBLAS_PACKAGE}` and run this again")


def write_config(folder):
    def table(target, **more):
        include = os.pathsep.join([str(folder / "mlx" / "include"), str(folder / "mlx-c")])
        entries = {"runtime": str(folder / "mlx" / "lib"), "include": include, "defines": "", "version": MLX, **more}
        lines = [f"{name} = {json.dumps(value)}" for name, value in entries.items()]
        lines.append(f"rustc-env = {{ OUT_DIR = {json.dumps(str(folder / 'bindings'))} }}")
        return f"\n[target.{target}.mlx]\n" + "\n".join(lines) + "\n"

    search = [f"native={folder / 'lib'}", f"native={folder / 'mlx' / 'lib'}"]
    linux = {"rustc-link-search": search, "rustc-link-lib": ["static=mlxc", "dylib=mlx", "dylib=stdc++"]}
    # The second table serves the type check of scripts/check-macos; nothing is linked there.
    text = CONFIG_HEADER + table("x86_64-unknown-linux-gnu", **linux) + table("aarch64-apple-darwin")
    found = CONFIG.read_text() if CONFIG.is_file() else None
    if found == text:
        return
    if found is not None and not found.startswith(CONFIG_HEADER):
        fail(f"{CONFIG} was not written by scripts/setup: move its contents to the one in Cargo's home and delete it")
    CONFIG.parent.mkdir(exist_ok=True)
    new = CONFIG.with_name(f".config.toml.{os.getpid()}")
    new.write_text(text)
    new.replace(CONFIG)


def check_macos():
    def works(*command):
        return shutil.which(command[0]) and subprocess.run(command, capture_output=True).returncode == 0

    tools = [
        (("xcrun", "--find", "c++"), "Xcode's command-line tools: `xcode-select --install`"),
        (("cmake", "--version"), "CMake: `brew install cmake`"),
        (("xcrun", "-sdk", "macosx", "metal", "--version"),
         "the Metal toolchain: install Xcode, then `xcodebuild -downloadComponent MetalToolchain`"),
    ]
    missing = [advice for command, advice in tools if not works(*command)]
    if missing:
        fail("missing: " + "; ".join(missing))


def main():
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Darwin", "arm64"):
        return check_macos()
    if (system, machine) != ("Linux", "x86_64"):
        fail(f"there is no recipe for MLX on {system} {machine}: it runs on macOS arm64 and Linux x86_64")
    check_lock()
    native = os.environ.get("SANCTUM_MLX_NATIVE")
    parent = Path(native).absolute() if native else cache_root() / "native"
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / key()
    prepare(folder)
    write_config(folder)


if __name__ == "__main__":
    main()
