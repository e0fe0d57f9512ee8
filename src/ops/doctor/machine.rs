//! What the machine gives: disk, memory, open files, the time of day.

use std::path::Path;

use time::OffsetDateTime;
use time::macros::datetime;

use crate::ops::doctor::system::{System, Tool};
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

/// Certificates cannot be made that far ahead; a clock after it was set by a mistake.
const CLOCK_CEILING: OffsetDateTime = datetime!(2100-01-01 00:00 UTC);
/// Up to this much memory, Metal recommends two thirds of it, above three quarters.
const METAL_SMALL_BYTES: u64 = 36 << 30;

/// What the next start asks of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// 0 when the model's size is not known.
    pub(super) model_bytes: u64,
    /// Open at once.
    pub(super) connections: u64,
    /// What the settings allow for the model and its rows; `None` is what the machine recommends.
    pub(super) memory_bytes: Option<u64>,
}

/// What the machine has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Bytes that the process may use at all.
    pub(super) machine_bytes: u64,
    /// Bytes that the model and its rows get.
    pub(super) budget_bytes: u64,
}

/// Looks at all of it.
pub(super) fn examine(home: &Path, demand: Demand, system: &dyn System) -> Vec<Finding> {
    let machine_bytes = host::memory_bytes_allowed();
    let budget_bytes = demand.memory_bytes.unwrap_or_else(|| recommended(machine_bytes, system));
    let memory = memory(demand.model_bytes, Memory { machine_bytes, budget_bytes });
    vec![disk(home), memory, open_files(demand.connections), clock(OffsetDateTime::now_utc())]
}

/// The working set that the device recommends. MLX is not asked, because it would have to be started: on a Mac it is what
/// the owner set, else Metal's share of the memory; elsewhere it is the server's own share.
pub(super) fn recommended(machine_bytes: u64, system: &dyn System) -> u64 {
    let Some(answer) = system.ask(Tool::Sysctl, &["-n", "iogpu.wired_limit_mb"]) else {
        return machine_bytes / 4 * 3;
    };
    let set = answer.ok().and_then(|ended| ended.stdout.trim().parse::<u64>().ok()).unwrap_or(0);
    if set > 0 {
        return set << 20;
    }
    if machine_bytes <= METAL_SMALL_BYTES { machine_bytes / 3 * 2 } else { machine_bytes / 4 * 3 }
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

pub(super) fn memory(model_bytes: u64, memory: Memory) -> Finding {
    const CHECK: &str = "memory";
    const REMEDY: &str = "name a smaller or a quantised model";
    // Loaded weights and what they need while they are loaded, as measured: 1.3 times their size.
    let needed = model_bytes.saturating_add(model_bytes / 10 * 3).saturating_add(MEMORY_BYTES_BESIDE);
    let (machine, budget) = (size(memory.machine_bytes), size(memory.budget_bytes));
    if model_bytes == 0 {
        return Finding::not_applicable(CHECK, format!("{machine}; what the model needs is not known"));
    }
    if needed > memory.machine_bytes {
        return Finding::fail(CHECK, format!("{machine}, and the model needs about {}", size(needed)), REMEDY);
    }
    let weights = size(model_bytes);
    if model_bytes > memory.budget_bytes {
        let wrong = format!("{budget} of {machine} are for the model, and its weights alone have {weights}");
        return Finding::fail(CHECK, wrong, REMEDY);
    }
    if needed > memory.budget_bytes {
        let wrong = format!("{budget} of {machine} are for the model, whose weights of {weights} leave little beside");
        return Finding::warn(CHECK, wrong, "name a smaller model, or lower rows");
    }
    Finding::ok(CHECK, format!("{budget} of {machine} are for the model, which needs about {}", size(needed)))
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
    if now >= CLOCK_CEILING {
        return Finding::fail(CHECK, format!("it is {day} here, when every certificate has expired"), "set the clock");
    }
    Finding::ok(CHECK, format!("it is {day}"))
}
