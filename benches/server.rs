//! What the server adds to the engine, in time, memory and idle cost: the rows S1, S2, S3, S10, S12 and S13 of the
//! performance page, and health under load. It prints a table, the rows not met first, and a JSON line per row; it never
//! judges a run by its figures, because foreign load moves all of them.
//!
//! `cargo bench --bench server` measures everything, `cargo bench --bench server -- S1 S2` only the groups named: S1, S2,
//! S3, and `process` for the rest. Needs the default model, which `scripts/setup` fetches, and Linux for `/proc`.

#[path = "server/host.rs"]
mod host;
#[path = "server/null.rs"]
mod null;
#[path = "server/process.rs"]
mod process;
#[path = "server/report.rs"]
mod report;
#[path = "server/site.rs"]
mod site;
#[path = "server/stats.rs"]
mod stats;
#[path = "server/stream.rs"]
mod stream;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "the bench needs the client and the process only")]
mod support;
#[path = "server/system.rs"]
mod system;
#[path = "server/tax.rs"]
mod tax;

use report::Row;

/// Measures a group of rows.
type Measure = fn() -> Vec<Row>;

/// The groups in the order in which they run: those that share the process before those that start their own.
const GROUPS: [(&str, Measure); 4] =
    [("S2", host::per_token), ("S3", host::first_token), ("S1", || vec![tax::row()]), ("process", process::rows)];

fn main() {
    // Cargo adds `--bench`.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    let mut rows = Vec::new();
    for (name, measure) in GROUPS {
        if wanted(name) {
            eprintln!("measuring {name}");
            rows.extend(measure());
        }
    }
    report::print(rows);
}
