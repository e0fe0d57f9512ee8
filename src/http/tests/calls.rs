//! Thoughts and tool calls over a socket: what OpenAI's SDKs look at, whole and streamed.

use serde_json::{Value, json};

use crate::http::tests::chat::{post, with};
use crate::http::tests::client::{saying, streaming};
use crate::http::tests::script::ECHO;
use crate::http::tests::site::{Site, TEMPLATE, site, site_speaking};

/// A call in Hermes' words, which a model without words of its own is taught.
const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": [1, {\"a\": 2}]}}\n</tool_call>";
const ARGUMENTS: &str = "{\"city\": \"Oslo\", \"days\": [1, {\"a\": 2}]}";

fn echo(answer: &str) -> String {
    format!("{ECHO}{answer}")
}

fn tools() -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }])
}

/// The message and the finish reason of a whole answer, and what the chunks of the same one streamed make together.
async fn both(site: &Site, says: &str, more: &Value) -> (Value, Value) {
    let whole = post(site, &with(saying(says), more.clone())).await;
    assert_eq!(whole.status, 200, "{}", whole.json());
    let whole = whole.json();
    let events = post(site, &with(streaming(says), more.clone())).await.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let (mut message, mut reason) = (json!({ "role": null, "content": null, "refusal": null }), Value::Null);
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        gather(&mut message, &choice["delta"]);
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    if message["content"] == "" && message.as_object().is_some_and(|members| members.len() > 3) {
        message["content"] = Value::Null;
    }
    let mut expected = whole["choices"][0]["message"].clone();
    for calls in [&mut message, &mut expected] {
        for call in calls["tool_calls"].as_array_mut().into_iter().flatten() {
            assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()), "{call}");
            call["id"] = json!("");
        }
    }
    for message in [&mut message, &mut expected] {
        if message["tool_calls"].is_null() {
            message.as_object_mut().expect("a message").shift_remove("tool_calls");
        }
    }
    assert_eq!(message, expected, "{says}");
    assert_eq!(reason, whole["choices"][0]["finish_reason"]);
    (expected, whole)
}

/// Adds a delta to a message as OpenAI's SDKs do.
fn gather(message: &mut Value, delta: &Value) {
    for (name, value) in delta.as_object().expect("a delta is an object") {
        match (name.as_str(), value) {
            ("tool_calls", Value::Array(calls)) => {
                for call in calls {
                    let index = call["index"].as_u64().expect("every delta of a call has its index") as usize;
                    let list = &mut message["tool_calls"];
                    if list.as_array().map_or(0, Vec::len) == index {
                        assert!(
                            call["id"].is_string()
                                && call["type"] == "function"
                                && call["function"]["name"].is_string()
                        );
                        let mut call = call.clone();
                        call.as_object_mut().expect("a call").shift_remove("index");
                        match list {
                            Value::Array(list) => list.push(call),
                            other => *other = json!([call]),
                        }
                    } else {
                        assert!(call["id"].is_null() && call["type"].is_null() && call["function"]["name"].is_null());
                        let arguments = &mut list[index]["function"]["arguments"];
                        let more = call["function"]["arguments"].as_str().expect("arguments");
                        *arguments = json!(format!("{}{more}", arguments.as_str().expect("arguments")));
                    }
                }
            }
            ("role", role) => message["role"] = role.clone(),
            (_, Value::String(more)) => {
                let before = message.get(name).and_then(Value::as_str).unwrap_or_default();
                message[name] = json!(format!("{before}{more}"));
            }
            (_, other) => panic!("{name}: {other}"),
        }
    }
}

