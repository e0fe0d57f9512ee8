//! Everything that could stop the next start, each with its remedy. It looks and changes nothing; a look that cannot be
//! made is itself a finding. It refuses to load a model and to know the engine.

mod agents;
mod files;
mod firewall;
mod machine;
mod ports;
mod release;
mod system;
mod weights;

use std::fmt::Write;
use std::path::Path;

pub(crate) use self::files::model_path;
pub(crate) use self::firewall::obstacle as firewall_obstacle;

use serde::Serialize;

use crate::config::args::DoctorArgs;
use crate::config::home;
use crate::config::resolve::resolve;
use crate::config::settings::Settings;
use crate::config::sources::Sources;
use crate::ops::doctor::firewall::Exposure;
use crate::ops::doctor::machine::Demand;
use crate::ops::doctor::system::{Machine, System};
use crate::ops::install;
use crate::ops::supervisor::{self, Supervisor};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// The next start works, but somebody should look.
    Warn,
    /// The next start fails.
    Fail,
    /// It cannot be looked at here, or there is nothing to look at: not a word about whether it is fine.
    NotApplicable,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) grade: Grade,
    /// What was seen.
    pub(crate) detail: String,
    /// What to do about it; empty when nothing is to do.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, detail: detail.into(), remedy: String::new() }
    }

    pub(crate) fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fail, detail: detail.into(), remedy: remedy.into() }
    }

    pub(crate) fn not_applicable(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, grade: Grade::NotApplicable, detail: why.into(), remedy: String::new() }
    }
}

/// `doctor`: prints what was found; whether the next start would work.
///
/// # Errors
/// The findings cannot be written as JSON, which does not happen.
pub fn run(args: &DoctorArgs) -> anyhow::Result<bool> {
    if args.itself {
        let strays = install::strays()?;
        for stray in &strays {
            eprintln!("{} is loaded, and is neither the system's nor part of this release", stray.display());
        }
        return Ok(strays.is_empty());
    }
    let findings = examine(&Sources::of_process(&args.flags), &Machine, &*supervisor::of_system());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", table(&findings));
    }
    Ok(findings.iter().all(|finding| finding.grade != Grade::Fail))
}

fn examine(sources: &Sources<'_>, system: &dyn System, supervisor: &dyn Supervisor) -> Vec<Finding> {
    let resolved = resolve(sources);
    let home = match &resolved {
        Ok(resolved) => Some(resolved.settings.home.clone()),
        Err(_) => home::root(sources.flags.home().as_deref()).ok(),
    };
    let home = home.as_deref();
    let (installation, installed) = home.map(release::installation).unzip();
    let installed = installed.flatten();
    let program = release::program(home, installed.as_ref());
    let program_path = program.as_deref().unwrap_or(Path::new("sanctum-mlx")).to_owned();
    let mut findings: Vec<Finding> = installation.into_iter().collect();
    findings.extend(release::examine(program, system));
    match &resolved {
        Err(mistakes) => {
            let wrong = |mistake: &crate::config::mistakes::Mistake| {
                Finding::fail("configuration", mistake.told(), mistake.remedy())
            };
            findings.extend(mistakes.iter().map(wrong));
            if let Some(home) = home {
                let demand = Demand { model_bytes: 0, connections: 0, memory_bytes: None };
                findings.extend(machine::examine(home, demand, system));
            }
        }
        Ok(resolved) => {
            findings.push(Finding::ok("configuration", "every setting is right; `serve --check` prints them"));
            let warned = |warning: &String| Finding::warn("configuration", warning.as_str(), "rename or unset it");
            findings.extend(resolved.warnings.iter().map(warned));
            findings.extend(configured(&resolved.settings, system));
            findings.push(firewall::examine(&program_path, Exposure::of(&resolved.settings.listen), system));
        }
    }
    findings.extend(agents::loaded(installed.as_ref(), supervisor));
    findings.push(agents::login(system));
    findings
}

/// What the settings lead to.
fn configured(settings: &Settings, system: &dyn System) -> Vec<Finding> {
    let home = &settings.home;
    let (model, model_bytes) = files::model(settings.model.as_deref(), home);
    let mut findings = vec![model];
    match files::model_path(settings.model.as_deref(), home) {
        Some(path) => {
            findings.push(weights::whole(&path, &files::weights(&path)));
            findings.push(weights::signed(home, &path, settings.manifest.as_deref()));
        }
        None => {
            let unknown = |check| Finding::not_applicable(check, "the model is not at a known place on this disk");
            findings.extend(["model files", "manifest"].map(unknown));
        }
    }
    findings.extend([files::home(home), files::logs(home)]);
    findings.extend(files::certificates(home, settings.listen.tls.is_empty()));
    findings.extend(ports::examine(&settings.listen, home));
    let (connections, memory_bytes) = (settings.limits.connections as u64, settings.limits.memory_bytes);
    findings.extend(machine::examine(home, Demand { model_bytes, connections, memory_bytes }, system));
    findings
}

/// The findings as a table; a remedy stands below its finding.
fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, grade, detail, remedy } in findings {
        let word = match grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
            Grade::NotApplicable => "n/a",
        };
        writeln!(text, "{word:4}  {check:width$}  {detail}").expect("a string takes everything");
        if !remedy.is_empty() {
            writeln!(text, "{:4}  {:width$}  → {remedy}", "", "").expect("a string takes everything");
        }
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (fails, warns) = (count(Grade::Fail), count(Grade::Warn));
    let verdict = if fails == 0 { "the next start will work" } else { "the next start will fail" };
    writeln!(text, "\n{verdict}: {fails} failures, {warns} warnings").expect("a string takes everything");
    text
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A path for people, quoted for a shell only where it must be.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
#[path = "system_tests.rs"]
mod system_tests;
