"""Makes the servers that scripts/compare compares with, from package registries, in the cache folder; each is optional.

    <cache>/compare/llama-<key>/            llama-server and llama-quantize, built from the sources inside llama-cpp-python
    <cache>/compare/mlx-<key>/              a virtual environment with mlx_lm, its BLAS replaced as in ours
    <cache>/compare/mistral-<key>/          a virtual environment with mistralrs
    <cache>/compare/weights-<key>/<name>    the default model as the peers want it: Q4_0, MLX folders in f32 and 4-bit

A folder appears under its name by one rename, when it is whole. `<key>` changes with the recipe and, for what is compiled
for this processor, with the processor. What cannot be made is said in one line and left out of the comparison.
"""

import hashlib
import os
import re
import sys
import tarfile
from pathlib import Path

import native
from compare_servers import Arm
from packages import REPOSITORY, cache_root, fail, folder_made_once, run, say, sha256

LLAMA = "llama-cpp-python==0.3.36"
LLAMA_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
LLAMA_TOOLS = ["cmake==4.4.4", "ninja==1.13.2", "scikit-build-core==1.1.2"]
LLAMA_TARGETS = ["llama-server", "llama-quantize"]
LLAMA_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "BUILD_SHARED_LIBS": "OFF", "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}
# The pins of scripts/goldens: the same MLX as ours.
MLX = ["mlx==0.32.2", "mlx-cpu==0.32.2", "mlx-lm==0.32.2", "transformers==5.23.0"]
MISTRAL = ["mistralrs==0.9.5"]
# End-of-text tokens of the default model, which must not end an answer; a bias of -100 is the same as never.
NO_END = {"logit_bias": {"0": -100, "2": -100}}
# Tokens of context a client needs at most: 1024 of prompt, the answer, and some air.
CONTEXT_TOKENS = 2048
# Building must not take the machine from whoever works on it.
NICE = ["nice", "-n", "19"]
JOBS = 2


