//! What `launchctl` says and exits with, as macOS 15 does.

use std::path::Path;

use super::Loaded;
use super::definition::of_plist;
use super::job::Job;

/// What is not understood, or not known to the double.
const USAGE: (i32, &str) = (64, "Unrecognized subcommand.\n");

/// One call: the exit code, and what is said.
pub fn call(loaded: &mut Loaded, words: &[&str]) -> (i32, String) {
    let told = |(code, words): (i32, &str)| (code, words.to_owned());
    match words {
        ["print", target] => print(loaded, target),
        ["bootstrap", _domain, path] => bootstrap(loaded, Path::new(path)),
        ["bootout", target] => match loaded.jobs.get_mut(name(target)) {
            None => told((3, "Boot-out failed: 3: No such process\n")),
            Some(job) => {
                job.stop();
                job.leaving = true;
                (0, String::new())
            }
        },
        ["kickstart", "-k", target] => with(loaded, target, Job::restart),
        ["kickstart", target] => with(loaded, target, Job::start),
        [word @ ("enable" | "disable"), target] => {
            loaded.enabled.insert(name(target).to_owned(), *word == "enable");
            (0, String::new())
        }
        _ => told(USAGE),
    }
}

/// `gui/501/LABEL` names the label.
fn name(target: &str) -> &str {
    target.rsplit('/').next().unwrap_or(target)
}

fn with(loaded: &mut Loaded, target: &str, act: impl Fn(&mut Job)) -> (i32, String) {
    match loaded.jobs.get_mut(name(target)) {
        Some(job) => {
            act(job);
            (0, String::new())
        }
        None => unknown(target),
    }
}

fn unknown(target: &str) -> (i32, String) {
    (113, format!("Could not find service \"{}\" in domain for user gui\n", name(target)))
}

fn bootstrap(loaded: &mut Loaded, path: &Path) -> (i32, String) {
    let failed = (5, "Bootstrap failed: 5: Input/output error\n".to_owned());
    let definition = match of_plist(path, loaded.scale) {
        Ok(definition) => definition,
        Err(why) => return (failed.0, format!("{}{why}\n", failed.1)),
    };
    if !loaded.enabled.get(&definition.name).copied().unwrap_or(!definition.disabled) {
        return (119, "Bootstrap failed: 119: Service is disabled\n".to_owned());
    }
    if loaded.jobs.contains_key(&definition.name) {
        return failed;
    }
    loaded.jobs.insert(definition.name.clone(), Job::new(definition));
    (0, String::new())
}

fn print(loaded: &Loaded, target: &str) -> (i32, String) {
    let Some(job) = loaded.jobs.get(name(target)) else { return unknown(target) };
    let definition = &job.definition;
    let state = if job.pid().is_some() { "running" } else { "not running" };
    let arguments: String = definition.words.iter().map(|word| format!("\t\t{word}\n")).collect();
    let end = match job.last_end {
        None => "\tlast exit code = (never exited)\n".to_owned(),
        Some(code @ 0..) => format!("\tlast exit code = {code}{}\n", sysexit(code)),
        Some(signal) => format!("\tlast terminating signal = {}\n", -signal),
    };
    let pid = job.pid().map(|pid| format!("\tpid = {pid}\n")).unwrap_or_default();
    let text = format!(
        "{target} = {{\n\tactive count = {}\n\tpath = {}\n\ttype = LaunchAgent\n\tstate = {state}\n\n\tprogram = {}\n\
         \targuments = {{\n{arguments}\t}}\n\n\tenvironment = {{\n\t\tXPC_SERVICE_NAME => {}\n\t}}\n\n\
         \texit timeout = {}\n\truns = {}\n{pid}{end}}}\n",
        u8::from(job.pid().is_some()),
        definition.path.display(),
        definition.words[0],
        definition.name,
        definition.exit.as_secs(),
        job.runs,
    );
    (0, text)
}

/// The name that sysexits.h has for a code.
fn sysexit(code: i32) -> &'static str {
    match code {
        64 => ": EX_USAGE",
        70 => ": EX_SOFTWARE",
        71 => ": EX_OSERR",
        75 => ": EX_TEMPFAIL",
        78 => ": EX_CONFIG",
        _ => "",
    }
}
