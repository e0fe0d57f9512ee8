//! E2: what a request may ask for has hard limits, and they are checked before anything is queued: while the one row is
//! held, what is queued stays there to be seen, and nothing beyond a limit ever is.

use serde_json::{Value, json};

use crate::config::settings::Limits;
use crate::http::tests::client::{chat_request, saying};
use crate::http::tests::script::{CONTEXT, FOREVER};
use crate::http::tests::site::{eventually, site};

/// A schema of so many levels.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({ "type": "null" }), |inner, _| json!({ "type": "array", "items": inner }))
}

/// A schema of so many schemas.
fn wide(schemas: usize) -> Value {
    let properties: serde_json::Map<String, Value> =
        (0..schemas).map(|index| (index.to_string(), json!({ "type": "null" }))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn schema(schema: Value) -> Value {
    json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } })
}

/// Bodies beyond one limit each, with the field that is to be named.
fn beyond() -> Vec<(&'static str, Value)> {
    let limits = Limits::documented();
    let bias: serde_json::Map<String, Value> =
        (0..=limits.logit_bias).map(|index| (index.to_string(), json!(1))).collect();
    let message = json!({ "role": "user", "content": "x" });
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    vec![
        ("n", json!({ "n": limits.n + 1 })),
        ("n", json!({ "n": 1_000_000 })),
        ("best_of", json!({ "best_of": 2 })),
        ("top_logprobs", json!({ "logprobs": true, "top_logprobs": limits.top_logprobs + 1 })),
        ("messages", json!({ "max_tokens": CONTEXT })),
        ("max_tokens", json!({ "max_tokens": 1_u64 << 32 })),
        ("stop", json!({ "stop": vec!["x"; limits.stop_strings + 1] })),
        ("stop", json!({ "stop": "x".repeat(1025) })),
        ("stop_token_ids", json!({ "stop_token_ids": vec![1; 65] })),
        ("logit_bias", json!({ "logit_bias": bias })),
        ("messages", json!({ "messages": vec![message; limits.messages + 1] })),
        ("tools", json!({ "tools": vec![tool; limits.tools + 1] })),
        ("response_format", schema(nested(33))),
        ("response_format", schema(wide(1_000))),
        ("response_format", schema(json!({ "const": "x".repeat(64 << 10) }))),
        ("regex", json!({ "regex": "x".repeat((4 << 10) + 1) })),
        ("grammar", json!({ "grammar": format!("start: \"x\" // {}", "x".repeat(64 << 10)) })),
        ("choice", json!({ "choice": ["x".repeat((64 << 10) + 1)] })),
    ]
}

#[tokio::test]
async fn e2_whatever_is_beyond_a_limit_is_refused_before_it_is_queued() {
    let site = site(|_| ()).await;
    site.gate.shut();
    let mut holder = site.connect().await;
    holder.send(chat_request(&saying(FOREVER))).await;
    eventually("the row is taken", || site.gate.open_rows() == 1 && site.state.engine.queue_depth() == 0).await;
    let mut client = site.connect().await;
    for (field, more) in beyond() {
        let mut body = saying("x");
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let shown: String = more.to_string().chars().take(80).collect();
        let reply = client.post(&body).await;
        assert_eq!(reply.status, 400, "{shown}: {}", reply.json());
        let named = reply.json()["error"]["param"].as_str().map(str::to_owned);
        assert!(named.as_deref().is_some_and(|named| named.starts_with(field)), "{shown}: {named:?}");
        assert_eq!(site.state.engine.queue_depth(), 0, "{shown} was queued");
    }
    client.send(chat_request(&saying("x"))).await;
    eventually("what is within every limit waits", || site.state.engine.queue_depth() == 1).await;
    assert_eq!(site.gate.opened(), [FOREVER]);
}
