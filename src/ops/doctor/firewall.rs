//! The application firewall of macOS: whether it keeps others from listeners that are meant for them. It changes nothing.

use std::path::Path;

use crate::config::settings::Listen;
use crate::ops::doctor::system::{Machine, System, Tool};
use crate::ops::doctor::{Finding, Grade, quoted};

/// Who can reach the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    /// This machine alone.
    Loopback,
    /// Other machines too.
    Network,
}

impl Exposure {
    pub(super) fn of(listen: &Listen) -> Self {
        let mut addresses = listen.plain.iter().chain(&listen.tls).chain([&listen.admin]);
        if addresses.all(|address| address.ip().is_loopback()) { Self::Loopback } else { Self::Network }
    }
}

/// What keeps others from listeners of `program` that are meant for them, with its remedy.
pub(crate) fn obstacle(program: &Path, listen: &Listen) -> Option<String> {
    let Finding { grade, detail, remedy, .. } = examine(program, Exposure::of(listen), &Machine);
    matches!(grade, Grade::Warn | Grade::Fail).then(|| format!("{detail}: {remedy}"))
}

/// Whether it lets others reach `program`.
pub(super) fn examine(program: &Path, exposure: Exposure, system: &dyn System) -> Finding {
    const CHECK: &str = "firewall";
    const TOOL: &str = "sudo /usr/libexec/ApplicationFirewall/socketfilterfw";
    let ask = |words: &[&str]| {
        system
            .ask(Tool::Firewall, words)
            .map(|answer| answer.map_or_else(|error| error.to_string(), |ended| ended.words()))
    };
    let Some(state) = ask(&["--getglobalstate"]) else {
        return Finding::not_applicable(CHECK, "only the application firewall of macOS is looked at");
    };
    // "Firewall is enabled. (State = 1)"
    match state.split_once("State = ").and_then(|(_, rest)| rest.chars().next()) {
        Some('0') => return Finding::ok(CHECK, "is off"),
        Some('1' | '2') if exposure == Exposure::Loopback => {
            return Finding::ok(CHECK, "is on, and does not touch the loopback addresses that are listened on");
        }
        Some('1') => {}
        Some('2') => {
            return Finding::warn(
                CHECK,
                "it blocks every connection from outside",
                format!("{TOOL} --setblockall off"),
            );
        }
        _ => return Finding::warn(CHECK, state, "look in System Settings, Network, Firewall"),
    }
    let path = program.to_string_lossy();
    let words = ask(&["--getappblocked", &path]).unwrap_or_default();
    if words.contains("permitted") {
        return Finding::ok(CHECK, format!("is on: {words}"));
    }
    let shown = quoted(program);
    Finding::warn(CHECK, words, format!("{TOOL} --add {shown} && {TOOL} --unblockapp {shown}"))
}
