"""The `llm` command: a model of ours in its file of further OpenAI models, asked from a shell.

It has no way to present a client certificate, so the plain wire is all that it speaks; log probabilities, `n` and a
required tool have no option there.
"""

import json
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from questions import QUESTION, TOKENS, is_of_paris
from servers import environment
from table import Cells

CELLS = Cells("llm CLI", ("plain",))


@contextmanager
def command(wire, *arguments):
    """The command with a folder of its own that knows the server's model as `ours`, and a misnamed one."""
    with tempfile.TemporaryDirectory(prefix="sanctum-mlx-llm-") as folder:
        common = {"api_base": wire.url, "supports_schema": True, "supports_tools": True}
        models = [{"model_id": "ours", "model_name": wire.model, **common}, {"model_id": "other", "model_name": "gpt-5", **common}]
        # JSON is YAML.
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(models))
        program = [str(Path(sys.executable).with_name("llm")), *arguments]
        yield program, environment(LLM_USER_PATH=folder, OPENAI_API_KEY="unused-on-loopback")


def say(wire, *arguments, code=0):
    with command(wire, *arguments) as (program, variables):
        ran = subprocess.run(program, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert ran.returncode == code, f"exit {ran.returncode}: {ran.stderr}"
    return ran.stdout.strip() if code == 0 else ran.stderr


def ask(wire, *arguments):
    return say(wire, "-m", "ours", QUESTION, "-o", "temperature", "0", "-o", "max_tokens", str(TOKENS), *arguments)


@CELLS.works("chat")
def chat(wire):
    is_of_paris(ask(wire, "--no-stream"))


@CELLS.works("streaming")
def streaming(wire):
    assert ask(wire) == ask(wire, "--no-stream")


@CELLS.works("structured output")
def structured(wire):
    found = json.loads(say(wire, "-m", "ours", "Invent a dog.", "--schema", json.dumps({
        "type": "object", "additionalProperties": False, "required": ["age"],
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 20}},
    }), "-o", "max_tokens", "64"))
    assert 0 <= found["age"] <= 20, found


@CELLS.works("stop")
def stop(wire):
    free = ask(wire)
    word = free.split()[2]
    assert ask(wire, "-o", "stop", word) == free[:free.index(word)].strip()


@CELLS.works("seed")
def seed(wire):
    drawn = [ask(wire, "-o", "temperature", "1.5", "-o", "seed", seed) for seed in ("5", "5", "6")]
    assert drawn[0] == drawn[1] != drawn[2], drawn


@CELLS.works("errors")
def errors(wire):
    told = say(wire, "-m", "other", QUESTION, code=1)
    assert "not loaded here" in told, told


@CELLS.works("cancelling")
def cancelling(wire):
    with command(wire, "-m", "ours", "Tell a long story.", "-o", "max_tokens", "1500") as (program, variables):
        with wire.site.left():
            running = subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert running.stdout.read(8), "nothing was said"
            running.send_signal(signal.SIGINT)
            running.wait(30)
            running.stdout.close()
