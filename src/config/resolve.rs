//! From every source to [`Settings`]: each value parsed and kept within its bounds, then all of them judged together.
//! It owns every rule about what may be asked for; it refuses to stop at the first mistake, and it binds and makes
//! nothing. A rule about several settings is not applied when one of them is already wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::mistakes::{Mistake, Mistakes, Source};
use crate::config::names::{self, Kind, SETTINGS};
use crate::config::settings::{Limits, Listen, Settings, Times};
use crate::config::sources::{self, Given, Merged, Sources};
use crate::config::{home, listen};

/// What came out: the settings, and how each came about.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What `serve` runs with.
    pub settings: Settings,
    /// Each setting as text with its source, in the order of the manual.
    pub rows: Vec<Row>,
    /// Said on stderr; not mistakes.
    pub warnings: Vec<String>,
}

/// One setting as resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: &'static str,
    /// The value, as it would be written in a variable; empty when there is none.
    pub value: String,
    /// Who gave it.
    pub source: Source,
}

/// Hears every source and judges.
///
/// # Errors
/// Everything that is wrong, not only the first thing.
pub fn resolve(sources: &Sources<'_>) -> Result<Resolved, Mistakes> {
    let mut reader = Reader::new(sources::merge(sources));
    let rows = reader.rows();
    let home = reader.home();
    let settings = Settings {
        model: reader.text("model"),
        aliases: reader.list("alias"),
        kv_bits: reader.text("kv_bits").and_then(|bits| bits.parse().ok()),
        manifest: reader.path("manifest", sources.user_home.as_deref()),
        listen: listening(&mut reader, sources),
        times: times(&mut reader),
        limits: limits(&mut reader),
        wired: reader.switch("wired"),
        strict: reader.switch("strict"),
        faults: faults(&mut reader),
        log_json: reader.text("log_format").as_deref() == Some("json"),
        log_file: reader.path("log_file", sources.user_home.as_deref()),
        home,
    };
    let mut warnings = reader.merged.warnings;
    if settings.wired && !cfg!(target_os = "macos") {
        warnings.push("wired has no effect here: only macOS wires memory for a GPU".to_owned());
    }
    Mistakes::check(reader.merged.mistakes)?;
    Ok(Resolved { settings, rows, warnings })
}

fn listening(reader: &mut Reader, sources: &Sources<'_>) -> Listen {
    let plain_hosts = if reader.switch("no_plain") { Vec::new() } else { reader.list("host") };
    let tls_names = if reader.switch("no_tls") { Vec::new() } else { reader.list("tls_host") };
    let (plain_port, tls_port) = (reader.port("port"), reader.port("tls_port"));
    let admin = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), reader.port("admin_port"));
    let plain = listen::addresses(reader, "host", &plain_hosts, plain_port, sources.lookup);
    let tls = listen::addresses(reader, "tls_host", &tls_names, tls_port, sources.lookup);
    let bearer_token = listen::bearer_token(reader, sources.user_home.as_deref());
    let allowed = reader.switch("allow_remote_plain");
    let has_token = reader.source("api_key_file").is_some();
    listen::refuse_remote_plain(reader, &plain, allowed, has_token);
    listen::refuse_collisions(reader, &plain, &tls, admin);

    let mut hosts = reader.list("allowed_host");
    hosts.extend(plain_hosts.into_iter().filter(|host| !listen::is_unspecified(host)));
    Listen { plain, tls, tls_names, admin, hosts, bearer_token }
}

