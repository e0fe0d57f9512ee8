//! What a supervisor reads about us: launchd's property lists and systemd's user units, made from the templates in
//! `launchd/`. It owns who is scheduled how often, and that any path reads back as it is; it refuses to know where the
//! files go and whether they are loaded.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::ops::installed;

/// A server that drains has this much longer before it is killed, and never less than launchd's usual patience for us.
const STOP_GRACE_SECONDS: u64 = 5;
const STOP_SECONDS_MIN: u64 = 40;

const SERVER_PLIST: &str = include_str!("../../launchd/com.sanctum.mlx.plist");
const COMPANION_PLIST: &str = include_str!("../../launchd/companion.plist");
const SERVER_UNIT: &str = include_str!("../../launchd/systemd/sanctum-mlx.service");
const COMPANION_UNIT: &str = include_str!("../../launchd/systemd/companion.service");
const COMPANION_TIMER: &str = include_str!("../../launchd/systemd/companion.timer");

/// When a companion runs.
#[derive(Debug, Clone, Copy)]
enum Schedule {
    Every {
        seconds: u64,
    },
    /// At this hour of the night.
    Nightly {
        hour: u64,
    },
}

/// The companions: name, what they run, when.
const COMPANIONS: [(&str, &[&str], Schedule); 5] = [
    ("guardian", &["guardian"], Schedule::Every { seconds: 60 }),
    ("canary", &["canary"], Schedule::Every { seconds: 600 }),
    ("integrity", &["probe", "integrity", "--every-seconds", "300"], Schedule::Every { seconds: 300 }),
    ("drift", &["drift"], Schedule::Every { seconds: 3_600 }),
    ("parity-smoke", &["parity-smoke"], Schedule::Nightly { hour: 3 }),
];

/// Whose files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Launchd,
    Systemd,
}

/// What the definitions are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) home: PathBuf,
    pub(crate) drain_seconds: u64,
    /// URLs that the guardian looks at; none leaves it to its own default.
    pub(crate) listeners: Vec<String>,
}

/// One thing to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// launchd's label; systemd's unit, of a companion its timer.
    pub(crate) name: String,
    /// File names with their texts; the first is what is loaded.
    pub(crate) files: Vec<(String, String)>,
}

/// The server first, then its companions.
///
/// # Errors
/// The home's path is not UTF-8, which neither supervisor can be told.
pub(crate) fn render(style: Style, place: &Place) -> anyhow::Result<Vec<Rendered>> {
    let text =
        |path: &Path| path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()));
    let (home, program) = (text(&place.home)?, text(&installed::program(&place.home))?);
    let stop = (place.drain_seconds + STOP_GRACE_SECONDS).max(STOP_SECONDS_MIN).to_string();
    let filled = |template: &str, word: fn(&str) -> String, more: &[(&str, String)]| {
        let known = [("PROGRAM", word(&program)), ("HOME", word(&home)), ("STOP_SECONDS", stop.clone())];
        fill(template, known.iter().chain(more))
    };
    let server = match style {
        Style::Launchd => one("com.sanctum.mlx", "com.sanctum.mlx.plist", filled(SERVER_PLIST, xml, &[])),
        Style::Systemd => one("sanctum-mlx.service", "sanctum-mlx.service", filled(SERVER_UNIT, word, &[])),
    };
    let companions = COMPANIONS.iter().map(|(name, words, schedule)| {
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments.extend(["--home".to_owned(), home.clone()]);
        if *name == "guardian" {
            arguments.extend(["--drain-seconds".to_owned(), place.drain_seconds.to_string()]);
            arguments.extend(place.listeners.iter().flat_map(|url| ["--listener".to_owned(), url.clone()]));
        }
        let name_value = ("NAME", (*name).to_owned());
        match style {
            Style::Launchd => {
                let lines =
                    arguments.iter().map(|argument| format!("    <string>{}</string>\n", xml(argument))).collect();
                let more = [name_value, ("ARGUMENTS", lines), ("SCHEDULE", schedule.keys())];
                let label = format!("com.sanctum.mlx-{name}");
                one(&label, &format!("{label}.plist"), filled(COMPANION_PLIST, xml, &more))
            }
            Style::Systemd => {
                let line = arguments.iter().map(|argument| word(argument)).collect::<Vec<_>>().join(" ");
                let more = [name_value, ("ARGUMENTS", line), ("SCHEDULE", schedule.lines())];
                let timer = format!("sanctum-mlx-{name}.timer");
                let mut rendered = one(&timer, &timer, filled(COMPANION_TIMER, word, &more));
                let service = filled(COMPANION_UNIT, word, &more);
                rendered.files.push((format!("sanctum-mlx-{name}.service"), service));
                rendered
            }
        }
    });
    Ok(std::iter::once(server).chain(companions).collect())
}

fn one(name: &str, file: &str, text: String) -> Rendered {
    Rendered { name: name.to_owned(), files: vec![(file.to_owned(), text)] }
}

impl Schedule {
    /// As members of a property list.
    fn keys(self) -> String {
        match self {
            Self::Every { seconds } => format!("  <key>StartInterval</key>\n  <integer>{seconds}</integer>\n"),
            Self::Nightly { hour } => format!(
                "  <key>StartCalendarInterval</key>\n  <dict>\n    <key>Hour</key>\n    <integer>{hour}</integer>\n    \
                 <key>Minute</key>\n    <integer>0</integer>\n  </dict>\n"
            ),
        }
    }

