//! S12: the most that the server ever has in memory, beside what its weights and its rows must take.

use std::fs;

use sanctum_mlx::engine::backend::Backend;
use serde_json::json;

use crate::effort::Effort;
use crate::report::Row;
use crate::served::Served;
use crate::words::Words;
use crate::{site, stream, tax};

/// Rows that run at once.
const ROWS: usize = 8;
/// Sizes of each.
const PROMPT_TOKENS: usize = 512;
const TOKENS: u32 = 256;
/// The same again and again: what grows by each round would be seen.
const ROUNDS: usize = 4;
/// What a process may have besides rows.
const WEIGHTS_FACTOR: f64 = 1.15;
const BYTES_BESIDE: f64 = 150e6;

pub fn rows(effort: Effort) -> Vec<Row> {
    let kv = ROWS as f64 * row_bytes(effort);
    let server = Served::start(["--prefix-cache-mb", "0"]);
    let (words, process) = (Words::new(site::text()), server.process());
    let mut peaks = Vec::new();
    for _ in 0..effort.of(ROUNDS, 1) {
        let body = || stream::conversation(&words.unique(PROMPT_TOKENS), tokens(effort)).to_string();
        server.ask_all(&(0..ROWS).map(|_| body()).collect::<Vec<_>>());
        peaks.push(process.status("VmHWM") * 1024.0);
    }
    let (first, last) = (peaks[0], peaks[peaks.len() - 1]);
    let weights = file_bytes();
    let limit = WEIGHTS_FACTOR * weights + kv + BYTES_BESIDE;
    let resident = process.status("VmRSS") * 1024.0;
    vec![Row {
        id: "S12",
        what: format!("peak RSS, {ROWS} rows of {PROMPT_TOKENS} + {} tokens, {} rounds", tokens(effort), peaks.len()),
        measured: format!(
            "{:.0} MB of {:.0}: weights {:.0}, KV {:.0}; after round 1 {:.0}; at the end {:.0} resident",
            last / 1e6,
            limit / 1e6,
            weights / 1e6,
            kv / 1e6,
            first / 1e6,
            resident / 1e6
        ),
        target: "≤ 1.15 × weights + KV + 150 MB",
        met: effort.verdict(last <= limit),
        figures: json!({"peaks": peaks, "limit_bytes": limit, "weight_bytes": weights, "kv_bytes": kv,
                        "resident_bytes": resident}),
    }]
}

fn tokens(effort: Effort) -> u32 {
    effort.of(TOKENS, 16)
}

/// What the keys and values of one row take at its end, as admission counts them.
fn row_bytes(effort: Effort) -> f64 {
    let runner = tax::load().expect("it loads");
    runner.capacity().memory.row_bytes(PROMPT_TOKENS as u32 + tokens(effort)) as f64
}

/// The model's files; in memory the weights stay in the coding that they have there.
fn file_bytes() -> f64 {
    let files = fs::read_dir(site::model_folder()).expect("the default model; run scripts/setup").flatten();
    let weights =
        files.filter(|file| file.path().extension().is_some_and(|kind| kind == "gguf" || kind == "safetensors"));
    weights.map(|file| file.metadata().expect("the file is there").len()).sum::<u64>() as f64
}