def key(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def processor():
    text = Path("/proc/cpuinfo").read_text()
    return re.findall(r"^(?:model name|flags)\s*: (.*)$", text, re.MULTILINE)[:2]


def made(name, fill):
    folder = cache_root() / "compare" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder_made_once(folder, fill)
    return folder


def environment(folder, packages):
    """A virtual environment with exactly these packages and what they ask for, all of it built by their authors."""
    say(f"installing {', '.join(packages)}")
    run([sys.executable, "-m", "venv", folder])
    run([*NICE, folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--only-binary", ":all:", *packages])
    return folder


def build_llama(whole, work):
    tools = environment(work / "tools", LLAMA_TOOLS)
    say(f"downloading the sources of {LLAMA}")
    # The build backend is one of the tools, so that pip needs no isolated environment to read the package's metadata.
    run([tools / "bin" / "python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-cache-dir", "--no-binary", ":all:", "--no-build-isolation", "--dest", work / "sdist", LLAMA])
    (archive,) = (work / "sdist").glob("*.tar.gz")
    found = sha256(archive)
    if found != LLAMA_SHA256:
        fail(f"{archive.name} has SHA-256 {found}, expected {LLAMA_SHA256}: not unpacked")
    with tarfile.open(archive) as package:
        package.extractall(work)
    (sources,) = work.glob("llama_cpp_python-*/vendor/llama.cpp")
    path = {**os.environ, "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    options = [f"-D{name}={value}" for name, value in LLAMA_OPTIONS.items()]
    run([*NICE, "cmake", "-S", sources, "-B", work / "build", "-G", "Ninja", *options], env=path)
    say("building llama-server, niced (some ten minutes on two cores)")
    run([*NICE, "ninja", "-C", work / "build", f"-j{JOBS}", *LLAMA_TARGETS], env=path)
    for target in LLAMA_TARGETS:
        (work / "build" / "bin" / target).rename(whole / target)


def llama():
    return made(f"llama-{key(LLAMA_SHA256, LLAMA_OPTIONS, processor())}", build_llama)


def mlx():
    def fill(whole, _work):
        environment(whole, MLX)
        (packages,) = whole.glob("lib/python*/site-packages")
        native.install_openblas(packages, _work)

    return made(f"mlx-{key(MLX)}", fill)


def weights(model, name, fill):
    """A folder derived from the model's file, under a name that changes with that file and with the recipe."""
    recipe = sha256(REPOSITORY / "scripts" / "compare_mlx.py") + sha256(REPOSITORY / "scripts" / "goldens.py")
    return made(f"weights-{key(sha256(model), recipe if name.startswith('mlx') else LLAMA)}-{name}", fill)


def llama_arms(model, threads, wanted):
    folder = llama()
    server = folder / "llama-server"

    def arm(name, text, file):
        def command(port, clients):
            return [server, "--model", file, "--host", "127.0.0.1", "--port", port, "--threads", threads,
                    "--threads-batch", threads, "--parallel", clients, "--ctx-size", clients * CONTEXT_TOKENS,
                    "--cache-ram", 0, "--no-ui", "--offline"]

        return Arm(name, text, f"llama.cpp of {LLAMA}", command, {"ignore_eos": True, "cache_prompt": False})

    def requantise(whole, _work):
        run([*NICE, folder / "llama-quantize", "--allow-requantize", model, whole / "model.gguf", "Q4_0", JOBS])

    if "llama-q4_1" in wanted:
        yield arm("llama-q4_1", "Q4_1, the file", model)
    if "llama-q4_0" in wanted:
        yield arm("llama-q4_0", "Q4_0, requantised, repacked at load", weights(model, "q4_0", requantise) / "model.gguf")


def mlx_arms(model, threads, wanted):
    folder = mlx()
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    env = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
           "TOKENIZERS_PARALLELISM": "false"}

    def arm(bits, text):
        name = f"mlx-{bits}"
        converted = weights(model, name, lambda whole, _work: run(
            [*NICE, python, "-B", REPOSITORY / "scripts" / "compare_mlx.py", "--gguf", model, "--out", whole, f"--{bits}"]))

        def command(port, _clients):
            # One kept cache: the prompts are unique, and unused ones would count as memory.
            return [python, "-m", "mlx_lm", "server", "--model", converted, "--host", "127.0.0.1", "--port", port,
                    "--prompt-cache-size", 1, "--log-level", "WARNING"]

        return Arm(name, text, " ".join(MLX), command, NO_END, env=env, blas=blas(packages))

    if "mlx-f32" in wanted:
        yield arm("f32", "f32, dequantised")
    if "mlx-4bit" in wanted:
        yield arm("4bit", "4-bit, groups of 32, f32 scales")


def blas(folder):
    """What stands under the name by which libmlx.so asks for BLAS; the name says nothing about it."""
    library = folder / "mlx_cpu.libs" / native.WHEEL_BLAS
    found = re.search(rb"OpenBLAS \d+\.[\d.]*\d", library.read_bytes()) if library.is_file() else None
    return found.group().decode() if found else "reference BLAS"


def mistral_arms(model, threads, _wanted):
    folder = made(f"mistral-{key(MISTRAL)}", lambda whole, _work: environment(whole, MISTRAL))

    def command(port, clients):
        return [folder / "bin" / "python", "-B", REPOSITORY / "scripts" / "compare_mistral.py", "--gguf", model,
                "--port", port, "--clients", clients]

    yield Arm("mistral", "Q4_1, the file", f"{MISTRAL[0]}, behind scripts/compare_mistral.py", command, NO_END,
              env={"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)})


MAKERS = {
    ("llama-q4_1", "llama-q4_0"): llama_arms,
    ("mlx-f32", "mlx-4bit"): mlx_arms,
    ("mistral",): mistral_arms,
}
NAMES = [name for names in MAKERS for name in names]


def arms(model, threads, wanted):
    """The arms asked for that can be made here."""
    found = []
    for names, maker in MAKERS.items():
        names = [name for name in names if name in wanted]
        if not names:
            continue
        try:
            found += maker(model, threads, names)
        except (SystemExit, OSError, ValueError) as error:
            reason = str(error.code if isinstance(error, SystemExit) else error).splitlines()
            say(f"{', '.join(names)} cannot be made here and is left out: {' '.join(reason[:1] + reason[-1:])[:300]}")
    return found
