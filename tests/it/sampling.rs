//! How tokens are chosen and what is told of them, over HTTP on real models.

use std::time::Duration;

use sanctum_mlx::client::Client;
use sanctum_mlx::client::sse::Event;
use serde_json::{Value, json};

use crate::support::models;
use crate::support::server::{Running, Server};

fn client(running: &Running) -> Client {
    Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(120)).expect("a client")
}

/// The number of a counter.
fn metric(running: &Running, name: &str) -> u64 {
    let body = running.connect().get("/metrics").expect("an answer").body;
    let line = body.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{body}"));
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

fn ask(client: &Client, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 12});
    let Value::Object(more) = more else { panic!("more members are an object") };
    body.as_object_mut().expect("an object").extend(more);
    client.post("/v1/chat/completions", &body).expect("an answer").json().expect("JSON")
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The entries of a streamed answer, joined, and its text.
fn streamed(client: &Client, mut body: Value) -> (Vec<Value>, String) {
    body["stream"] = json!(true);
    let (mut entries, mut text) = (Vec::new(), String::new());
    for event in client.stream("/v1/chat/completions", &body).expect("a stream") {
        let Event::Data(data) = event.expect("a well-formed event") else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(&data).expect("JSON");
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        entries.extend(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default());
    }
    (entries, text)
}

#[test]
fn log_probabilities_come_with_each_token_whole_and_streamed() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let body = json!({
        "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 12, "temperature": 0,
        "logprobs": true, "top_logprobs": 4
    });
    let whole = ask(&client, body.clone());
    let entries = whole["choices"][0]["logprobs"]["content"].as_array().expect("entries").clone();
    let joined: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().expect("bytes"))
        .map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte"))
        .collect();
    assert_eq!(String::from_utf8(joined).expect("text"), text(&whole), "the tokens are those of the text");
    for entry in &entries {
        let top = entry["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(top.len(), 4);
        let logprob = |entry: &Value| entry["logprob"].as_f64().expect("a number");
        // Greedy: the likeliest is the one that was chosen.
        assert_eq!((&top[0]["bytes"], logprob(&top[0])), (&entry["bytes"], logprob(entry)));
        assert!(top.windows(2).all(|pair| logprob(&pair[0]) >= logprob(&pair[1])));
        assert!(top.iter().map(|entry| logprob(entry).exp()).sum::<f64>() <= 1.0 + 1e-5);
    }
    let (streamed, streamed_text) = streamed(&client, body);
    assert_eq!((streamed, streamed_text), (entries, text(&whole)));

    let plain = ask(&client, json!({"temperature": 0}));
    assert_eq!((&plain["choices"][0]["logprobs"], text(&plain)), (&Value::Null, text(&whole)));
    // Log probabilities are those before the temperature, and a bias is part of the distribution.
    let warm =
        ask(&client, json!({"logprobs": true, "temperature": 1.9, "seed": 3, "max_tokens": 1, "top_logprobs": 1}));
    let (first, cold) = (&warm["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0], &whole["choices"][0]);
    assert_eq!(first, &cold["logprobs"]["content"][0]["top_logprobs"][0]);
}

#[test]
fn a_least_number_of_tokens_and_the_tokens_that_end_an_answer_are_kept() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let question = json!([{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]);
    let count = |more: Value| {
        let mut body = json!({"messages": question, "temperature": 0, "max_tokens": 40});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = ask(&client, body);
        let reason = answer["choices"][0]["finish_reason"].as_str().expect("a reason").to_owned();
        (answer["usage"]["completion_tokens"].as_u64().expect("a count"), reason)
    };
    let (alone, reason) = count(json!({}));
    assert!(alone < 20 && reason == "stop", "{alone} tokens");
    let (longer, _) = count(json!({"min_tokens": 20}));
    assert!(longer > 20, "{longer} tokens, the one that ends the answer among them");
    assert_eq!(count(json!({"ignore_eos": true})), (40, "length".to_owned()));
    // "." ends the answer where it stands: token 30 of this vocabulary.
    let (cut, reason) = count(json!({"stop_token_ids": [30]}));
    assert!(cut <= alone && reason == "stop");
}

#[test]
fn n_answers_share_the_prefill_and_are_those_of_their_seeds() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let drawn = |n: u32, seed: u32, word: &str| {
        let words = format!("{word} ").repeat(40);
        let body = json!({
            "messages": [{"role": "user", "content": words}], "n": n, "seed": seed, "temperature": 1.0,
            "typical_p": 0.9, "max_tokens": 12, "logprobs": true
        });
        let answer = ask(&client, body);
        let texts: Vec<String> = (0..n as usize)
            .map(|index| answer["choices"][index]["message"]["content"].as_str().expect("text").to_owned())
            .collect();
        (texts, answer)
    };
    let shared = || metric(&running, "sanctum_mlx_prompt_tokens_cached_total");
    let before = shared();
    let (three, answer) = drawn(3, 7, "blue");
    let prompt = answer["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "the first one evaluated it all");
    assert_eq!(shared() - before, 2 * (prompt - 2), "each of the others evaluated two tokens");
    for (index, text) in three.iter().enumerate() {
        assert_eq!(&drawn(1, 7 + index as u32, "blue").0[0], text, "answer {index} is that of its seed");
    }
    assert_ne!(three[0], three[1]);
}
