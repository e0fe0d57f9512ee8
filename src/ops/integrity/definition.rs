//! The definition that the supervisor reads at the next login: it is there, can be read, names the program, and leaves the
//! server the time to drain; and it is loaded. A server whose definition is loaded by nobody is not supervised: it answers
//! until it ends, and then nobody starts it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::ops::integrity::Facts;

/// Beyond its drain a server needs this long to be gone.
const GRACE_SECONDS: u64 = 2;

/// What a definition says that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    program: PathBuf,
    /// How long after the request to end the process is killed; `None` leaves it to the supervisor.
    stop_seconds: Option<u64>,
}

/// The definition is loaded, is there, names the program, and leaves time to drain.
pub(super) fn of(facts: &Facts) -> Vec<String> {
    let mut wrong = boots(facts);
    if let Some(path) = path(facts)
        && let Ok(said) = read(&path)
    {
        wrong.extend(hurried(&path, &said, facts.drain_seconds + GRACE_SECONDS));
    }
    wrong
}

/// The same without the time: a server that is cut short in its drain starts again all the same.
pub(super) fn boots(facts: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    if facts.service.is_none() {
        wrong.push(match facts.serving {
            Some(pid) => format!("process {pid} serves, yet {} is not loaded: nobody would start it again", facts.name),
            None => format!("{} is not loaded: nobody starts the server", facts.name),
        });
    }
    match path(facts) {
        Some(path) => wrong.extend(of_file(facts, &path)),
        None => {
            wrong.extend(facts.service.iter().map(|_| "the supervisor does not say which file defines it".to_owned()));
        }
    }
    wrong
}

/// By the supervisor's word, else where an installation wrote it.
fn path(facts: &Facts) -> Option<PathBuf> {
    let said = facts.service.as_ref().and_then(|service| service.definition.clone());
    let agent = facts.installed.as_ref().and_then(|installed| installed.agents.first());
    said.or_else(|| Some(agent?.definitions.first()?.path.clone()))
}

fn of_file(facts: &Facts, path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_file() {
        return Some(format!("{shown} is gone, which defines the service"));
    }
    match (read(path), facts.program()) {
        (Err(error), _) => Some(format!("{shown}: {error:#}")),
        (Ok(said), Some(program)) if said.program != program => {
            let named = said.program.display();
            Some(format!("{shown} names {named}, and {} is what is executed", program.display()))
        }
        (Ok(_), _) => None,
    }
}

fn hurried(path: &Path, said: &Said, least: u64) -> Option<String> {
    let shown = path.display();
    match said.stop_seconds {
        Some(seconds) if seconds > least => None,
        Some(seconds) => {
            Some(format!("{shown} lets the server end within {seconds} s; with its drain it takes {least}"))
        }
        None => {
            Some(format!("{shown} does not say how long the server may take to end; with its drain it takes {least}"))
        }
    }
}

/// The program that a definition names.
pub(super) fn program(path: &Path) -> anyhow::Result<PathBuf> {
    Ok(read(path)?.program)
}

fn read(path: &Path) -> anyhow::Result<Said> {
    if path.extension().is_some_and(|extension| extension == "plist") {
        return read_plist(path);
    }
    read_unit(&fs::read_to_string(path)?)
}

/// launchd's: a property list.
fn read_plist(path: &Path) -> anyhow::Result<Said> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Agent {
        program: Option<PathBuf>,
        #[serde(default)]
        program_arguments: Vec<PathBuf>,
        exit_time_out: Option<u64>,
    }
    let agent: Agent = plist::from_file(path)?;
    let program = agent.program.or_else(|| agent.program_arguments.into_iter().next());
    Ok(Said {
        program: program.context("it names neither Program nor ProgramArguments")?,
        stop_seconds: agent.exit_time_out,
    })
}

/// systemd's: `Key=value` lines in sections; the last one of a key counts.
fn read_unit(text: &str) -> anyhow::Result<Said> {
    let mut section = "";
    let (mut program, mut stop_seconds) = (None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else { continue };
        match key.trim() {
            "ExecStart" => program = Some(first_word(value.trim())?),
            "TimeoutStopSec" => {
                let seconds = value.trim().trim_end_matches('s').parse();
                stop_seconds = Some(seconds.with_context(|| format!("TimeoutStopSec={value}: wants whole seconds"))?);
            }
            _ => {}
        }
    }
    Ok(Said { program: program.context("it has no ExecStart in [Service]")?, stop_seconds })
}

/// The program in a command line, as systemd quotes it: behind prefixes, within quotes, with `%%` for a percent sign.
fn first_word(line: &str) -> anyhow::Result<PathBuf> {
    let mut word = String::new();
    let line = line.trim_start_matches([':', '-', '@', '+', '!']);
    let quoted = line.starts_with('"');
    let mut letters = line.chars().skip(usize::from(quoted));
    loop {
        match letters.next() {
            Some('"') if quoted => break,
            Some(' ') | None if !quoted => break,
            Some('\\') => word.extend(letters.next()),
            Some('%') if letters.clone().next() == Some('%') => word.extend(letters.next()),
            Some(letter) => word.push(letter),
            None => bail!("ExecStart={line}: a quote is not closed"),
        }
    }
    Ok(word.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_property_list_and_a_unit_say_the_program_and_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plist");
        let list = r#"<?xml version="1.0"?><plist version="1.0"><dict><key>Label</key><string>x</string>
            <key>ProgramArguments</key><array><string>/a b/x</string><string>serve</string></array>
            <key>ExitTimeOut</key><integer>40</integer></dict></plist>"#;
        fs::write(&path, list).unwrap();
        assert_eq!(read(&path).unwrap(), Said { program: "/a b/x".into(), stop_seconds: Some(40) });
        for torn in ["<plist version=\"1.0\"><dict>", "<plist version=\"1.0\"><dict></dict></plist>", ""] {
            fs::write(&path, torn).unwrap();
            read(&path).unwrap_err();
        }
        let unit = "[Unit]\nExecStart=/no\n[Service]\nExecStart=:\"/a \\\"b/100%%\" serve\nTimeoutStopSec=40\n";
        assert_eq!(read_unit(unit).unwrap(), Said { program: "/a \"b/100%".into(), stop_seconds: Some(40) });
        let plain = read_unit("[Service]\nExecStart=/a/b serve\n").unwrap();
        assert_eq!(plain, Said { program: "/a/b".into(), stop_seconds: None });
        for wrong in ["", "[Service]\nExecStart=\"/a", "[Service]\nExecStart=/a\nTimeoutStopSec=long\n"] {
            read_unit(wrong).unwrap_err();
        }
    }
}
