//! What the server of a home says of itself while it is ready, in `state/serve.json`, as those read it who watch it. It
//! refuses to know whether that process lives and is the one that its supervisor started: a leftover may lie there.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::ops::state;

/// The part of the file that watchers need.
#[derive(Debug, Deserialize)]
pub(crate) struct Serving {
    /// The process.
    pub(crate) pid: u32,
    /// Where its admin listener is; empty when it does not say.
    #[serde(default)]
    pub(crate) admin: String,
}

impl Serving {
    /// What is said for `home`; `None` when nothing is, or nothing that can be read.
    pub(crate) fn of(home: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state::folder(home).join("serve.json")).ok()?).ok()
    }
}
