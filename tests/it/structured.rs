//! Answers that must have a form, over HTTP on the real default model.

use std::time::Duration;

use sanctum_mlx::client::Client;
use sanctum_mlx::client::sse::Event;
use serde_json::{Value, json};

use crate::support::models;
use crate::support::server::{Running, Server};

/// Whether a text has a form.
type Judge = fn(&str) -> bool;

fn client(running: &Running) -> Client {
    Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(120)).expect("a client")
}

fn body(more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Tell me of Ada."}], "max_tokens": 96});
    let more = more.as_object().expect("more members are an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    body
}

fn ask(client: &Client, more: &Value) -> Value {
    client.post("/v1/chat/completions", &body(more)).expect("an answer").json().expect("JSON")
}

/// The texts of the answers, each of which ended by itself.
fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let text = |choice: &Value| {
        assert_eq!(choice["finish_reason"], "stop", "{answer}");
        choice["message"]["content"].as_str().map(str::to_owned)
    };
    choices.iter().map(|choice| text(choice).unwrap_or_else(|| panic!("{answer}"))).collect()
}

fn streamed(client: &Client, more: &Value) -> String {
    let mut body = body(more);
    body["stream"] = json!(true);
    let mut text = String::new();
    for event in client.stream("/v1/chat/completions", &body).expect("a stream") {
        let Event::Data(data) = event.expect("a well-formed event") else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(&data).expect("JSON");
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    text
}

fn person() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}}
    })
}

fn is_person(text: &str) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str(text) else { return false };
    let name = members.get("name").and_then(Value::as_str).is_some_and(|name| name.chars().count() <= 12);
    let age = members.get("age").and_then(Value::as_u64).is_some_and(|age| age <= 99);
    members.len() == 2 && name && age
}

#[test]
fn an_answer_has_the_form_that_was_asked_for_whole_and_streamed() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let schema = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": person()}}});
    let cases: [(Value, Judge); 5] = [
        (schema, is_person),
        (json!({"structured_outputs": {"json": person()}, "n": 2}), is_person),
        (json!({"regex": "[0-9]{3}-[a-z]{2}"}), |text| {
            let bytes = text.as_bytes();
            bytes.len() == 6 && bytes[..3].iter().all(u8::is_ascii_digit) && bytes[3] == b'-'
        }),
        (json!({"choice": ["crimson", "crimson red", "teal"]}), |text| {
            ["crimson", "crimson red", "teal"].contains(&text)
        }),
        (json!({"grammar": "start: \"x\" (\"y\" | \"z\") \"!\""}), |text| text == "xy!" || text == "xz!"),
    ];
    for (more, has_form) in cases {
        for seed in 1..=3 {
            let mut more = more.clone();
            more["seed"] = json!(seed);
            let whole = texts(&ask(&client, &more));
            assert!(whole.iter().all(|text| has_form(text)), "{more}: {whole:?}");
            if more.get("n").is_none() {
                assert_eq!(streamed(&client, &more), whole[0], "{more}");
            }
        }
    }
    let free = ask(&client, &json!({"max_tokens": 2}));
    assert_eq!(free["usage"]["completion_tokens"], 2, "{free}");
}

#[test]
fn e3_a_form_that_cannot_be_compiled_is_a_400_that_names_why_and_the_server_goes_on() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let cases = [
        (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}), "not"),
        (json!({"regex": "(a"}), "regular expression"),
        (json!({"regex": "a".repeat(5000)}), "4096"),
        (json!({"grammar": "start: nothing"}), "Lark"),
        (json!({"choice": ["a"], "ignore_eos": true}), "ignore_eos"),
        (json!({"choice": ["a"], "min_tokens": 3}), "min_tokens"),
    ];
    for (more, words) in cases {
        let reply = client.post("/v1/chat/completions", &body(&more)).expect("an answer");
        let error: Value = reply.json().expect("JSON");
        assert_eq!(reply.status, 400, "{error}");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{words}: {message}");
    }
    // This one is small until it is followed; then its row fails, with the reason, and no other.
    let outgrown = json!({"regex": "(((a{1,99}){1,99}){1,99}){1,99}"});
    let reply = client.post("/v1/chat/completions", &body(&outgrown)).expect("an answer");
    let error: Value = reply.json().expect("JSON");
    assert_eq!((reply.status, &error["error"]["code"]), (500, &json!("generation_failed")), "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("too many expressions")), "{error}");
    assert_eq!(texts(&ask(&client, &json!({"choice": ["fine"]}))), ["fine"]);
}
