//! How long ago each watcher last looked, as the server shows it in `/metrics` and `/health`: the watchers watch the
//! server, and here it watches them. It owns the names; it refuses to know what they look for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;

/// The watchers that are scheduled.
pub const NAMES: [&str; 5] = ["canary", "drift", "guardian", "integrity", "parity-smoke"];

/// Labels of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    /// One of [`NAMES`].
    pub name: &'static str,
}

/// Seconds since each watcher's last tick, as of the last look. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Companions {
    /// By name; one that never ran is not there.
    pub family: Family<Labels, Gauge<f64, AtomicU64>>,
    ages: Arc<Mutex<BTreeMap<&'static str, f64>>>,
}

/// What is read of a watcher's file.
#[derive(Debug, Deserialize)]
struct Last {
    /// Unix seconds.
    at: u64,
}

impl Companions {
    /// The ages at the last look.
    #[must_use]
    pub fn ages(&self) -> BTreeMap<&'static str, f64> {
        self.ages.lock().clone()
    }

    /// Reads what the watchers left in the state folder.
    pub fn look(&self, state: &Path) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut ages = BTreeMap::new();
        for name in NAMES {
            let text = fs::read(state.join(format!("{name}.last.json")));
            let last = text.ok().and_then(|text| serde_json::from_slice::<Last>(&text).ok());
            let Some(Last { at }) = last else {
                self.family.remove(&Labels { name });
                continue;
            };
            #[allow(clippy::cast_precision_loss)] // Seconds since 1970 are far below 2^53.
            let age = now.saturating_sub(at) as f64;
            self.family.get_or_create(&Labels { name }).set(age);
            ages.insert(name, age);
        }
        *self.ages.lock() = ages;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_of_those_that_ran_and_a_removed_or_torn_file_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let companions = Companions::default();
        fs::write(folder.path().join("canary.last.json"), r#"{"at":0,"healthy":true}"#).unwrap();
        fs::write(folder.path().join("stranger.last.json"), r#"{"at":0}"#).unwrap();
        fs::write(folder.path().join("drift.last.json"), r#"{"at"#).unwrap();
        companions.look(folder.path());
        let ages = companions.ages();
        assert!(ages.len() == 1 && ages["canary"] > 1e9, "{ages:?}");
        fs::remove_file(folder.path().join("canary.last.json")).unwrap();
        companions.look(folder.path());
        assert!(companions.ages().is_empty());
    }
}
