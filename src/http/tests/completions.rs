//! Completions over a socket: what OpenAI's SDKs and vLLM's clients look at, whole and streamed.

use serde_json::{Value, json};

use crate::http::tests::chat::with;
use crate::http::tests::client::Reply;
use crate::http::tests::script::{CONTEXT, ECHO, FAULTY, FOREVER, reply_to};
use crate::http::tests::site::{Site, eventually, site, site_speaking};

async fn post(site: &Site, body: &Value) -> Reply {
    site.connect().await.post_to("/v1/completions", body).await
}

/// The choices of a whole answer, and what the chunks of the same one streamed make together.
async fn both(site: &Site, body: &Value) -> (Vec<Value>, Value) {
    let whole = post(site, body).await;
    assert_eq!(whole.status, 200, "{}", whole.json());
    let whole = whole.json();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("text_completion"), &json!("org/script")));
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")) && whole["timings"]["predicted_n"].is_u64());
    let choices = whole["choices"].as_array().expect("choices").clone();
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = post(site, &with(body.clone(), options)).await.events();
    let (done, chunks) = events.split_last().expect("a stream");
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "text_completion"));
    let mut streamed: Vec<Value> =
        (0..choices.len()).map(|index| json!({ "index": index, "text": "", "logprobs": null })).collect();
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        gather(&mut streamed[choice["index"].as_u64().expect("an index") as usize], choice);
    }
    assert_eq!(streamed, choices);
    let last = chunks.last().expect("a chunk with usage");
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    (choices, whole)
}

fn gather(answer: &mut Value, choice: &Value) {
    let more = choice["text"].as_str().expect("text");
    answer["text"] = json!(format!("{}{more}", answer["text"].as_str().expect("text")));
    answer["finish_reason"] = choice["finish_reason"].clone();
    if let Some(ids) = choice.get("prompt_token_ids") {
        answer["prompt_token_ids"] = ids.clone();
    }
    if let Some(Value::Array(ids)) = choice.get("token_ids") {
        let before = answer.get("token_ids").and_then(Value::as_array).cloned().unwrap_or_default();
        answer["token_ids"] = json!([before, ids.clone()].concat());
    }
}

fn texts(choices: &[Value]) -> Vec<&str> {
    choices.iter().map(|choice| choice["text"].as_str().expect("text")).collect()
}

#[tokio::test]
async fn a_text_goes_on_as_it_is_and_a_streamed_answer_equals_the_whole_one() {
    // A template would shout.
    let site = site_speaking("{{ messages[0].content | upper }}", |_| ()).await;
    let (choices, whole) = both(&site, &json!({ "prompt": "grüße", "max_tokens": 64 })).await;
    assert_eq!(texts(&choices), [reply_to("grüße")]);
    assert_eq!(choices[0]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["prompt_tokens"], "grüße".len());
    assert_eq!(whole["usage"]["completion_tokens"], reply_to("grüße").len() + 1);
    assert!(choices[0].get("token_ids").is_none());
}

#[tokio::test]
async fn markup_and_white_space_stay_in_the_text() {
    let site = site(|_| ()).await;
    for said in
        ["  \n<think>a</think>\n b\n", "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", "\n\n"]
    {
        let (choices, _) = both(&site, &json!({ "prompt": format!("{ECHO}{said}"), "max_tokens": 80 })).await;
        assert_eq!(texts(&choices), [said]);
    }
}

#[tokio::test]
async fn sixteen_tokens_are_the_default_and_limits_and_stop_strings_are_kept() {
    let site = site(|_| ()).await;
    let (choices, _) = both(&site, &json!({ "prompt": FOREVER })).await;
    assert_eq!((texts(&choices), &choices[0]["finish_reason"]), (vec!["abcdefghijklmnop"], &json!("length")));
    let (choices, _) = both(&site, &json!({ "prompt": FOREVER, "max_tokens": 3, "timeout": 60 })).await;
    assert_eq!((texts(&choices), &choices[0]["finish_reason"]), (vec!["abc"], &json!("length")));
    let (choices, _) = both(&site, &json!({ "prompt": FOREVER, "stop": ["fgh"], "max_tokens": 50 })).await;
    assert_eq!((texts(&choices), &choices[0]["finish_reason"]), (vec!["abcde"], &json!("stop")));
    eventually("the row is free", || site.gate.open_rows() == 0).await;
    let (choices, _) = both(&site, &json!({ "prompt": FOREVER, "stop_token_ids": [b'd'], "ignore_eos": true })).await;
    assert_eq!(texts(&choices), ["abc"]);
}

