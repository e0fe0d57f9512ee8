//! What the machine gives: disk, memory, open files, the time of day.

use std::path::Path;

use time::OffsetDateTime;
use time::macros::datetime;

use crate::ops::doctor::{Finding, quoted, size};
use crate::platform::host;

/// Below this, state and logs cannot be written for long.
const DISK_BYTES_FAIL: u64 = 256 << 20;
/// Below this, the next model does not fit.
const DISK_BYTES_WARN: u64 = 5 << 30;
/// What a server needs beside its weights.
const MEMORY_BYTES_BESIDE: u64 = 150 << 20;
/// Open files beside connections: models, logs, listeners.
const FILES_BESIDE: u64 = 64;
/// Nothing of ours is older; a clock before it makes every certificate invalid.
const CLOCK_FLOOR: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

/// Looks at all of it. `model_bytes` is 0 when the model's size is not known.
pub(super) fn examine(home: &Path, model_bytes: u64, connections: u64) -> Vec<Finding> {
    let now = OffsetDateTime::now_utc();
    vec![disk(home), memory(model_bytes, host::memory_bytes()), open_files(connections), clock(now)]
}

fn disk(home: &Path) -> Finding {
    const CHECK: &str = "disk";
    let Some(folder) = home.ancestors().find(|folder| folder.exists()) else {
        return Finding::fail(CHECK, format!("nothing of {} is there", quoted(home)), "name another root with --home");
    };
    let remedy = "remove models that are not used, or name another root with --home";
    match host::disk_bytes_free(folder) {
        Err(error) => Finding::warn(CHECK, format!("{}: {error}", quoted(folder)), remedy),
        Ok(free) if free < DISK_BYTES_FAIL => Finding::fail(CHECK, format!("{} free", size(free)), remedy),
        Ok(free) if free < DISK_BYTES_WARN => Finding::warn(CHECK, format!("{} free", size(free)), remedy),
        Ok(free) => Finding::ok(CHECK, format!("{} free at {}", size(free), quoted(folder))),
    }
}

pub(super) fn memory(model_bytes: u64, machine_bytes: u64) -> Finding {
    const CHECK: &str = "memory";
    // Loaded weights and what they need while they are loaded, as measured: 1.3 times their size.
    let needed = model_bytes.saturating_add(model_bytes / 10 * 3).saturating_add(MEMORY_BYTES_BESIDE);
    let machine = size(machine_bytes);
    if model_bytes == 0 {
        return Finding::ok(CHECK, format!("{machine}; what the model needs is not known"));
    }
    if needed > machine_bytes {
        let wrong = format!("{machine}, and the model needs about {}", size(needed));
        return Finding::fail(CHECK, wrong, "name a smaller or a quantised model");
    }
    Finding::ok(CHECK, format!("{machine}; the model needs about {}", size(needed)))
}

fn open_files(connections: u64) -> Finding {
    const CHECK: &str = "open files";
    let needed = connections + FILES_BESIDE;
    match host::open_files_limit() {
        Err(error) => Finding::warn(CHECK, format!("the limit cannot be read ({error})"), "look at `ulimit -Hn`"),
        Ok((_, hard)) if hard < needed => {
            let remedy =
                format!("raise it to {needed} (`ulimit -Hn`, or NumberOfFiles in the plist), or lower connections");
            Finding::fail(CHECK, format!("hard limit {hard}, needed {needed}"), remedy)
        }
        Ok((soft, _)) => Finding::ok(CHECK, format!("soft limit {soft}, raised at start to what is needed ({needed})")),
    }
}

pub(super) fn clock(now: OffsetDateTime) -> Finding {
    const CHECK: &str = "clock";
    let day = now.date();
    if now < CLOCK_FLOOR {
        return Finding::fail(CHECK, format!("it is {day} here, so no certificate is valid yet"), "set the clock");
    }
    Finding::ok(CHECK, format!("it is {day}"))
}
