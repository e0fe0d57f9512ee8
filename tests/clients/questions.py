"""What every client asks, and what its answers must be: the same questions on every wire, so that a cell that fails is
the client's or the wire's. It knows the embedded default model, a small one, and asks for what such a model can say.
"""

import json
from typing import Literal

import pydantic

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
# Short, because the build under test may not be optimised.
TOKENS = 24


class Weather(pydantic.BaseModel):
    """A form that a small model fills, and whose every value can be judged."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: Literal["Paris", "Oslo"]
    degrees: int = pydantic.Field(ge=-20, le=40)
    rain: bool


class GetWeather(pydantic.BaseModel):
    """The weather in a city."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: Literal["Paris", "Oslo"]


TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": GetWeather.model_json_schema()},
}


def call_tool(name, arguments):
    """What a program does with a call; wants one that was offered, with arguments that its schema admits."""
    assert name == "get_weather", f"a call of {name!r}, which was not offered"
    city = GetWeather.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments).city
    return f"It is 21 degrees and sunny in {city}."


def is_of_paris(text):
    """Wants the answer to the question."""
    assert text and "Paris" in text, f"the answer is {text!r}"


def refused(kind, call, **wanted):
    """Wants the call to raise this class of error, with these members."""
    try:
        call()
    except kind as error:
        for member, value in wanted.items():
            found = getattr(error, member)
            assert found == value, f"{kind.__name__}.{member} is {found!r} and should be {value!r}"
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
