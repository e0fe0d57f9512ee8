"""`langchain-openai`: what LangChain's programs use of a chat model, with the wire's HTTP client put into it."""

import httpx2
import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import servers
from questions import QUESTION, TOKENS, GetWeather, Weather, call_tool, is_of_paris, refused
from table import Cells

CELLS = Cells("langchain-openai", ("plain", "tls"))


@tool("get_weather", args_schema=GetWeather)
def get_weather(city):
    """The weather in a city."""
    return call_tool("get_weather", {"city": city})


def model_of(wire, **more):
    arguments = {"temperature": 0, "max_completion_tokens": TOKENS, "max_retries": 0, **more}
    client = httpx2.Client(verify=wire.context() or True, timeout=120, trust_env=False)
    key = wire.site.token or "unused on loopback"
    return ChatOpenAI(model=wire.model, base_url=wire.url, api_key=key, http_client=client, **arguments)


@CELLS.works("chat")
def chat(wire):
    answer = model_of(wire).invoke(QUESTION)
    is_of_paris(answer.content)
    assert answer.usage_metadata["output_tokens"] > 0 and answer.response_metadata["finish_reason"], answer


@CELLS.works("streaming")
def streaming(wire):
    model = model_of(wire, stream_usage=True)
    parts = list(model.stream(QUESTION))
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    assert len(parts) > 3 and whole.content == model.invoke(QUESTION).content, whole
    assert whole.usage_metadata["output_tokens"] > 0, whole


@CELLS.works("tools, two steps")
def tools(wire):
    model = model_of(wire, max_completion_tokens=64)
    question = HumanMessage("What is the weather in Paris?")
    asked = model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False, strict=True).invoke([question])
    (call,) = asked.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage) and "sunny" in result.content, result
    answer = model.bind_tools([get_weather], tool_choice="none").invoke([question, asked, result])
    assert answer.content and not answer.tool_calls, answer


@CELLS.works("tools, streamed and parsed")
def tools_streamed(wire):
    model = model_of(wire, max_completion_tokens=64).bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False, strict=True)
    whole = None
    for part in model.stream("What is the weather in Oslo?"):
        whole = part if whole is None else whole + part
    (call,) = whole.tool_calls
    call_tool(call["name"], call["args"])


@CELLS.works("structured output")
def structured(wire):
    model = model_of(wire, max_completion_tokens=64, seed=1)
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Weather, method=method).invoke("The weather in Paris, as JSON.")
        assert isinstance(found, Weather), f"{method}: {found!r}"


@CELLS.works("log probabilities")
def logprobs(wire):
    answer = model_of(wire, logprobs=True, top_logprobs=2).invoke(QUESTION)
    entries = answer.response_metadata["logprobs"]["content"]
    assert entries and all(len(entry["top_logprobs"]) == 2 for entry in entries), entries


@CELLS.works("n")
def several(wire):
    result = model_of(wire, n=2, temperature=1, seed=7).generate([[HumanMessage(QUESTION)]])
    assert len(result.generations[0]) == 2, result


@CELLS.works("stop")
def stop(wire):
    free = model_of(wire).invoke(QUESTION).content
    word = free.split()[2]
    assert model_of(wire).invoke(QUESTION, stop=[word]).content == free[:free.index(word)]


@CELLS.works("seed")
def seed(wire):
    drawn = [model_of(wire, temperature=1.5, seed=seed).invoke(QUESTION).content for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2], drawn


@CELLS.works("errors")
def errors(wire):
    refused(openai.BadRequestError, lambda: model_of(wire, temperature=9).invoke(QUESTION), param="temperature")
    other = model_of(wire)
    other.model_name = "gpt-5"
    refused(openai.NotFoundError, lambda: other.invoke(QUESTION), code="model_not_found")


@CELLS.works("cancelling")
def cancelling(wire):
    model = model_of(wire, max_completion_tokens=1500, extra_body={"ignore_eos": True})
    with wire.site.left():
        stream = model.stream(QUESTION)
        for _ in range(4):
            next(stream)
        stream.close()


@CELLS.works("retry after 429", narrow=True)
def retry_429(wire):
    with servers.full(wire.site, 429) as since:
        is_of_paris(model_of(wire, max_retries=3).invoke(QUESTION).content)
        assert since() >= 1, "it came again sooner than it was told"
