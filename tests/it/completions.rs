//! Plain completions on the real default model: the text goes on without a template, and what is told of it fits it.

use std::time::Duration;

use sanctum_mlx::client::Client;
use serde_json::{Value, json};

use crate::support::models;
use crate::support::server::{Running, Server};

fn client(running: &Running) -> Client {
    Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(120)).expect("a client")
}

fn post(client: &Client, path: &str, body: &Value) -> Value {
    client.post(path, body).expect("an answer").json().expect("JSON")
}

#[test]
fn a_completion_is_the_models_own_continuation_and_its_columns_fit_its_text() {
    let running = Server::new(&models::default_model()).ready();
    let client = client(&running);
    let body = json!({
        "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8, "logprobs": 2, "return_token_ids": true
    });
    let answer = post(&client, "/v1/completions", &body);
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().expect("text");
    assert!(text.starts_with(" Paris"), "{answer}");
    let columns = &choice["logprobs"];
    let tokens: Vec<&str> =
        columns["tokens"].as_array().expect("tokens").iter().map(|token| token.as_str().expect("text")).collect();
    assert_eq!(tokens.concat(), text);
    let mut offset = 0;
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(columns["text_offset"][index], offset);
        offset += token.chars().count();
        let top = columns["top_logprobs"][index].as_object().expect("a map");
        // Greedy: the one that was chosen is the likeliest of the two.
        assert_eq!((top.len(), &top[*token]), (2, &columns["token_logprobs"][index]));
    }
    let ids = json!({ "tokens": choice["token_ids"] });
    assert_eq!(post(&client, "/v1/detokenize", &ids)["prompt"], text);
    let prompt = post(&client, "/v1/tokenize", &json!({ "prompt": "The capital of France is" }));
    assert_eq!((&prompt["tokens"], &prompt["count"]), (&choice["prompt_token_ids"], &answer["usage"]["prompt_tokens"]));

    // The same prompt as tokens, beside another: the same answer.
    let several = json!({ "prompt": [prompt["tokens"], [1, 2, 3]], "temperature": 0, "max_tokens": 8 });
    assert_eq!(post(&client, "/v1/completions", &several)["choices"][0]["text"], text);
    let shaped = json!({ "prompt": "The number is ", "regex": "[0-9]{3}", "temperature": 0, "max_tokens": 16 });
    let shaped = post(&client, "/v1/completions", &shaped);
    let text = shaped["choices"][0]["text"].as_str().expect("text");
    assert!(text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()), "{shaped}");
}
