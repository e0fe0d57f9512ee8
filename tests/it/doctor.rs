//! `doctor` on a machine with a server on it: who owns a port, and what a program reads.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::server::{Running, Server};
use crate::support::tiny;

/// The findings about ports, as `doctor --json` tells them for a start on the port of `server`.
fn ports(server: &Running, home: &std::path::Path) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx"))
        .args(["doctor", "--json", "--tls-port", "0", "--port", &server.plain().port().to_string()])
        .arg("--model")
        .arg(tiny())
        .arg("--home")
        .arg(home)
        .output()
        .expect("the binary starts");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code(), findings.into_iter().filter(|finding| finding["check"] == "port").collect())
}

#[test]
fn a_running_server_owns_its_port_and_whoever_else_wants_it_is_told_whose_it_is() {
    let server = Server::new(&tiny()).ready();
    let (_, own) = ports(&server, server.home());
    let held = format!("held by our own server, pid {}", server.pid());
    assert!(own[0]["grade"] == "ok" && own[0]["detail"].as_str().is_some_and(|text| text.ends_with(&held)), "{own:?}");
    let other = TempDir::new().expect("a folder");
    let (code, strange) = ports(&server, &other.path().join("home"));
    let held = format!("held by sanctum-mlx, pid {}", server.pid());
    let detail = strange[0]["detail"].as_str().unwrap_or_default();
    assert!(code == Some(1) && strange[0]["grade"] == "fail" && detail.ends_with(&held), "{strange:?}");
    let remedy = strange[0]["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains(&format!("kill {}", server.pid())), "{remedy}");
}