fn times(reader: &mut Reader) -> Times {
    let scale = if cfg!(feature = "fault") { reader.factor("time_scale") } else { 1.0 };
    reader.in_order("stall_degraded_seconds", "stall_unready_seconds", "a server is degraded before it is not ready");
    reader.in_order("stall_unready_seconds", "stall_dead_seconds", "a server is not ready before it is given up");
    reader.in_order("drain_seconds", "stall_dead_seconds", "a drain must be able to end before a stall ends it");
    reader.in_order("watch_seconds", "stall_degraded_seconds", "a stall is seen by a look that comes before it");
    reader.at_most("queue_wait_seconds", "request_seconds", "waiting is part of a request's time");
    let seconds = |key| Duration::from_secs_f64(reader.seconds(key) / scale);
    Times {
        drain: seconds("drain_seconds"),
        stall_degraded: seconds("stall_degraded_seconds"),
        stall_unready: seconds("stall_unready_seconds"),
        stall_dead: seconds("stall_dead_seconds"),
        queue_wait: seconds("queue_wait_seconds"),
        request: seconds("request_seconds"),
        first_byte: seconds("first_byte_seconds"),
        headers: seconds("headers_seconds"),
        tls_handshake: seconds("tls_handshake_seconds"),
        body: seconds("body_seconds"),
        ping: seconds("ping_seconds"),
        write_stall: seconds("write_stall_seconds"),
        watch: seconds("watch_seconds"),
        self_probe: seconds("self_probe_seconds"),
        self_probe_deadline: seconds("self_probe_deadline_seconds"),
        integrity: seconds("integrity_seconds"),
        brake: seconds("crash_loop_seconds"),
    }
}

fn limits(reader: &mut Reader) -> Limits {
    reader.at_most("half_handshakes", "connections", "a half-open handshake is a connection");
    Limits {
        body_bytes: reader.count("body_bytes"),
        connections: reader.size("connections"),
        half_handshakes: reader.size("half_handshakes"),
        queue_jobs: reader.small("queue_jobs"),
        rows: reader.small("rows"),
        memory_bytes: reader
            .source("memory_limit_mb")
            .is_some()
            .then(|| u64::from(reader.small("memory_limit_mb")) << 20),
        prefix_cache_bytes: u64::from(reader.small("prefix_cache_mb")) << 20,
        prompt_lookup: reader.small("prompt_lookup"),
        crash_loop_starts: reader.small("crash_loop_starts"),
        n: reader.small("n"),
        stop_strings: reader.size("stop_strings"),
        top_logprobs: reader.small("top_logprobs"),
        logit_bias: reader.size("logit_bias"),
        messages: reader.size("messages"),
        tools: reader.size("tools"),
        tokens_default: reader.source("tokens_default").is_some().then(|| reader.small("tokens_default")),
    }
}

fn faults(reader: &mut Reader) -> Vec<String> {
    if cfg!(feature = "fault") { reader.list("fault") } else { Vec::new() }
}

/// Reads values by key. A value that is wrong is noted once and read as its default, so that reading can go on.
pub(crate) struct Reader {
    merged: Merged,
    /// Keys whose value is wrong; rules about several settings skip them.
    wrong: BTreeSet<&'static str>,
}

impl Reader {
    fn new(merged: Merged) -> Self {
        let mut reader = Self { merged, wrong: BTreeSet::new() };
        for setting in SETTINGS {
            let Some(given) = reader.merged.given.get(setting.key).cloned() else { continue };
            for text in &given.texts {
                if let Some(wrong) = wrong_with(setting.kind, text) {
                    reader.refuse(setting.key, wrong, format!("wants {}", setting.kind.wants()));
                }
            }
        }
        reader
    }

    /// Notes a mistake of the setting's source.
    pub(crate) fn refuse(&mut self, key: &'static str, wrong: impl Into<String>, right: impl Into<String>) {
        let origin = self.source(key).cloned().unwrap_or_else(|| Source::Default(key.to_owned()));
        self.wrong.insert(key);
        self.merged.mistakes.push(Mistake::new(origin, wrong, right));
    }

    /// Whether the setting's value was refused.
    pub(crate) fn is_wrong(&self, key: &str) -> bool {
        self.wrong.contains(key)
    }

    /// Who gave the setting; `None` when nobody did and there is no default.
    pub(crate) fn source(&self, key: &str) -> Option<&Source> {
        self.merged.given.get(key).map(|given| &given.source)
    }

