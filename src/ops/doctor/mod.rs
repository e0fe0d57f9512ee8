//! Everything that could stop the next start, each with its remedy. It looks and changes nothing; a look that cannot be
//! made is itself a finding. It refuses to load a model and to know the engine.

mod files;
mod machine;
mod ports;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::config::args::DoctorArgs;
use crate::config::home;
use crate::config::resolve::resolve;
use crate::config::sources::Sources;
use crate::ops::install;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// The next start works, but somebody should look.
    Warn,
    /// The next start fails.
    Fail,
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
    let findings = examine(&Sources::of_process(&args.flags));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", table(&findings));
    }
    Ok(findings.iter().all(|finding| finding.grade != Grade::Fail))
}

fn examine(sources: &Sources<'_>) -> Vec<Finding> {
    let mut findings = vec![files::binary()];
    match resolve(sources) {
        Err(mistakes) => {
            let wrong = |mistake: &crate::config::mistakes::Mistake| {
                Finding::fail("configuration", mistake.told(), mistake.remedy())
            };
            findings.extend(mistakes.iter().map(wrong));
            let flag = sources.flags.home();
            if let Ok(home) = home::root(flag.as_deref()) {
                findings.extend(machine::examine(&home, 0, 0));
            }
        }
        Ok(resolved) => {
            let settings = &resolved.settings;
            findings.push(Finding::ok("configuration", "every setting is right; `serve --check` prints them"));
            findings.extend(
                resolved
                    .warnings
                    .iter()
                    .map(|warning| Finding::warn("configuration", warning.as_str(), "rename or unset it")),
            );
            let (model, model_bytes) = files::model(settings.model.as_deref(), &settings.home);
            findings.extend([model, files::home(&settings.home)]);
            findings.extend(files::certificates(&settings.home, settings.listen.tls.is_empty()));
            findings.extend(ports::examine(&settings.listen, &settings.home));
            findings.extend(machine::examine(&settings.home, model_bytes, settings.limits.connections as u64));
        }
    }
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
