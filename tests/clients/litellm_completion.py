"""`litellm`: the OpenAI-compatible provider of a library that many agents go through, errors by its own classes.

Over mutual TLS it is given an `openai` client with the wire's certificates, which is its documented way.
"""

import os

# The prices of models come with the package; nothing is fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import httpx2  # noqa: E402
import litellm  # noqa: E402
import openai  # noqa: E402

import servers  # noqa: E402
from questions import MESSAGES, TOKENS, TOOL, Weather, call_tool, is_of_paris, refused  # noqa: E402
from table import Cells  # noqa: E402

CELLS = Cells("litellm", ("plain", "tls"))
litellm.telemetry = False
litellm.suppress_debug_info = True


def complete(wire, **more):
    arguments = {"messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS, "max_retries": 0, **more}
    key = wire.site.token or "unused on loopback"
    if wire.is_tls:
        client = httpx2.Client(verify=wire.context(), timeout=120, trust_env=False)
        arguments["client"] = openai.OpenAI(base_url=wire.url, api_key=key, http_client=client, max_retries=0)
    model = arguments.pop("model", wire.model)
    return litellm.completion(model=f"openai/{model}", api_base=wire.url, api_key=key, **arguments)


@CELLS.works("chat")
def chat(wire):
    answer = complete(wire)
    is_of_paris(answer.choices[0].message.content)
    assert answer.usage.completion_tokens > 0, answer


@CELLS.works("streaming")
def streaming(wire):
    parts = list(complete(wire, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert len(parts) > 3 and text == complete(wire).choices[0].message.content, text
    rebuilt = litellm.stream_chunk_builder(parts, messages=MESSAGES)
    assert rebuilt.usage.completion_tokens > 0, rebuilt


@CELLS.works("tools, two steps")
def tools(wire):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    arguments = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 64}
    choice = complete(wire, messages=messages, **arguments).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    messages.append(choice.message.model_dump(exclude_none=True))
    for call in choice.message.tool_calls:
        result = call_tool(call.function.name, call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = complete(wire, messages=messages, tools=[TOOL], tool_choice="none").choices[0].message
    assert answer.content and not answer.tool_calls, answer


@CELLS.works("structured output")
def structured(wire):
    question = [{"role": "user", "content": "The weather in Paris, as JSON."}]
    answer = complete(wire, messages=question, response_format=Weather, max_tokens=64, seed=1)
    Weather.model_validate_json(answer.choices[0].message.content)


@CELLS.works("log probabilities")
def logprobs(wire):
    entries = complete(wire, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert entries and all(len(entry.top_logprobs) == 2 for entry in entries), entries


@CELLS.works("n")
def several(wire):
    assert len(complete(wire, n=2, temperature=1, seed=7).choices) == 2


@CELLS.works("stop")
def stop(wire):
    free = complete(wire).choices[0].message.content
    word = free.split()[2]
    assert complete(wire, stop=[word]).choices[0].message.content == free[:free.index(word)]


@CELLS.works("seed")
def seed(wire):
    drawn = [complete(wire, temperature=1.5, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2], drawn


@CELLS.works("errors")
def errors(wire):
    refused(litellm.NotFoundError, lambda: complete(wire, model="not-here"), status_code=404)
    refused(litellm.BadRequestError, lambda: complete(wire, top_p=9), status_code=400)


@CELLS.works("cancelling")
def cancelling(wire):
    with wire.site.left():
        stream = complete(wire, stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
        for _ in range(4):
            next(stream)
        # What it wraps is the response of `openai`; litellm itself has no way to leave.
        stream.completion_stream.close()


@CELLS.works("retry after 429", narrow=True)
def retry_429(wire):
    with servers.full(wire.site, 429) as since:
        is_of_paris(complete(wire, max_retries=3).choices[0].message.content)
        assert since() >= 1, "it came again sooner than it was told"
