//! What the outside is told about a running server: the lines on stderr and `state/serve.json`, which is written at once
//! or not at all when the server is ready, and removed when it ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::platform::files;

/// The file that names what was bound.
#[derive(Debug, Clone)]
pub(super) struct StateFile(PathBuf);

/// Every address that was bound.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) plain: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
    pub(super) admin: SocketAddr,
}

impl Bound {
    /// Said as soon as the sockets listen, before the model is loaded.
    pub(super) fn listening(&self) -> String {
        let list = |addresses: &[SocketAddr]| match addresses {
            [] => "off".to_owned(),
            addresses => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        };
        format!("listening: plain {}, tls {}, admin {}", list(&self.plain), list(&self.tls), self.admin)
    }
}

impl StateFile {
    pub(super) fn at(home: &Path) -> Self {
        Self(home.join("state").join("serve.json"))
    }

    /// Writes it.
    pub(super) fn write(&self, bound: &Bound, model: &str) -> io::Result<()> {
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let state = json!({
            "pid": std::process::id(),
            "plain": texts(&bound.plain),
            "tls": texts(&bound.tls),
            "admin": bound.admin.to_string(),
            "model": model,
            "version": env!("CARGO_PKG_VERSION"),
        });
        files::keep(&self.0, format!("{state}\n").as_bytes(), 0o600)
    }

    /// Removes it, if it is still ours: the next process may have written its own.
    pub(super) fn remove(&self) {
        let Ok(text) = std::fs::read_to_string(&self.0) else { return };
        let ours = serde_json::from_str::<serde_json::Value>(&text)
            .is_ok_and(|state| state["pid"].as_u64() == Some(u64::from(std::process::id())));
        if ours {
            // It is a hint for people and tools; a leftover is recognised by its pid.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
