//! Tool calls and thinking over HTTP, on the real default model: its template knows neither, so tools are told to it as
//! text, and a copy of it is made to think by its template.

use std::path::Path;
use std::time::Duration;

use sanctum_mlx::client::Client;
use sanctum_mlx::client::sse::Event;
use serde_json::{Value, json};

use crate::support::models::{self, Layout};
use crate::support::server::{Running, Server};

fn client(running: &Running) -> Client {
    Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(120)).expect("a client")
}

fn body(more: &Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "max_tokens": 160});
    let more = more.as_object().expect("more members are an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    body
}

fn ask(client: &Client, more: &Value) -> Value {
    let answer: Value = client.post("/v1/chat/completions", &body(more)).expect("an answer").json().expect("JSON");
    assert!(answer["choices"].is_array(), "{answer}");
    answer
}

/// Content, thoughts, and names and arguments of calls, as the deltas of a stream make them.
fn streamed(client: &Client, more: &Value) -> (String, String, Vec<(String, String)>) {
    let mut body = body(more);
    body["stream"] = json!(true);
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
    for event in client.stream("/v1/chat/completions", &body).expect("a stream") {
        let Event::Data(data) = event.expect("a well-formed event") else { continue };
        let chunk: Value = serde_json::from_str(&data).expect("JSON");
        let delta = &chunk["choices"][0]["delta"];
        content.push_str(delta["content"].as_str().unwrap_or_default());
        reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if let Some(name) = call["function"]["name"].as_str() {
                calls.push((name.to_owned(), String::new()));
            }
            calls.last_mut().expect("a name comes first").1 +=
                call["function"]["arguments"].as_str().expect("arguments");
        }
    }
    (content, reasoning, calls)
}

fn tools() -> Value {
    let weather = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}
    });
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": weather}},
        {"type": "function", "function": {"name": "now", "description": "The time."}},
    ])
}

/// Whether a call is one of [`tools`], with arguments that its schema admits.
fn is_legal(name: &str, arguments: &str) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str(arguments) else { return false };
    match name {
        "now" => members.is_empty(),
        "get_weather" => {
            let city =
                members.get("city").and_then(Value::as_str).is_some_and(|city| ["Oslo", "Bergen"].contains(&city));
            let days = members.get("days").and_then(Value::as_u64).is_some_and(|days| (1..=9).contains(&days));
            members.len() == 2 && city && days
        }
        _ => false,
    }
}

#[test]
fn a_required_call_is_one_that_was_offered_whole_and_streamed() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for choice in [json!("required"), named] {
        for seed in 1..=3 {
            let more = json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false, "seed": seed});
            let answer = ask(&client, &more);
            let (message, reason) = (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
            assert_eq!((&message["content"], reason), (&Value::Null, &json!("tool_calls")), "{answer}");
            let function = &message["tool_calls"][0]["function"];
            let text = |member: &str| function[member].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
            let call = (text("name"), text("arguments"));
            assert!(is_legal(&call.0, &call.1), "{call:?}");
            assert!(choice == "required" || call.0 == "get_weather");
            assert_eq!(message["tool_calls"].as_array().map(Vec::len), Some(1));
            assert_eq!(streamed(&client, &more), (String::new(), String::new(), vec![call]));
        }
    }
}

#[test]
fn a_result_is_answered_and_a_form_beside_tools_is_a_form_or_a_call() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let call = json!({"id": "abc123def", "type": "function", "function": {"name": "now", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc123def", "content": "It is noon."},
    ]);
    let answer = ask(&client, &json!({"messages": messages, "tools": tools(), "max_tokens": 24, "temperature": 0}));
    let choice = &answer["choices"][0];
    assert!(choice["message"]["content"].is_string() || choice["message"]["tool_calls"].is_array(), "{answer}");

    let schema = json!({"type": "object", "additionalProperties": false, "required": ["ok"], "properties": {"ok": {"type": "boolean"}}});
    let form = json!({"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}});
    for seed in 1..=3 {
        let answer = ask(
            &client,
            &json!({"tools": tools(), "response_format": form, "seed": seed, "parallel_tool_calls": false}),
        );
        let message = &answer["choices"][0]["message"];
        let content = message["content"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let function = &message["tool_calls"][0]["function"];
        let call = function["name"].as_str().zip(function["arguments"].as_str());
        assert!(
            content.is_some_and(|value| value["ok"].is_boolean())
                || call.is_some_and(|(name, arguments)| is_legal(name, arguments)),
            "{answer}"
        );
    }
    let refused =
        client.post("/v1/chat/completions", &body(&json!({"tools": tools(), "regex": "a+"}))).expect("an answer");
    let error: Value = refused.json().expect("JSON");
    assert_eq!((refused.status, &error["error"]["param"]), (400, &json!("regex")), "{error}");
}

/// A copy of the default model whose template opens a block of thinking.
fn thinking_model(folder: &Path) {
    models::convert(&models::default_gguf(), folder, Layout::Affine);
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("written above")).expect("JSON");
    let template = config["chat_template"].as_str().expect("a template");
    config["chat_template"] = json!(format!(
        "{template}{{%- if add_generation_prompt -%}}<think>\n{{%- elif false -%}}</think>{{%- endif -%}}"
    ));
    std::fs::write(&path, config.to_string()).expect("written");
}

#[test]
fn thinking_ends_with_its_budget_and_what_follows_has_its_form_or_is_a_call() {
    let folder = tempfile::tempdir().expect("a folder");
    thinking_model(folder.path());
    let running = Server::new(folder.path()).ready();
    let client = client(&running);
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["degrees"], "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 99}}});
    let form = json!({"type": "json_schema", "json_schema": {"name": "degrees", "schema": schema}});
    for (seed, budget) in [(1, 0), (2, 5), (3, 12)] {
        let more = json!({"response_format": form, "thinking_budget": budget, "seed": seed});
        let answer = ask(&client, &more);
        let (message, usage) = (&answer["choices"][0]["message"], &answer["usage"]);
        let content = message["content"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let value: Value = serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert!(value["degrees"].is_u64(), "{answer}");
        let spent = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
        assert!((1..=budget + 8).contains(&spent), "the thoughts and what closes them: {answer}");
        assert_eq!(message["reasoning_content"].is_string(), budget > 0, "{answer}");
        let thoughts = message["reasoning_content"].as_str().unwrap_or_default();
        assert_eq!(streamed(&client, &more), (content.to_owned(), thoughts.to_owned(), Vec::new()));
        let more = json!({"tools": tools(), "tool_choice": "required", "parallel_tool_calls": false, "thinking_token_budget": budget, "seed": seed});
        let (content, _, calls) = streamed(&client, &more);
        assert!(content.is_empty() && calls.len() == 1 && is_legal(&calls[0].0, &calls[0].1), "{content:?} {calls:?}");
    }
    let cut = ask(&client, &json!({"max_tokens": 4, "seed": 4}));
    let choice = &cut["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &json!("length")), "{cut}");
}
