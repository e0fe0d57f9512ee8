"""`curl`: what a person types, with the statuses and headers that no library hides."""

import json
import shutil
import signal
import subprocess

import servers
from questions import MESSAGES, TOKENS, TOOL, Weather, call_tool, is_of_paris
from table import Cells

CELLS = Cells("curl", ("plain", "tls", "http2"))


def command(wire, *arguments):
    program = [shutil.which("curl"), "--silent", "--show-error", "--max-time", "120", "--noproxy", "*", *arguments]
    if wire.is_tls:
        authority, certificate, key = wire.files
        program += ["--cacert", str(authority), "--cert", str(certificate), "--key", str(key)]
        program.append("--http2" if wire.is_http2 else "--http1.1")
    return program


def body(wire, more):
    return json.dumps({"model": wire.model, "messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS, **more})


def fetched(wire, *arguments):
    ran = subprocess.run(command(wire, *arguments), capture_output=True, text=True)
    assert ran.returncode == 0, f"exit {ran.returncode}: {ran.stderr}"
    return ran.stdout


def post(wire, more, *arguments):
    """The status, the version of HTTP and the body."""
    out = ["--write-out", "\n%{http_code} %{http_version}", "--json", body(wire, more), *arguments]
    if wire.site.token:
        out += ["--oauth2-bearer", wire.site.token]
    answer, told = fetched(wire, *out, f"{wire.url}/chat/completions").rsplit("\n", 1)
    status, version = told.split()
    return int(status), version, answer


def ask(wire, **more):
    status, version, answer = post(wire, more)
    assert status == 200, answer
    assert version == ("2" if wire.is_http2 else "1.1"), f"HTTP {version}"
    return json.loads(answer)


def events(wire, **more):
    """The data lines of a stream; wants it to end as it should."""
    status, _, answer = post(wire, {**more, "stream": True}, "--no-buffer")
    assert status == 200, answer
    *data, done = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]", f"the stream ended with {done!r}"
    return [json.loads(line) for line in data]


@CELLS.works("models")
def models(wire):
    told = json.loads(fetched(wire, f"{wire.url}/models"))
    assert told["data"][0]["id"] == wire.model and told["sanctum"]["phase"] == "ready", told
    head = fetched(wire, "--head", f"{wire.url}/models").lower()
    assert " 200" in head.splitlines()[0] and "x-request-id:" in head and "x-sanctum-instance:" in head, head


@CELLS.works("chat")
def chat(wire):
    is_of_paris(ask(wire)["choices"][0]["message"]["content"])


@CELLS.works("streaming")
def streaming(wire):
    parts = events(wire)
    text = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    assert text == ask(wire)["choices"][0]["message"]["content"], text


@CELLS.works("tools, two steps")
def tools(wire):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    message = ask(wire, messages=messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
                  max_tokens=64)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    result = call_tool(call["function"]["name"], call["function"]["arguments"])
    messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": result}]
    assert ask(wire, messages=messages, tools=[TOOL], tool_choice="none")["choices"][0]["message"]["content"]


@CELLS.works("structured output")
def structured(wire):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": Weather.model_json_schema()}}
    Weather.model_validate_json(ask(wire, response_format=form, max_tokens=64)["choices"][0]["message"]["content"])


@CELLS.works("log probabilities")
def logprobs(wire):
    (choice,) = ask(wire, logprobs=True, top_logprobs=1)["choices"]
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in choice["logprobs"]["content"]), choice


@CELLS.works("n")
def several(wire):
    assert [choice["index"] for choice in ask(wire, n=2, temperature=1)["choices"]] == [0, 1]


@CELLS.works("stop")
def stop(wire):
    free = ask(wire)["choices"][0]["message"]["content"]
    word = free.split()[2]
    assert ask(wire, stop=word)["choices"][0]["message"]["content"] == free[:free.index(word)]


@CELLS.works("seed")
def seed(wire):
    drawn = [ask(wire, temperature=1.5, seed=seed)["choices"][0]["message"]["content"] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2], drawn


@CELLS.works("errors")
def errors(wire):
    cases = [({"model": "gpt-5"}, 404, "model"), ({"top_p": 2}, 400, "top_p"), ({"functions": []}, 400, "functions")]
    for more, wanted, param in cases:
        status, _, answer = post(wire, more)
        assert (status, json.loads(answer)["error"]["param"]) == (wanted, param), answer
    headers = fetched(wire, "--include", "--json", body(wire, {"zebra": 1}), f"{wire.url}/chat/completions").lower()
    assert "x-ignored-params: zebra" in headers, headers


@CELLS.works("cancelling")
def cancelling(wire):
    long = body(wire, {"max_tokens": 1500, "ignore_eos": True, "stream": True})
    with wire.site.left():
        running = subprocess.Popen(command(wire, "--no-buffer", "--json", long, f"{wire.url}/chat/completions"),
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert running.stdout.read(512), "nothing was said"
        running.send_signal(signal.SIGINT)
        running.wait(30)
        running.stdout.close()


def comes_again(wire, status):
    with servers.full(wire.site, status) as since:
        found, _, answer = post(wire, {}, "--retry", "3")
        # A curl that is not told waits one second before its first retry.
        assert since() >= (5 if status == 503 else 1), "it came again sooner than it was told"
    # Every try's body is printed; the last one is the answer.
    assert found == 200 and "Paris" in answer, answer


@CELLS.works("retry after 429", narrow=True)
def retry_429(wire):
    comes_again(wire, 429)


@CELLS.works("retry after 503", narrow=True)
def retry_503(wire):
    comes_again(wire, 503)
