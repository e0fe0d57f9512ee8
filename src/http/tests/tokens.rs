//! Tokenize and detokenize over a socket, by vLLM's names.

use serde_json::{Value, json};

use crate::http::tests::client::Reply;
use crate::http::tests::script::{CONTEXT, END};
use crate::http::tests::site::{Site, TEMPLATE, site, site_speaking};

async fn tokenize(site: &Site, body: Value) -> Reply {
    site.connect().await.post_to("/v1/tokenize", &body).await
}

async fn detokenize(site: &Site, body: Value) -> Reply {
    site.connect().await.post_to("/v1/detokenize", &body).await
}

#[tokio::test]
async fn a_text_becomes_its_tokens_and_they_become_the_text() {
    let site = site(|_| ()).await;
    let reply = tokenize(&site, json!({ "prompt": "é<|im_end|>", "return_token_strs": true, "model": "script" })).await;
    let expected = json!({
        "count": 3, "max_model_len": CONTEXT, "tokens": [0xc3, 0xa9, END],
        "token_strs": ["\u{fffd}", "\u{fffd}", "<|im_end|>"]
    });
    assert_eq!((reply.status, reply.json()), (200, expected));
    let reply = detokenize(&site, json!({ "tokens": [0xc3, 0xa9, END, b'a'] })).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "prompt": "é<|im_end|>a" })));
    let empty = json!({ "count": 0, "max_model_len": CONTEXT, "tokens": [], "token_strs": null });
    assert_eq!(tokenize(&site, json!({ "prompt": "" })).await.json(), empty);
    assert_eq!(detokenize(&site, json!({ "tokens": [] })).await.json(), json!({ "prompt": "" }));
}

#[tokio::test]
async fn a_conversation_goes_through_the_chat_template() {
    let template = format!("{TEMPLATE}{{%- if add_generation_prompt -%}}>{{%- endif -%}}");
    let site = site_speaking(&template, |_| ()).await;
    let message = json!({ "role": "user", "content": "ab" });
    let reply = tokenize(&site, json!({ "messages": [message] })).await;
    assert_eq!(reply.json()["tokens"], json!([b'a', b'b', b'>']));
    let reply = tokenize(&site, json!({ "messages": [message], "add_generation_prompt": false })).await;
    assert_eq!(reply.json()["tokens"], json!([b'a', b'b']));
    let refused = json!({ "messages": [{ "role": "user", "content": "refuse me" }] });
    let reply = tokenize(&site, refused).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("messages")));
}

#[tokio::test]
async fn what_cannot_be_told_is_refused_by_name() {
    let site = site(|_| ()).await;
    let check = |reply: Reply, status: u16, param: &str| {
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (status, &json!(param)));
    };
    check(tokenize(&site, json!({})).await, 400, "prompt");
    check(tokenize(&site, json!({ "prompt": "a", "model": "gpt-5" })).await, 404, "model");
    check(tokenize(&site, json!({ "prompt": "x".repeat(4 * CONTEXT as usize + 1) })).await, 400, "prompt");
    assert_eq!(tokenize(&site, json!({ "prompt": "x".repeat(4 * CONTEXT as usize) })).await.status, 200);
    check(detokenize(&site, json!({})).await, 400, "tokens");
    check(detokenize(&site, json!({ "tokens": [260] })).await, 400, "tokens");
    check(detokenize(&site, json!({ "tokens": ["a"] })).await, 400, "tokens[0]");
    let reply = tokenize(&site, json!({ "prompt": "a", "zebra": 1 })).await;
    assert_eq!((reply.status, reply.header("x-ignored-params")), (200, Some("zebra")));
    assert!(site.gate.opened().is_empty(), "nothing is generated");
}
