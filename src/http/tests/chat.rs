//! Chat answers, models and health over a socket: what clients and SDKs look at.

use serde_json::{Value, json};

use crate::http::tests::client::{Client, chat_request, content, saying, streaming};
use crate::http::tests::script::{FATAL, FAULTY, FOREVER, SILENCE, reply_to};
use crate::http::tests::site::{Site, eventually, site};
use crate::lifecycle::phase::Phase;

/// The body with more members.
pub(super) fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("more members are an object") };
    body.as_object_mut().expect("a body is an object").extend(more);
    body
}

pub(super) async fn post(site: &Site, body: &Value) -> crate::http::tests::client::Reply {
    site.connect().await.post(body).await
}

#[tokio::test]
async fn a_streamed_answer_equals_the_whole_one_and_ends_with_done() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let whole = client.post(&saying("grüße 🙂")).await;
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("application/json")));
    let whole = whole.json();
    let said = whole["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(said, reply_to("grüße 🙂"));
    assert_eq!((&whole["choices"][0]["finish_reason"], &whole["object"]), (&json!("stop"), &json!("chat.completion")));
    assert_eq!((&whole["model"], &whole["system_fingerprint"]), (&json!("org/script"), &json!("script-1")));
    assert_eq!(whole["usage"]["completion_tokens"], said.len() + 1);
    assert_eq!(whole["usage"]["total_tokens"], said.len() + 1 + "grüße 🙂".len());

    let body = with(streaming("grüße 🙂"), json!({ "stream_options": { "include_usage": true } }));
    let streamed = client.post(&body).await;
    assert_eq!(streamed.header("cache-control"), Some("no-cache"));
    assert_eq!(streamed.header("x-accel-buffering"), Some("no"));
    let events = streamed.events();
    assert_eq!(content(&events), said);
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let [.., end, usage] = chunks.as_slice() else { panic!("at least two chunks") };
    assert_eq!((&end["choices"][0]["finish_reason"], &end["usage"]), (&json!("stop"), &Value::Null));
    assert!(end["timings"]["predicted_n"].is_u64());
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_cancels_the_row_and_never_leaks() {
    let site = site(|_| ()).await;
    for (stop, text) in [(json!("fgh"), "abcde"), (json!(["zzz", "d"]), "abc"), (json!("a"), "")] {
        let more = json!({ "stop": stop });
        let whole = post(&site, &with(saying(FOREVER), more.clone())).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], text);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        let events = post(&site, &with(streaming(FOREVER), more)).await.events();
        assert_eq!(content(&events), text);
        eventually("the row is free", || site.gate.open_rows() == 0).await;
    }
    assert_eq!(site.metric("sanctum_mlx_empty_completions_total"), 2.0);
}

#[tokio::test]
async fn limits_of_tokens_are_kept_and_an_answer_without_text_is_visible() {
    let site = site(|_| ()).await;
    let reply = post(&site, &with(saying(FOREVER), json!({ "max_tokens": 5 }))).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "abcde");
    assert_eq!(
        (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]),
        (&json!("length"), &json!(5))
    );
    let reply = post(&site, &saying(SILENCE)).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "");
    assert_eq!(
        (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(1))
    );
    assert_eq!(site.metric("sanctum_mlx_empty_completions_total"), 1.0);
    let extra = json!({ "stop_token_ids": [b'd'], "ignore_eos": true });
    let reply = post(&site, &with(saying(FOREVER), extra)).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "abc");
}

