"""The official `openai` package for Python: every feature, plain, over mutual TLS, and over HTTP/2.

What comes back is judged by the package's own models, strictly: the client itself would take a body with holes.
"""

import asyncio
import time

import httpx2
import openai
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import servers
from questions import MESSAGES, TOKENS, TOOL, Weather, call_tool, is_of_paris, refused
from table import Cells

CELLS = Cells("openai, Python", ("plain", "tls", "http2"))


def connected(wire, kind=httpx2.Client, **more):
    """An HTTP client for the wire."""
    return kind(verify=wire.context() or True, http2=wire.is_http2, timeout=120, trust_env=False, **more)


def client_of(wire, **more):
    return openai.OpenAI(base_url=wire.url, api_key="unused on loopback", max_retries=0,
                         http_client=connected(wire), **more)


def ask(wire, **more):
    """One whole answer, judged by the package's model of it."""
    with client_of(wire) as client:
        arguments = {"messages": MESSAGES, "temperature": 0, "max_completion_tokens": TOKENS, **more}
        raw = client.chat.completions.with_raw_response.create(model=wire.model, **arguments)
    assert raw.headers["x-request-id"], "no request id"
    ChatCompletion.model_validate_json(raw.text, strict=True)
    return raw.parse()


def chunks(wire, client, **more):
    """The chunks of a stream, each judged by the package's model of it."""
    arguments = {"messages": MESSAGES, "temperature": 0, "max_completion_tokens": TOKENS, **more}
    for chunk in client.chat.completions.create(model=wire.model, stream=True, **arguments):
        ChatCompletionChunk.model_validate(chunk.model_dump(mode="json"))
        yield chunk


@CELLS.works("models")
def models(wire):
    with client_of(wire) as client:
        listed = list(client.models.list())
        assert [model.id for model in listed][0] == wire.model, listed
        for model in [*listed, client.models.retrieve(wire.model)]:
            Model.model_validate(model.model_dump())


@CELLS.works("chat")
def chat(wire):
    answer = ask(wire)
    is_of_paris(answer.choices[0].message.content)
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.prompt_tokens > 5, usage
    assert answer.model == wire.model and answer.system_fingerprint, answer


@CELLS.works("streaming")
def streaming(wire):
    whole = ask(wire)
    with client_of(wire) as client:
        parts = list(chunks(wire, client, stream_options={"include_usage": True}))
    *said, last = parts
    assert said[0].choices[0].delta.role == "assistant", said[0]
    text = "".join(part.choices[0].delta.content or "" for part in said)
    assert text == whole.choices[0].message.content, f"{text!r} is not the whole answer"
    assert said[-1].choices[0].finish_reason == whole.choices[0].finish_reason, said[-1]
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens, last
    assert len({part.id for part in parts}) == 1, "the id changes within a stream"


@CELLS.works("streaming, accumulated")
def accumulated(wire):
    with client_of(wire) as client:
        arguments = {"messages": MESSAGES, "temperature": 0, "max_completion_tokens": TOKENS}
        with client.chat.completions.stream(model=wire.model, **arguments) as stream:
            kinds = {event.type for event in stream}
            answer = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    is_of_paris(answer.choices[0].message.content)


