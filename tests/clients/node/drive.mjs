// Drives one feature with the official `openai` package for Node: `drive.mjs FEATURE` with the wire in the environment
// (URL, MODEL, KEY, and CA, CERT, CERT_KEY over mutual TLS). Exit 0 when it works; the reason on stderr when not.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { Agent, fetch } from "undici";
import { z } from "zod";

const { URL: baseURL, MODEL: model, KEY: apiKey, CA, CERT, CERT_KEY } = process.env;
const messages = [{ role: "user", content: "What is the capital of France?" }];
const asked = { model, messages, temperature: 0, max_completion_tokens: 24 };
const weather = z.object({ city: z.enum(["Paris", "Oslo"]), degrees: z.number().int().min(-20).max(40), rain: z.boolean() });

function client(more = {}) {
  const options = { baseURL, apiKey, maxRetries: 0, ...more };
  if (!CA) return new OpenAI(options);
  const connect = { ca: readFileSync(CA), cert: readFileSync(CERT), key: readFileSync(CERT_KEY) };
  return new OpenAI({ ...options, fetch, fetchOptions: { dispatcher: new Agent({ connect }) } });
}

async function content(more = {}) {
  const answer = await client().chat.completions.create({ ...asked, ...more });
  return answer.choices[0].message.content;
}

// The third word, which ends an answer, and what stands before it.
function cut(text) {
  const word = text.split(/\s+/)[2];
  return [word, text.slice(0, text.indexOf(word))];
}

const features = {
  async models() {
    const listed = [];
    for await (const found of client().models.list()) listed.push(found.id);
    assert.equal(listed[0], model);
    assert.equal((await client().models.retrieve(model)).id, model);
  },

  async chat() {
    const { data, request_id } = await client().chat.completions.create(asked).withResponse();
    assert.match(data.choices[0].message.content, /Paris/);
    assert.ok(request_id);
    assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
  },

  async streaming() {
    let text = "";
    let usage;
    const stream = await client().chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, await content());
    assert.ok(usage.completion_tokens > 0);
  },

  async accumulated() {
    const runner = client().chat.completions.stream(asked);
    let heard = "";
    runner.on("content", (delta) => { heard += delta; });
    assert.equal(await runner.finalContent(), heard);
    assert.match(heard, /Paris/);
  },

  async tools() {
    const called = [];
    const parameters = z.toJSONSchema(z.object({ city: z.enum(["Paris", "Oslo"]) }));
    const get_weather = ({ city }) => { called.push(city); return `It is 21 degrees and sunny in ${city}.`; };
    const tool = { type: "function", function: { name: "get_weather", description: "The weather.", parameters, parse: JSON.parse, function: get_weather } };
    const question = [{ role: "user", content: "What is the weather in Paris?" }];
    const named = { type: "function", function: { name: "get_weather" } };
    // A named tool ends the loop of the package after its call; the second step is ours.
    const runner = client().chat.completions.runTools({ ...asked, messages: question, max_completion_tokens: 64, tools: [tool], tool_choice: named });
    await runner.done();
    assert.equal(called.length, 1);
    const answer = await content({ messages: runner.messages });
    assert.ok(answer);
  },

  async structured() {
    const question = [{ role: "user", content: "The weather in Paris, as JSON." }];
    const format = zodResponseFormat(weather, "weather");
    const answer = await client().chat.completions.parse({ ...asked, messages: question, max_completion_tokens: 64, response_format: format });
    weather.parse(answer.choices[0].message.parsed);
  },

  async logprobs() {
    const answer = await client().chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
    for (const entry of answer.choices[0].logprobs.content) assert.equal(entry.top_logprobs.length, 2);
  },

  async n() {
    const answer = await client().chat.completions.create({ ...asked, n: 3, temperature: 1, seed: 7 });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
  },

  async stop() {
    const [word, before] = cut(await content());
    assert.equal(await content({ stop: [word] }), before);
  },

  async seed() {
    const drawn = [];
    for (const seed of [5, 5, 6]) drawn.push(await content({ temperature: 1.5, seed }));
    assert.equal(drawn[0], drawn[1]);
    assert.notEqual(drawn[1], drawn[2]);
  },

  async errors() {
    await assert.rejects(content({ model: "gpt-5" }), (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found" && !!error.requestID);
    await assert.rejects(content({ temperature: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
    await assert.rejects(client().embeddings.create({ model, input: "a" }), OpenAI.NotFoundError);
  },

  async "token refused"() {
    await assert.rejects(client({ apiKey: "not the token" }).models.list(), OpenAI.AuthenticationError);
  },

  async cancelling() {
    const stream = await client().chat.completions.create({ ...asked, max_completion_tokens: 1500, stream: true, ignore_eos: true });
    let heard = 0;
    for await (const _ of stream) {
      heard += 1;
      if (heard === 4) break;
    }
    assert.ok(stream.controller.signal.aborted);
  },

  async retry() {
    const answer = await client({ maxRetries: 3 }).chat.completions.create(asked);
    assert.match(answer.choices[0].message.content, /Paris/);
  },
};

await features[process.argv[2]]();
// Connections that are kept alive would keep the process.
process.exit(0);