    fn rows(&self) -> Vec<Row> {
        let row = |key: &'static str| match self.merged.given.get(key) {
            Some(Given { texts, source }) => Row { key, value: texts.join(","), source: source.clone() },
            None => Row { key, value: String::new(), source: Source::Default(key.to_owned()) },
        };
        SETTINGS.iter().map(|setting| row(setting.key)).collect()
    }

    /// The texts of a right value; those of the default when the value is wrong.
    fn texts(&self, key: &'static str) -> Vec<String> {
        let setting = names::by_key(key).expect("only keys of the table are read");
        match self.merged.given.get(key) {
            Some(given) if !self.is_wrong(key) => given.texts.clone(),
            _ if setting.default.is_empty() => Vec::new(),
            _ => vec![setting.default.to_owned()],
        }
    }

    /// A text or a path.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        self.texts(key).into_iter().next()
    }

    fn list(&self, key: &'static str) -> Vec<String> {
        self.texts(key)
    }

    fn switch(&self, key: &'static str) -> bool {
        self.text(key).as_deref() == Some("true")
    }

    fn number(&self, key: &'static str) -> f64 {
        self.text(key).and_then(|text| text.parse().ok()).expect("checked when the reader was made")
    }

    fn seconds(&self, key: &'static str) -> f64 {
        self.number(key)
    }

    fn factor(&self, key: &'static str) -> f64 {
        self.number(key)
    }

    fn count(&self, key: &'static str) -> u64 {
        let most = u64::from(u32::MAX);
        self.text(key).map_or(most, |text| text.parse().expect("checked when the reader was made"))
    }

    fn size(&self, key: &'static str) -> usize {
        usize::try_from(self.count(key)).expect("the table's bounds fit")
    }

    fn small(&self, key: &'static str) -> u32 {
        u32::try_from(self.count(key)).expect("the table's bounds fit")
    }

    fn port(&self, key: &'static str) -> u16 {
        u16::try_from(self.count(key)).expect("the table's bounds fit")
    }

    /// `least` must be below `most`.
    fn in_order(&mut self, least: &'static str, most: &'static str, why: &str) {
        self.compare(least, most, "below", why, |least, most| least < most);
    }

    /// `least` must not be above `most`.
    fn at_most(&mut self, least: &'static str, most: &'static str, why: &str) {
        self.compare(least, most, "at most", why, |least, most| least <= most);
    }

    fn compare(&mut self, least: &'static str, most: &'static str, word: &str, why: &str, holds: fn(f64, f64) -> bool) {
        if self.is_wrong(least) || self.is_wrong(most) || holds(self.number(least), self.number(most)) {
            return;
        }
        // The one that somebody gave is the one to name; a default is not to blame.
        let defaulted = matches!(self.source(least), Some(Source::Default(_)));
        let (value, other) = (self.number(least), self.number(most));
        let origin = if defaulted { most } else { least };
        let origin = self.source(origin).expect("both have defaults").clone();
        let wrong = format!("{least} is {value} and {most} is {other}");
        self.merged.mistakes.push(Mistake::new(origin, wrong, format!("{least} must be {word} {most}: {why}")));
    }

    fn home(&mut self) -> PathBuf {
        let given = self.merged.given["home"].clone();
        let path = PathBuf::from(&given.texts[0]);
        if !self.is_wrong("home") {
            self.merged.mistakes.extend(home::check(&path, &given.source));
        }
        path
    }

    /// A path setting, with `~` expanded.
    pub(crate) fn path(&self, key: &'static str, user_home: Option<&Path>) -> Option<PathBuf> {
        self.text(key).map(|text| home::expand(Path::new(&text), user_home))
    }
}

/// What is wrong with `text` as a value of `kind`; `None` when nothing is.
fn wrong_with(kind: Kind, text: &str) -> Option<String> {
    let number = || text.parse::<f64>().ok().filter(|number| number.is_finite());
    let right = match kind {
        Kind::Text | Kind::Path | Kind::List => !text.trim().is_empty(),
        Kind::Switch => matches!(text, "true" | "false"),
        Kind::Choice(words) => words.contains(&text),
        Kind::Seconds(least, most) => number().is_some_and(|number| (least..=most).contains(&number)),
        Kind::Count(least, most) => text.parse().is_ok_and(|number: u64| (least..=most).contains(&number)),
        Kind::Factor(most) => number().is_some_and(|number| number > 0.0 && number <= most),
    };
    (!right).then(|| format!("{text:?} is not right"))
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reader").field("wrong", &self.wrong).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
