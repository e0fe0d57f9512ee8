//! The page for a person, as its bytes: readable without a script, nothing from anywhere else, honest when nothing works.

use crate::http::tests::client::{Reply, saying};
use crate::http::tests::site::site;
use crate::lifecycle::phase::Phase;

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).expect("a page is text")
}

/// What stands in an element of the page.
fn field(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("data-field=\"{name}\">")).unwrap_or_else(|| panic!("{name}: {page}"));
    rest.split('<').next().expect("a text").to_owned()
}

#[tokio::test]
async fn the_page_tells_the_state_without_a_script() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let page = text(&client.get("/").await);
    assert!(page.contains("<h1>org&#x2f;script</h1>") || page.contains("<h1>org/script</h1>"), "{page}");
    assert_eq!((field(&page, "phase").as_str(), field(&page, "queue").as_str()), ("ready", "empty"));
    assert_eq!((field(&page, "speed").as_str(), field(&page, "rows").as_str()), ("no answer yet", "0"));
    assert_eq!(
        (field(&page, "probe").as_str(), field(&page, "watchers").as_str()),
        ("none needed yet", "none has looked")
    );
    assert!(page.contains("curl http:") && page.contains("/v1/chat/completions"));
    assert_eq!(client.post(&saying("x")).await.status, 200);
    assert!(field(&text(&client.get("/").await), "speed").ends_with("tokens a second in the last answer"));
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let reply = client.get("/").await;
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let policy = reply.header("content-security-policy").expect("a policy").to_owned();
    let nonce = policy.split_once("script-src 'nonce-").and_then(|(_, rest)| rest.split('\'').next()).expect("a nonce");
    let expected = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(policy, expected);
    let page = text(&reply);
    assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "its style and its script");
    assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
    for other in ["src=", "url(", "@import", "<link", "<img", "<iframe", "style=", "onclick", "https:"] {
        assert!(!page.contains(other), "{other}");
    }
    let again = client.get("/").await;
    assert_ne!(again.header("content-security-policy"), Some(policy.as_str()), "a nonce is used once");
}

#[tokio::test]
async fn a_server_that_cannot_answer_says_so_on_its_page_and_by_its_status() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    site.state.lifecycle.phase.advance_because(Phase::Stalled, "no progress <for> 30 s");
    let reply = client.get("/").await;
    let page = text(&reply);
    assert_eq!((reply.status, field(&page, "phase").as_str()), (503, "stalled"));
    assert_eq!(field(&page, "reason"), "no progress &lt;for&gt; 30 s");
}
