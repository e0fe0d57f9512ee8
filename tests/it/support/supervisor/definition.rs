//! The definitions of services as the doubles read them: real property lists and real units, of which they know the keys
//! that ours use. A key that is not known is a mistake of the test that wrote it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plist::Value;

/// What launchd waits between two starts when nothing is said.
const THROTTLE_SECONDS: u64 = 10;
/// What it waits for an end then.
const EXIT_SECONDS: u64 = 20;

/// From when the pause before a service is started again is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// launchd: from one start to the next.
    BetweenStarts(Duration),
    /// systemd: from the end to the next start.
    AfterEnd(Duration),
}

/// One service.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub path: PathBuf,
    /// The program and its arguments; empty for a timer.
    pub words: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub at_load: bool,
    pub keep_alive: bool,
    pub pause: Pause,
    /// How long it may take to end before it is killed.
    pub exit: Duration,
    pub every: Option<Duration>,
    /// What a timer starts.
    pub starts: Option<String>,
    /// Unless someone enabled it.
    pub disabled: bool,
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
}

fn seconds(seconds: f64, scale: f64) -> Duration {
    Duration::from_secs_f64(seconds * scale)
}

/// Reads a property list; its throttle and interval are multiplied by `scale`.
pub fn of_plist(path: &Path, scale: f64) -> Result<Definition, String> {
    let value = Value::from_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut list = value.into_dictionary().ok_or("no dictionary")?;
    let mut take = |key: &str| list.remove(key);
    let text = |value: Option<Value>| value.and_then(Value::into_string);
    let number = |value: Option<Value>| value.and_then(|value| value.as_unsigned_integer());
    let yes = |value: Option<Value>| value.and_then(|value| value.as_boolean()) == Some(true);
    let words = take("ProgramArguments").and_then(Value::into_array).ok_or("no ProgramArguments")?;
    let words: Vec<String> = words.into_iter().filter_map(Value::into_string).collect();
    let environment = take("EnvironmentVariables").and_then(Value::into_dictionary).unwrap_or_default();
    let environment = environment.into_iter().filter_map(|(name, value)| Some((name, value.into_string()?))).collect();
    let throttle = number(take("ThrottleInterval")).unwrap_or(THROTTLE_SECONDS);
    let definition = Definition {
        name: text(take("Label")).ok_or("no Label")?,
        path: path.to_owned(),
        words,
        environment,
        at_load: yes(take("RunAtLoad")),
        keep_alive: yes(take("KeepAlive")),
        pause: Pause::BetweenStarts(seconds(throttle as f64, scale)),
        exit: Duration::from_secs(number(take("ExitTimeOut")).unwrap_or(EXIT_SECONDS)),
        every: number(take("StartInterval")).map(|every| seconds(every as f64, scale)),
        starts: None,
        disabled: yes(take("Disabled")),
        stdout: text(take("StandardOutPath")).map(PathBuf::from),
        stderr: text(take("StandardErrorPath")).map(PathBuf::from),
    };
    for known in ["AbandonProcessGroup", "ProcessType", "SoftResourceLimits", "StartCalendarInterval"] {
        list.remove(known);
    }
    match list.keys().next() {
        Some(key) => Err(format!("launchd knows no {key}, or the double does not")),
        None if definition.words.first().is_none_or(|program| !program.starts_with('/')) => {
            Err("the program is no absolute path".to_owned())
        }
        None => Ok(definition),
    }
}

/// Reads a service or a timer; its pauses are multiplied by `scale`.
pub fn of_unit(path: &Path, scale: f64) -> Result<Definition, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or("no name")?.to_owned();
    let starts = name.strip_suffix(".timer").map(|stem| format!("{stem}.service"));
    let mut definition = Definition {
        name,
        path: path.to_owned(),
        words: Vec::new(),
        environment: Vec::new(),
        at_load: false,
        keep_alive: false,
        pause: Pause::AfterEnd(Duration::from_millis(100)),
        exit: Duration::from_secs(90),
        every: None,
        starts,
        disabled: false,
        stdout: None,
        stderr: None,
    };
    for line in text.lines().filter(|line| !line.starts_with(['#', '['])) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let number = || value.parse::<f64>().map_err(|_| format!("{line}: no number"));
        match key {
            "ExecStart" => definition.words = words(value)?,
            "Environment" => {
                let (name, value) = value.split_once('=').ok_or(format!("{line}: no assignment"))?;
                definition.environment.push((name.to_owned(), value.to_owned()));
            }
            "Restart" => definition.keep_alive = value == "always",
            "RestartSec" => definition.pause = Pause::AfterEnd(seconds(number()?, scale)),
            "TimeoutStopSec" => definition.exit = Duration::from_secs_f64(number()?),
            "OnUnitActiveSec" => definition.every = Some(seconds(number()?, scale)),
            "AccuracySec"
            | "Description"
            | "KillMode"
            | "LimitNOFILE"
            | "OnActiveSec"
            | "OnCalendar"
            | "Persistent"
            | "StartLimitIntervalSec"
            | "Type"
            | "WantedBy" => {}
            _ => return Err(format!("systemd knows no {key}, or the double does not")),
        }
    }
    if definition.starts.is_none() && definition.words.is_empty() {
        return Err("no ExecStart".to_owned());
    }
    Ok(definition)
}

/// A command line of systemd's, without variables: `ExecStart=:` puts none in.
fn words(line: &str) -> Result<Vec<String>, String> {
    let line = line.strip_prefix(':').ok_or("the double puts no variables in: ExecStart=:")?;
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let plain = match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
                continue;
            }
            ' ' if !quoted => {
                words.extend(word.take());
                continue;
            }
            '\\' | '%' => characters.next().ok_or("ends within an escape")?,
            other => other,
        };
        word.get_or_insert_default().push(plain);
    }
    words.extend(word);
    Ok(words)
}
