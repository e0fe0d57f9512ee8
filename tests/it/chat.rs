//! The main job on the real default model: a question is answered correctly over plain HTTP and mutual TLS, whole and
//! streamed, from the GGUF file and from a safetensors folder made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sanctum_mlx::client::{Client, Identity};
use serde_json::{Value, json};

use crate::support::models;
use crate::support::server::{Running, Server};

const QUESTION: &str = "What is the capital of France? Answer in one sentence.";
const ANSWER: &str = "The capital of France is Paris.";

fn identity(running: &Running) -> Identity {
    let certs = running.home().join("certs");
    let client = certs.join("clients");
    Identity { ca: certs.join("ca.crt"), certificate: client.join("default.crt"), key: client.join("default.key") }
}

fn body(stream: bool) -> Value {
    json!({
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": stream,
        "stream_options": {"include_usage": true},
    })
}

/// The answer of a whole response and of a stream, which must say the same.
fn ask(client: &Client) -> String {
    let mut request = body(false);
    request.as_object_mut().expect("an object").remove("stream_options");
    let whole: Value = client.post("/v1/chat/completions", &request).expect("an answer").json().expect("JSON");
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{whole}");
    let mut streamed = String::new();
    let mut usage = Value::Null;
    for event in client.stream("/v1/chat/completions", &body(true)).expect("a stream") {
        let sanctum_mlx::client::sse::Event::Data(data) = event.expect("a well-formed event") else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(&data).expect("JSON");
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            streamed.push_str(text);
        }
        if !chunk["usage"].is_null() {
            usage = chunk["usage"].clone();
        }
    }
    let text = choice["message"]["content"].as_str().expect("text").to_owned();
    assert_eq!(streamed, text, "streamed and whole say the same");
    assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    text
}

fn answers_paris_everywhere(model: &Path) {
    let running = Server::new(model).ready();
    let limit = Duration::from_secs(120);
    let plain = Client::new(&format!("http://{}", running.plain()), None, limit).expect("a client");
    assert_eq!(ask(&plain), ANSWER);
    let url = format!("https://localhost:{}", running.tls().port());
    let tls = Client::new(&url, Some(&identity(&running)), limit).expect("a client");
    assert_eq!(ask(&tls), ANSWER);
}

#[test]
fn the_default_model_answers_paris_plain_and_tls_streamed_and_whole() {
    answers_paris_everywhere(&models::default_model());
}

#[test]
fn a_safetensors_folder_of_the_default_model_answers_the_same() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path: PathBuf = folder.path().join("model");
    models::convert(&models::default_gguf(), &path, models::Layout::F32);
    answers_paris_everywhere(&path);
}

#[test]
fn e11_a_prompt_of_one_identity_is_computed_anew_for_another() {
    let running = Server::new(&crate::support::tiny()).ready();
    let limit = Duration::from_secs(120);
    let plain = Client::new(&format!("http://{}", running.plain()), None, limit).expect("a client");
    let url = format!("https://localhost:{}", running.tls().port());
    let tls = Client::new(&url, Some(&identity(&running)), limit).expect("a client");
    let words = "a b c d e f g h ".repeat(8);
    let request = json!({"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 8});
    let ask = |client: &Client| -> (String, u64, u64) {
        let answer: Value = client.post("/v1/chat/completions", &request).expect("an answer").json().expect("JSON");
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        let evaluated = answer["timings"]["prompt_n"].as_u64().expect("a count");
        assert_eq!(cached + evaluated, answer["usage"]["prompt_tokens"].as_u64().expect("a count"));
        (answer["choices"][0]["message"]["content"].to_string(), cached, evaluated)
    };
    let (text, none, all) = ask(&plain);
    assert_eq!(none, 0);
    assert_eq!(ask(&tls), (text.clone(), 0, all), "another identity, the same prompt");
    let (again, cached, evaluated) = ask(&plain);
    assert_eq!((again, evaluated), (text, 2), "all but two tokens are known");
    assert_eq!(cached, all - 2);
}

#[test]
fn a_prompt_begins_with_earlier_ones_of_its_key_and_with_none_when_told_so() {
    let running = Server::new(&crate::support::tiny()).ready();
    let plain = Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(120)).expect("a client");
    let words = "a b c d e f g h ".repeat(8);
    let cached = |more: Value| {
        let mut request = json!({"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 4});
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer: Value = plain.post("/v1/chat/completions", &request).expect("an answer").json().expect("JSON");
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        assert_eq!(answer["timings"]["cache_n"], cached);
        cached > 0
    };
    assert!(!cached(json!({"cache_prompt": false})));
    assert!(!cached(json!({"cache_prompt": false})), "it left nothing");
    assert!(!cached(json!({})), "it left nothing to anyone");
    assert!(!cached(json!({"cache_prompt": false})), "it takes nothing");
    assert!(cached(json!({})));
    assert!(!cached(json!({"prompt_cache_key": "mine"})), "another key's is not taken");
    assert!(cached(json!({"prompt_cache_key": "mine"})));
    assert!(!cached(json!({"prompt_cache_key": "yours"})));
}
