//! The programs of the system that know what we cannot read ourselves: signatures, the firewall, who logs in by itself. It
//! owns where they lie and that asking them ends; it refuses to read their answers.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::platform::child::{self, Ended};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A program that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// Proves that code is as it was signed; macOS.
    Codesign,
    /// The application firewall; macOS.
    Firewall,
    /// Settings of the system; macOS.
    Defaults,
    /// Facts about the kernel; macOS.
    Sysctl,
    /// Sessions and users; Linux under systemd.
    Loginctl,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Codesign => "codesign",
            Self::Firewall => "socketfilterfw",
            Self::Defaults => "defaults",
            Self::Sysctl => "sysctl",
            Self::Loginctl => "loginctl",
        }
    }
}

/// Whoever can be asked.
pub(super) trait System {
    /// What `tool` says to `words`; `None` where there is no such program.
    fn ask(&self, tool: Tool, words: &[&str]) -> Option<io::Result<Ended>>;
}

/// The machine that we run on.
#[derive(Debug)]
pub(super) struct Machine;

impl System for Machine {
    fn ask(&self, tool: Tool, words: &[&str]) -> Option<io::Result<Ended>> {
        let program = folder(tool)?.join(tool.name());
        Some(child::run(Command::new(program).args(words), b"", ANSWER_LIMIT))
    }
}

/// Where a program lies: on a Mac where only the system writes, elsewhere wherever the shell finds it.
fn folder(tool: Tool) -> Option<&'static Path> {
    let (on_mac, folder) = match tool {
        Tool::Codesign | Tool::Defaults => (true, "/usr/bin"),
        Tool::Firewall => (true, "/usr/libexec/ApplicationFirewall"),
        Tool::Sysctl => (true, "/usr/sbin"),
        // The folder is how systemd itself says that it manages this machine.
        Tool::Loginctl if !Path::new("/run/systemd/system").is_dir() => return None,
        Tool::Loginctl => (false, ""),
    };
    (on_mac == cfg!(target_os = "macos")).then_some(Path::new(folder))
}