#[tokio::test]
async fn every_prompt_of_a_list_has_n_answers_in_its_order() {
    let site = site(|settings| settings.limits.rows = 2).await;
    let (choices, whole) = both(&site, &json!({ "prompt": ["a", "bb"], "n": 2, "max_tokens": 64 })).await;
    let (first, second) = (reply_to("a"), reply_to("bb"));
    assert_eq!(texts(&choices), [&first, &first, &second, &second]);
    assert_eq!(choices.iter().map(|choice| &choice["index"]).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(whole["usage"]["prompt_tokens"], 3);
    assert_eq!(whole["usage"]["completion_tokens"], 2 * (first.len() + second.len()) + 4);
    let (choices, _) = both(&site, &json!({ "prompt": [[b'a'], [b'b', b'b']], "max_tokens": 64 })).await;
    assert_eq!(texts(&choices), [&first, &second]);
    let (choices, _) = both(&site, &json!({ "prompt": [b'b', b'b'], "max_tokens": 64 })).await;
    assert_eq!(texts(&choices), [&second]);
}

#[tokio::test]
async fn an_answer_can_begin_with_its_prompt_and_tell_its_tokens() {
    let site = site(|_| ()).await;
    let (choices, _) = both(&site, &json!({ "prompt": "echo:é", "echo": true, "max_tokens": 64 })).await;
    assert_eq!(texts(&choices), ["echo:éé"]);
    let body = json!({ "prompt": [101, 99, 104, 111, 58, 120], "echo": true, "return_token_ids": true });
    let (choices, _) = both(&site, &body).await;
    assert_eq!(texts(&choices), ["echo:xx"]);
    assert_eq!(choices[0]["prompt_token_ids"], body["prompt"]);
    assert_eq!(choices[0]["token_ids"], json!([b'x']), "the token that ended the answer is not among them");
    // Of a character that is cut off, the tokens are there and its text is not.
    let body = json!({ "prompt": "echo:é", "return_token_ids": true, "max_tokens": 1 });
    let (choices, _) = both(&site, &body).await;
    assert_eq!((texts(&choices), &choices[0]["token_ids"]), (vec!["\u{fffd}"], &json!([0xc3])));
}

#[tokio::test]
async fn e4_e10_what_cannot_be_served_is_refused_by_name_before_it_is_queued() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let mut check = async |body: Value, code: &str, param: &str| {
        let reply = client.post_to("/v1/completions", &body).await;
        let error = reply.json()["error"].take();
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &json!(param)), "{body}");
        assert_eq!(reply.status, if code == "model_not_found" { 404 } else { 400 });
    };
    check(json!({}), "invalid_value", "prompt").await;
    check(json!({ "prompt": "" }), "invalid_value", "prompt").await;
    check(json!({ "prompt": [260] }), "invalid_value", "prompt").await;
    check(json!({ "prompt": [[97], [4_294_967_295_u32]] }), "invalid_value", "prompt").await;
    check(json!({ "prompt": vec!["x"; 65] }), "invalid_value", "prompt").await;
    check(json!({ "prompt": "x".repeat(5000) }), "context_length_exceeded", "prompt").await;
    check(json!({ "prompt": ["a", "x".repeat(4090)], "max_tokens": 7 }), "context_length_exceeded", "prompt").await;
    check(json!({ "prompt": vec![97; CONTEXT as usize] }), "context_length_exceeded", "prompt").await;
    check(json!({ "prompt": "x", "model": "gpt-5" }), "model_not_found", "model").await;
    check(json!({ "prompt": "x", "temperature": 3 }), "invalid_value", "temperature").await;
    check(json!({ "prompt": "x", "suffix": "y" }), "unsupported_parameter", "suffix").await;
    check(json!({ "prompt": "x", "regex": "a+", "min_tokens": 2 }), "invalid_value", "min_tokens").await;
    assert!(site.gate.opened().is_empty());
    assert_eq!(client.get("/v1/completions").await.header("allow"), Some("POST, OPTIONS"));
}

#[tokio::test]
async fn a_failure_is_a_500_or_one_error_event_and_what_has_no_effect_is_named() {
    let site = site(|_| ()).await;
    let reply = post(&site, &json!({ "prompt": FAULTY })).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "generation_failed"));
    let events = post(&site, &json!({ "prompt": FAULTY, "stream": true })).await.events();
    assert!(events.last().is_some_and(|last| last.contains("generation_failed")), "{events:?}");
    assert!(!events.iter().any(|event| event == "[DONE]"));
    let reply = post(&site, &json!({ "prompt": "x", "thinking_budget": 1, "zebra": 2, "user": "u" })).await;
    assert_eq!((reply.status, reply.header("x-ignored-params")), (200, Some("thinking_budget, zebra")));
}