    /// As lines of a timer.
    fn lines(self) -> String {
        match self {
            Self::Every { seconds } => format!("OnActiveSec={seconds}\nOnUnitActiveSec={seconds}"),
            Self::Nightly { hour } => format!("OnCalendar=*-*-* {hour:02}:00:00\nPersistent=true"),
        }
    }
}

/// The template with each `{{NAME}}` replaced once: what a value says is not looked at again.
fn fill<'a>(template: &str, values: impl Iterator<Item = &'a (&'a str, String)> + Clone) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").expect("the templates are ours");
        let mut values = values.clone();
        text += &values.find(|(known, _)| *known == name).expect("the templates are ours").1;
        text += rest;
    }
    text
}

/// As text in XML.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// As one word of a command line in a unit: quoted, and nothing in it is expanded.
fn word(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Agent {
        label: String,
        program_arguments: Vec<String>,
        run_at_load: bool,
        keep_alive: Option<bool>,
        throttle_interval: Option<u64>,
        exit_time_out: Option<u64>,
        start_interval: Option<u64>,
        process_type: String,
        environment_variables: Option<plist::Dictionary>,
    }

    fn place(home: &str, drain_seconds: u64) -> Place {
        let listeners = ["http://127.0.0.1:1337", "https://127.0.0.1:1338"].map(str::to_owned).to_vec();
        Place { home: home.into(), drain_seconds, listeners }
    }

    fn agents(place: &Place) -> Vec<Agent> {
        let rendered = render(Style::Launchd, place).unwrap();
        rendered.iter().map(|one| plist::from_bytes(one.files[0].1.as_bytes()).unwrap()).collect()
    }

    /// Reads a command line of a unit as `systemd.service(5)` says: quoted words, `\` before a letter, `%%` and `$$`.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut letters) = (Vec::new(), line.chars().peekable());
        while letters.next_if_eq(&'"').is_some() {
            let mut word = String::new();
            loop {
                match letters.next().unwrap() {
                    '"' => break,
                    '\\' => word.push(letters.next().unwrap()),
                    letter @ ('%' | '$') => {
                        assert_eq!(letters.next(), Some(letter), "nothing is expanded");
                        word.push(letter);
                    }
                    letter => word.push(letter),
                }
            }
            words.push(word);
            let _ = letters.next_if_eq(&' ');
            // Words of ours that need no quotes.
            while letters.peek().is_some_and(|letter| *letter != '"') {
                let plain: String = std::iter::from_fn(|| letters.next_if(|letter| *letter != ' ')).collect();
                words.push(plain);
                let _ = letters.next_if_eq(&' ');
            }
        }
        words
    }

    fn line<'a>(text: &'a str, key: &str) -> &'a str {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap()
    }

    #[test]
    fn l13_a_server_has_longer_to_end_than_it_drains_and_is_kept_alive() {
        for drain in [0, 25, 40, 3_600] {
            let server = agents(&place("/a", drain)).remove(0);
            assert!(server.exit_time_out.unwrap() > drain + 2);
            assert_eq!((server.run_at_load, server.keep_alive, server.throttle_interval), (true, Some(true), Some(10)));
            assert_eq!((server.label.as_str(), server.process_type.as_str()), ("com.sanctum.mlx", "Interactive"));
            let unit = &render(Style::Systemd, &place("/a", drain)).unwrap()[0].files[0].1;
            assert!(line(unit, "TimeoutStopSec").parse::<u64>().unwrap() > drain + 2);
        }
    }

    #[test]
    fn every_companion_is_scheduled_and_nothing_has_an_environment() {
        let agents = agents(&place("/a", 25));
        let names: Vec<&str> = agents.iter().map(|agent| agent.label.as_str()).collect();
        assert_eq!(
            names[1..],
            ["guardian", "canary", "integrity", "drift", "parity-smoke"].map(|name| format!("com.sanctum.mlx-{name}"))
        );
        let every: Vec<Option<u64>> = agents[1..].iter().map(|agent| agent.start_interval).collect();
        assert_eq!(every, [Some(60), Some(600), Some(300), Some(3_600), None]);
        assert!(agents.iter().all(|agent| agent.environment_variables.is_none()));
        let guardian = agents[1].program_arguments.join(" ");
        let listeners = "--listener http://127.0.0.1:1337 --listener https://127.0.0.1:1338";
        assert_eq!(guardian, format!("/a/current/bin/sanctum-mlx guardian --home /a --drain-seconds 25 {listeners}"));
    }

    #[test]
    fn what_is_scheduled_is_understood_by_the_command_line() {
        for agent in agents(&place("/a", 25)) {
            let words = agent.program_arguments.iter().map(std::ffi::OsString::from);
            crate::config::args::parse(words).unwrap_or_else(|error| panic!("{}: {error}", agent.label));
        }
    }

    proptest! {
        #[test]
        fn any_path_reads_back_as_it_is(home in "/[a-zA-Z0-9 <>&'\"%$\\\\{}ü/.-]{1,30}") {
            let place = place(&home, 25);
            let program = installed::program(&place.home);
            for agent in agents(&place) {
                prop_assert_eq!(Path::new(&agent.program_arguments[0]), &program);
                prop_assert!(agent.program_arguments.contains(&home));
            }
            for rendered in render(Style::Systemd, &place).unwrap() {
                let text = &rendered.files.last().unwrap().1;
                let read = words(line(text, "ExecStart"));
                prop_assert_eq!(Path::new(&read[0]), &program);
                prop_assert!(read.contains(&home), "{:?}", read);
            }
        }
    }
}