#[tokio::test]
async fn calls_come_with_id_and_name_once_and_their_arguments_in_pieces() {
    let site = site(|_| ()).await;
    let more = json!({ "tools": tools() });
    let (message, whole) = both(&site, &echo(&format!("{CALL}\n{CALL}")), &more).await;
    let call = json!({ "id": "", "type": "function", "function": { "name": "weather", "arguments": ARGUMENTS } });
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"], json!([call, call]));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let single = with(more.clone(), json!({ "parallel_tool_calls": false }));
    let (message, whole) = both(&site, &echo(&format!("On it.\n{CALL}\n{CALL}")), &single).await;
    assert_eq!((&message["content"], &message["tool_calls"]), (&json!("On it."), &json!([call])));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn what_is_no_complete_call_is_content_or_ends_with_length() {
    let site = site(|_| ()).await;
    let more = json!({ "tools": tools() });
    for text in
        ["<tool_call>\n{'name': 'weather'}\n</tool_call>", "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}"]
    {
        let (message, whole) = both(&site, &echo(text), &more).await;
        assert_eq!((&message["content"], &whole["choices"][0]["finish_reason"]), (&json!(text), &json!("stop")));
    }
    let (message, whole) = both(&site, &echo(CALL), &with(more, json!({ "max_tokens": CALL.len() - 30 }))).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let arguments = message["tool_calls"][0]["function"]["arguments"].as_str().expect("what came of them");
    assert!(ARGUMENTS.starts_with(arguments) && !arguments.is_empty(), "{arguments}");
    let (message, _) = both(&site, &echo(CALL), &json!({})).await;
    assert_eq!(message["content"], CALL, "nothing was offered");
    let (message, _) = both(&site, &echo(CALL), &json!({ "tools": tools(), "tool_choice": "none" })).await;
    assert_eq!(message["content"], CALL, "nothing may be called");
}

#[tokio::test]
async fn tools_calls_and_results_reach_a_model_whose_template_knows_none() {
    let site = site(|_| ()).await;
    let call = json!({ "id": "a", "type": "function", "function": { "name": "weather", "arguments": ARGUMENTS } });
    let body = json!({ "tools": tools(), "messages": [
        { "role": "user", "content": "Oslo?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "a", "content": "rain" },
    ] });
    assert_eq!(post(&site, &body).await.status, 200);
    let prompt = site.gate.opened().pop().expect("a row");
    for part in
        ["{\"name\":\"weather\",\"parameters\":", "Oslo?<tool_call>\n{\"name\":\"weather\"", "<tool_response>\nrain\n"]
    {
        assert!(prompt.contains(part), "{part}: {prompt}");
    }
}

#[tokio::test]
async fn thoughts_are_told_from_the_answer_and_counted() {
    let site = site_speaking(&format!("{TEMPLATE}{{%- if false -%}}</think>{{%- endif -%}}<think>"), |_| ()).await;
    let thought = |answer: &str| format!("{ECHO}{answer}\u{3}");
    let (message, whole) = both(&site, &thought("hm, \u{e9}\n</think>\n\nParis."), &json!({})).await;
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Paris."), &json!("hm, \u{e9}")));
    assert_eq!(message["reasoning"], message["reasoning_content"]);
    let details = &whole["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], "hm, \u{e9}\n</think>".len());
    let (message, whole) = both(&site, &thought("hm hm hm"), &json!({ "max_tokens": 5 })).await;
    assert_eq!((&message["content"], &message["reasoning"]), (&Value::Null, &json!("hm hm")));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens_details"]["reasoning_tokens"], 5);
}

#[tokio::test]
async fn a_model_whose_calls_are_not_known_says_so_and_none_can_be_required() {
    let site = site_speaking(&format!("{{%- if tools -%}}tools! {{%- endif -%}}{TEMPLATE}"), |_| ()).await;
    let reply = post(&site, &with(saying("x"), json!({ "tools": tools() }))).await;
    assert_eq!(reply.header("x-sanctum-note"), Some("this model's tool calls are returned as content"));
    let reply = post(&site, &with(saying("x"), json!({ "tools": tools(), "tool_choice": "required" }))).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("tool_choice")));
}

#[tokio::test]
async fn a_budget_of_thinking_without_effect_is_named() {
    let site = site(|settings| settings.strict = false).await;
    let reply = post(&site, &with(saying("x"), json!({ "thinking_budget": 5 }))).await;
    assert_eq!((reply.status, reply.header("x-ignored-params")), (200, Some("thinking_budget")));
    let strict = crate::http::tests::site::site(|settings| settings.strict = true).await;
    let reply = post(&strict, &with(saying("x"), json!({ "thinking_budget": 5 }))).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("thinking_budget")));
}