#[tokio::test]
async fn n_answers_come_with_their_index() {
    let site = site(|settings| settings.limits.rows = 2).await;
    let whole = post(&site, &with(saying("x"), json!({ "n": 3 }))).await.json();
    let choices = whole["choices"].as_array().expect("choices");
    assert_eq!(choices.iter().map(|choice| &choice["index"]).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(choices.iter().all(|choice| choice["message"]["content"] == reply_to("x")));
    let events = post(&site, &with(streaming("x"), json!({ "n": 2 }))).await.events();
    let ends = events.iter().filter(|event| event.contains("\"finish_reason\":\"stop\"")).count();
    assert_eq!((ends, events.last().map(String::as_str)), (2, Some("[DONE]")));
}

#[tokio::test]
async fn e10_what_cannot_fit_or_does_not_exist_is_refused_before_it_is_queued() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let mut check = async |body: Value, status: u16, code: &str| {
        let reply = client.post(&body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{body}");
    };
    check(saying(&"x".repeat(5000)), 400, "context_length_exceeded").await;
    check(with(saying("x"), json!({ "max_tokens": 4096 })), 400, "context_length_exceeded").await;
    check(saying(""), 400, "invalid_value").await;
    check(saying("refuse me"), 400, "invalid_value").await;
    check(with(saying("x"), json!({ "model": "gpt-5" })), 404, "model_not_found").await;
    check(with(saying("x"), json!({ "n": 1_000_000 })), 400, "invalid_value").await;
    check(with(saying("x"), json!({ "top_logprobs": 2 })), 400, "invalid_value").await;
    check(with(saying("x"), json!({ "min_tokens": 9, "max_tokens": 8 })), 400, "invalid_value").await;
    assert!(site.gate.opened().is_empty());
    for model in ["org/script", "script"] {
        assert_eq!(client.post(&with(saying("x"), json!({ "model": model }))).await.status, 200);
    }
}

#[tokio::test]
async fn e4_token_ids_beyond_the_logits_are_refused_by_name() {
    let site = site(|_| ()).await;
    for (field, value) in [
        ("logit_bias", json!({ "260": 1 })),
        ("logit_bias", json!({ "4294967295": 1 })),
        ("logit_bias", json!({ "4294967296": 1 })),
        ("logit_bias", json!({ "-1": 1 })),
        ("stop_token_ids", json!([260])),
        ("stop_token_ids", json!([1, 4_294_967_296_u64])),
        ("stop_token_ids", json!([-1])),
    ] {
        let reply = post(&site, &with(saying("x"), json!({ field: value }))).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_value"), "{field}: {value}");
        assert_eq!(reply.json()["error"]["param"], field);
    }
    assert!(site.gate.opened().is_empty());
    for more in [json!({ "logit_bias": { "259": 1 } }), json!({ "stop_token_ids": [259] })] {
        assert_eq!(post(&site, &with(saying("x"), more)).await.status, 200);
    }
}

#[tokio::test]
async fn what_has_no_effect_is_named_in_a_header() {
    let site = site(|_| ()).await;
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let reply = post(&site, &with(saying("x"), json!({ "zebra": 1, "a b": 2, "user": "u", "tools": tools }))).await;
    assert_eq!((reply.status, reply.header("x-ignored-params")), (200, Some("zebra, a%20b")));
    assert_eq!(post(&site, &saying("x")).await.header("x-ignored-params"), None);
}

#[tokio::test]
async fn e5_a_failed_generation_is_a_500_or_one_error_event_and_the_next_is_fine() {
    let site = site(|_| ()).await;
    let reply = post(&site, &saying(FAULTY)).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "generation_failed"));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let reply = post(&site, &streaming(FAULTY)).await;
    let events = reply.events();
    assert_eq!((reply.status, content(&events).as_str()), (200, "x"));
    assert!(events.last().is_some_and(|last| last.contains("generation_failed")), "{events:?}");
    assert!(!events.iter().any(|event| event == "[DONE]"));
    assert_eq!(post(&site, &saying("y")).await.status, 200);
}

#[tokio::test]
async fn e8_a_device_error_is_told_to_those_in_flight_and_the_listener_goes() {
    let site = site(|_| ()).await;
    let mut other = site.connect().await;
    assert_eq!(other.get("/v1/models").await.status, 200);
    let mut keeper = site.connect().await;
    site.gate.shut();
    keeper.send(chat_request(&streaming(FOREVER))).await;
    eventually("a row runs", || site.gate.open_rows() == 1).await;
    let mut client = site.connect().await;
    client.send(chat_request(&saying(FATAL))).await;
    eventually("another waits", || site.state.engine.queue_depth() == 1).await;
    drop(keeper);
    site.gate.open();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "engine_dead"));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert!(reply.json()["error"]["message"].to_string().contains("the device is gone"));
    assert_eq!(site.metric("sanctum_mlx_engine_up"), 0.0);
    eventually("the listener is gone", || site.serving.is_finished()).await;
}

