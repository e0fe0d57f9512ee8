//! What the process tests share: a server under test, a socket that speaks HTTP byte by byte, waiting with a deadline.

pub mod default_text;
pub mod http;
pub mod models;
pub mod server;
pub mod site;
pub mod supervisor;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How late a deadline row may be observed, by the rule of the guarantees.
pub const SLACK: Duration = Duration::from_millis(250);
/// A condition that has not come true after this long never will.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `condition` gives a value.
///
/// # Panics
/// When it gives none within [`PATIENCE`].
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The line that `scripts/guarantees` collects.
pub fn tell_trials(row: &str, run: usize, promised: usize) {
    println!("{row}, {run} trials run, {promised} trials promised");
    assert!(run >= promised, "row {row}: fewer trials than promised");
}

/// Trials of a row: the test tier's number, or what `SANCTUM_MLX_TRIALS` says (`scripts/deep`).
pub fn trials(test_tier: usize) -> usize {
    std::env::var("SANCTUM_MLX_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(test_tier)
}

/// A tiny llama with random weights as a GGUF file, written once for all tests of a process.
pub fn tiny() -> PathBuf {
    static TINY: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tiny-{}.gguf", std::process::id()));
        std::fs::write(&path, models::tiny_gguf(1).0).expect("the folder of the tests is writable");
        path
    });
    TINY.clone()
}