@CELLS.works("tools, two steps")
def tools(wire):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = ask(wire, messages=messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
                max_completion_tokens=64)
    choice = asked.choices[0]
    assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, choice
    messages.append(choice.message.model_dump(exclude_none=True))
    for call in choice.message.tool_calls:
        result = call_tool(call.function.name, call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = ask(wire, messages=messages, tools=[TOOL], tool_choice="none").choices[0]
    assert answer.message.content and not answer.message.tool_calls, answer


@CELLS.works("tools, streamed and parsed")
def tools_streamed(wire):
    named = {"type": "function", "function": {"name": "get_weather"}}
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    with client_of(wire) as client:
        arguments = {"messages": MESSAGES, "tools": [strict], "tool_choice": named, "max_completion_tokens": 64}
        with client.chat.completions.stream(model=wire.model, parallel_tool_calls=False, **arguments) as stream:
            kinds = {event.type for event in stream}
            choice = stream.get_final_completion().choices[0]
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds, kinds
    function = choice.message.tool_calls[0].function
    call_tool(function.name, function.arguments)
    assert function.parsed_arguments["city"] in ("Paris", "Oslo"), function


@CELLS.works("structured output")
def structured(wire):
    with client_of(wire) as client:
        arguments = {"messages": [{"role": "user", "content": "The weather in Paris, as JSON."}], "response_format": Weather}
        for place in (client.chat.completions, client.beta.chat.completions):
            answer = place.parse(model=wire.model, max_completion_tokens=64, seed=1, **arguments)
            message = answer.choices[0].message
            assert isinstance(message.parsed, Weather), message
        with client.chat.completions.stream(model=wire.model, max_completion_tokens=64, seed=1, **arguments) as stream:
            for _ in stream:
                pass
            assert stream.get_final_completion().choices[0].message.parsed == message.parsed


@CELLS.works("log probabilities")
def logprobs(wire):
    choice = ask(wire, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    said = b"".join(bytes(entry.bytes) for entry in entries)
    assert said.startswith(choice.message.content.encode()), f"{said!r} is not {choice.message.content!r}"
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in entries), entries
    assert all(entry.top_logprobs[0].token == entry.token for entry in entries), "the greedy token is not the likeliest"
    with client_of(wire) as client:
        parts = list(chunks(wire, client, logprobs=True, top_logprobs=3))
    streamed = [entry for part in parts if part.choices[0].logprobs for entry in part.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries], streamed


@CELLS.works("n")
def several(wire):
    choices = ask(wire, n=3, temperature=1, seed=7).choices
    assert [choice.index for choice in choices] == [0, 1, 2], choices
    assert len({choice.message.content for choice in choices}) > 1, "three drawn answers are one"


@CELLS.works("stop")
def stop(wire):
    free = ask(wire).choices[0].message.content
    word = free.split()[2]
    cut = ask(wire, stop=[word, "never said"]).choices[0]
    assert cut.message.content == free[:free.index(word)] and cut.finish_reason == "stop", cut


@CELLS.works("seed")
def seed(wire):
    drawn = [ask(wire, temperature=1.5, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2], drawn


@CELLS.works("extra fields")
def extra(wire):
    answer = ask(wire, extra_body={"choice": ["crimson", "teal"], "top_k": 40, "min_p": 0.01})
    assert answer.choices[0].message.content in ("crimson", "teal"), answer
    assert answer.timings["predicted_n"] > 0, "a member of ours does not reach the client"


@CELLS.works("errors")
def errors(wire):
    with client_of(wire) as client:
        create = client.chat.completions.create
        missing = refused(openai.NotFoundError, lambda: create(model="gpt-5", messages=MESSAGES),
                          status_code=404, code="model_not_found", param="model")
        assert missing.request_id, "no request id"
        refused(openai.BadRequestError, lambda: create(model=wire.model, messages=MESSAGES, temperature=9),
                status_code=400, param="temperature", type="invalid_request_error")
        refused(openai.BadRequestError, lambda: create(model=wire.model, messages=[]), param="messages")
        wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
        refused(openai.BadRequestError,
                lambda: create(model=wire.model, messages=MESSAGES, response_format=wrong, stream=True), status_code=400)
        refused(openai.NotFoundError, lambda: client.embeddings.create(model=wire.model, input="a"), code="unserved_route")
        is_of_paris(create(model=wire.model, messages=MESSAGES, temperature=0, max_tokens=TOKENS).choices[0].message.content)


@CELLS.works("token refused", narrow=True)
def token_refused(wire):
    with openai.OpenAI(base_url=wire.url, api_key="not the token", max_retries=0, http_client=connected(wire)) as client:
        refused(openai.AuthenticationError, client.models.list, status_code=401, code="invalid_api_key")


@CELLS.works("cancelling")
def cancelling(wire):
    arguments = {"model": wire.model, "messages": MESSAGES, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    with client_of(wire) as client, wire.site.left():
        stream = client.chat.completions.create(stream=True, **arguments)
        for _ in range(4):
            next(stream)
        stream.close()
        if wire.is_http2:
            # This HTTP client does not reset a stream that it leaves; it is its connection that tells.
            client.close()
    if not wire.is_http2:
        with client_of(wire) as client, wire.site.left():
            refused(openai.APITimeoutError, lambda: client.chat.completions.create(timeout=1, **arguments))


@CELLS.works("async, side by side")
def side_by_side(wire):
    async def one(client):
        stream = await client.chat.completions.create(
            model=wire.model, messages=MESSAGES, temperature=0, max_tokens=TOKENS, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=wire.url, api_key="unused", max_retries=0,
                                      http_client=connected(wire, httpx2.AsyncClient)) as client:
            return await asyncio.gather(*(one(client) for _ in range(4)))

    texts = asyncio.run(all_of_them())
    is_of_paris(texts[0])
    assert len(set(texts)) == 1, texts


def comes_again(wire, status):
    """Wants the package's own retry to wait as it was told, and to be served then."""
    heard = []

    def note(response):
        heard.append((response.status_code, response.headers.get("retry-after"), time.monotonic()))

    with servers.full(wire.site, status):
        client = openai.OpenAI(base_url=wire.url, api_key=wire.site.token, max_retries=3,
                               http_client=connected(wire, event_hooks={"response": [note]}))
        with client:
            answer = client.chat.completions.create(model=wire.model, messages=MESSAGES, temperature=0, max_tokens=TOKENS)
    is_of_paris(answer.choices[0].message.content)
    (first, told, begun), *_, (last, _, ended) = heard
    assert (first, last) == (status, 200) and ended - begun >= int(told), heard


@CELLS.works("retry after 429", narrow=True)
def retry_429(wire):
    comes_again(wire, 429)


@CELLS.works("retry after 503", narrow=True)
def retry_503(wire):
    comes_again(wire, 503)