#[tokio::test]
async fn p4_a_hung_engine_that_is_declared_dead_fails_what_is_in_flight_without_its_help() {
    let site = site(|settings| settings.limits.rows = 2).await;
    site.gate.shut();
    let (mut asked, mut whole) = (site.connect().await, site.connect().await);
    assert_eq!(asked.get("/v1/models").await.status, 200);
    whole.send(chat_request(&saying(FOREVER))).await;
    eventually("the engine is held", || site.gate.open_rows() == 1).await;
    let guard = site.state.lifecycle.drain.enter();
    site.state.lifecycle.die("no progress for 60 s");
    let reply = whole.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "engine_dead"));
    let reply = asked.get("/v1/models").await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("connection")), (503, "dead", Some("close")));
    assert!(reply.json()["error"]["message"].to_string().contains("no progress for 60 s"));
    drop(guard);
}

#[tokio::test]
async fn p7_models_and_health_carry_the_engines_state_and_never_wait_for_it() {
    let site = site(|_| ()).await;
    site.gate.shut();
    let mut stuck = site.connect().await;
    stuck.send(chat_request(&streaming(FOREVER))).await;
    eventually("the engine is held", || site.gate.open_rows() == 1).await;
    let mut client = site.connect().await;
    let models = client.get("/v1/models").await;
    assert_eq!(models.header("x-sanctum-instance"), Some(site.state.instance.as_str()));
    let models = models.json();
    let ids: Vec<&str> =
        models["data"].as_array().expect("data").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["org/script", "script"]);
    assert_eq!((&models["sanctum"]["phase"], &models["sanctum"]["queue_depth"]), (&json!("ready"), &json!(0)));
    assert!(models["sanctum"]["last_step_age_seconds"].is_f64());
    assert_eq!(client.get("/v1/models/org%2Fscript").await.json()["id"], "org/script");
    assert_eq!(client.get("/v1/models/org/other").await.code(), "model_not_found");
    assert_eq!(client.get("/health").await.json()["running_rows"], 1);
    assert_eq!(client.get("/health/ready").await.status, 200);
    let metrics = client.get("/metrics").await;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    site.state.lifecycle.phase.advance_because(Phase::Stalled, "no progress for 30 s");
    for path in ["/v1/models", "/v1/models/script", "/health/ready", "/health"] {
        assert_eq!(client.get(path).await.status, 503, "{path}");
    }
    assert!(client.get("/health/ready").await.json()["error"]["message"].to_string().contains("no progress for 30 s"));
}

#[tokio::test]
async fn every_response_has_a_request_id_and_unknown_routes_are_envelopes() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    client.send("GET /nowhere HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine-1\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("x-request-id")), (404, Some("mine-1")));
    assert_eq!(reply.code(), "unknown_route");
    let reply = client.get("/v1/embeddings").await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "unserved_route"));
    assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 36));
    assert_eq!(client.get("/v1/chat/completions").await.header("allow"), Some("POST, OPTIONS"));
    client.send("HEAD /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
}

#[tokio::test]
async fn the_admin_listener_serves_health_and_nothing_else_on_its_own_thread() {
    let site = site(|_| ()).await;
    let listener = crate::http::listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let thread = crate::http::admin::spawn(listener, site.state.clone()).expect("a thread can be had");
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/health/ready").await.status, 200);
    assert_eq!(client.get("/metrics").await.status, 200);
    assert_eq!(client.get("/v1/models").await.status, 404);
    site.state.lifecycle.drain.begin();
    eventually("the admin thread ends with the drain", || thread.is_finished()).await;
}
