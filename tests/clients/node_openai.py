"""The official `openai` package for Node: `node/drive.mjs` does the driving, one feature a process; this file says what
is tried, and looks at the server from outside.
"""

import subprocess
from pathlib import Path

import servers
from table import Cells

CELLS = Cells("openai, Node", ("plain", "tls"))
FOLDER = Path(__file__).parent / "node"
# Where its packages were installed; set by whoever starts the cells.
MODULES = None


def drive(wire, feature):
    variables = {"URL": wire.url, "MODEL": wire.model, "KEY": wire.site.token or "unused"}
    if wire.is_tls:
        variables.update(zip(("CA", "CERT", "CERT_KEY"), wire.files))
    # Modules are looked for beside the file that imports them.
    ran = subprocess.run(["node", str(MODULES / "drive.mjs"), feature], env=servers.environment(**variables),
                         capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr


def offer(shown, feature):
    CELLS.works(shown)(lambda wire: drive(wire, feature))


for shown, feature in (("models", "models"), ("chat", "chat"), ("streaming", "streaming"),
                       ("streaming, accumulated", "accumulated"), ("tools, two steps", "tools"),
                       ("structured output", "structured"), ("log probabilities", "logprobs"), ("n", "n"),
                       ("stop", "stop"), ("seed", "seed"), ("errors", "errors")):
    offer(shown, feature)


@CELLS.works("token refused", narrow=True)
def token_refused(wire):
    drive(wire, "token refused")


@CELLS.works("cancelling")
def cancelling(wire):
    with wire.site.left():
        drive(wire, "cancelling")


def comes_again(wire, status):
    with servers.full(wire.site, status) as since:
        drive(wire, "retry")
        # Told nothing, the package would come again after half a second.
        assert since() >= (5 if status == 503 else 1), "it came again sooner than it was told"


@CELLS.works("retry after 429", narrow=True)
def retry_429(wire):
    comes_again(wire, 429)


@CELLS.works("retry after 503", narrow=True)
def retry_503(wire):
    comes_again(wire, 503)
