//! `probe …`: one look, one JSON line on stdout, one exit code, for whoever types or schedules it. It refuses to restart
//! anything and to call anybody: that is the guardian's and the canary's.

use std::time::Duration;

use crate::client::Client;
use crate::config::args::{ProbeArgs, ProbeKind};
use crate::config::home;
use crate::ops::integrity;
use crate::ops::look::{self, Seen};
use crate::ops::target::Target;
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::plan::Canary;
use crate::ops::watch::tick::{Health, Tick, Watcher};

const OK: Kind = Kind::info("probe_ok");
const BUSY: Kind = Kind::warn("probe_busy");
const FAILED: Kind = Kind::error("probe_failed");
const CANNOT_RUN: Kind = Kind::error("probe_cannot_run");

/// Looks once, prints one line, and says how it ended.
#[must_use]
pub fn run(args: &ProbeArgs) -> Health {
    let (name, usual, look): (_, _, fn(&Client) -> Seen) = match &args.kind {
        ProbeKind::Http => ("probe-http", look::MODELS_LIMIT, look::models),
        ProbeKind::Chat => ("probe-chat", look::CHAT_LIMIT, ask),
        ProbeKind::Integrity(integrity) => return integrity::run(args, integrity),
    };
    let home = home::root(args.server.root.home.as_deref()).ok();
    let tick = Tick::begin(Watcher { name, every: None }, home.as_deref());
    let (transport, seen) = match prepare(args, usual) {
        Ok((client, transport)) => (transport, look(&client)),
        Err(error) => ("none", Seen::CannotLook(format!("{error:#}"))),
    };
    let (health, event) = judge(seen);
    tick.end(health, transport, vec![event], None)
}

fn prepare(args: &ProbeArgs, usual: Duration) -> anyhow::Result<(Client, &'static str)> {
    let limit = look::limit(args.timeout_seconds, usual)?;
    let target = Target::of(&args.server)?;
    Ok((target.client(limit)?, target.transport()))
}

fn ask(client: &Client) -> Seen {
    let Canary { question, expected } = Canary::default();
    look::chat(client, &question, &expected)
}

fn judge(seen: Seen) -> (Health, Event) {
    match seen {
        Seen::Fine(detail) => (Health::Healthy, OK.with(detail)),
        Seen::Busy(detail) => (Health::Unhealthy, BUSY.with(detail)),
        Seen::Failed(detail) => (Health::Unhealthy, FAILED.with(detail)),
        Seen::CannotLook(detail) => (Health::CannotRun, CANNOT_RUN.with(detail)),
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
