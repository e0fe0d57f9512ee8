//! What the server adds to the engine, in time, memory and idle cost, and what many clients do to each other: the rows S1
//! to S5, S7 to S10, S12 and S13 of the performance page, health under load, and the cost of answers kept to a JSON schema.
//! It prints a table, the rows not met first, and a JSON line per row; it never judges a run by its figures, because
//! foreign load moves all of them.
//!
//! `cargo bench --bench server` measures everything, `cargo bench --bench server -- S1 S5` only the groups named: S1 to S5,
//! S7, S8, S9, S12, `json`, and `process` for the rest. With `--quick` one round of each is measured, and nothing is
//! judged. Needs the default model, which `scripts/setup` fetches, and Linux for `/proc`.

#[path = "server/batching.rs"]
mod batching;
#[path = "server/blocks.rs"]
mod blocks;
#[path = "server/cancel.rs"]
mod cancel;
#[path = "server/effort.rs"]
mod effort;
#[path = "server/goodput.rs"]
mod goodput;
#[path = "server/host.rs"]
mod host;
#[path = "server/interference.rs"]
mod interference;
#[path = "server/memory.rs"]
mod memory;
#[path = "server/null.rs"]
mod null;
#[path = "server/prefix.rs"]
mod prefix;
#[path = "server/process.rs"]
mod process;
#[path = "server/report.rs"]
mod report;
#[path = "server/served.rs"]
mod served;
#[path = "server/site.rs"]
mod site;
#[path = "server/stats.rs"]
mod stats;
#[path = "server/stream.rs"]
mod stream;
#[path = "server/structured.rs"]
mod structured;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "the bench needs the client and the process only")]
mod support;
#[path = "server/system.rs"]
mod system;
#[path = "server/tax.rs"]
mod tax;
#[path = "server/watched.rs"]
mod watched;
#[path = "server/words.rs"]
mod words;

use effort::Effort;
use report::Row;

/// Measures a group of rows.
type Measure = fn(Effort) -> Vec<Row>;

/// The groups in the order in which they run: those that share the process before those that start their own.
const GROUPS: [(&str, Measure); 11] = [
    ("S2", |_| host::per_token()),
    ("S3", |_| host::first_token()),
    ("S1", |_| vec![tax::row()]),
    ("S9", cancel::rows),
    ("S5", batching::rows),
    ("json", structured::rows),
    ("S4", prefix::rows),
    ("S7", interference::rows),
    ("S8", goodput::rows),
    ("S12", memory::rows),
    ("process", |_| process::rows()),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let effort = if arguments.iter().any(|argument| argument == "--quick") { Effort::Quick } else { Effort::Full };
    // Cargo adds `--bench`.
    let named: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|named| *named == name);
    let mut rows = Vec::new();
    for (name, measure) in GROUPS {
        if wanted(name) {
            eprintln!("measuring {name}");
            rows.extend(measure(effort));
        }
    }
    report::print(rows);
}
