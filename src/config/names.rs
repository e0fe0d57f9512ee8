//! Every setting of `serve`, once: its name, what its value is, its default and its help. The flag, the variable, the
//! TOML key, the manual and the mistakes report are all made from this table, so none of them can disagree. It refuses
//! to know values that somebody gave; `resolve` does.

use self::Kind::{Choice, Count, List, Path, Seconds, Switch, Text};
use self::Part::{Limits, Listening, Model, Output, Times};

/// The prefix of every variable.
pub(crate) const VARIABLE_PREFIX: &str = "SANCTUM_MLX_";

/// What a setting's value is, and the bounds it must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A path; a leading `~/` is the home folder of the user.
    Path,
    /// Several texts: the flag repeats, the variable separates by commas, the key is an array.
    List,
    /// On or off: the flag takes no value, the variable and the key take true or false.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Seconds, fractions allowed, within these bounds.
    Seconds(f64, f64),
    /// A whole number within these bounds.
    Count(u64, u64),
    /// A number greater than zero, at most this.
    #[cfg_attr(not(feature = "fault"), expect(dead_code, reason = "only the time scale of test builds is a factor"))]
    Factor(f64),
}

impl Kind {
    /// What a right value looks like, for the manual and for mistakes.
    pub(crate) fn wants(self) -> String {
        match self {
            Self::Text => "a text that is not empty".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::List => "one or more texts that are not empty".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Seconds(least, most) => format!("seconds from {least} to {most}, fractions allowed"),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Factor(most) => format!("a number above 0 and at most {most}"),
        }
    }

    /// The placeholder after the flag; `None` for a switch.
    pub(crate) fn placeholder(self) -> Option<&'static str> {
        match self {
            Self::Text | Self::List => Some("TEXT"),
            Self::Path => Some("PATH"),
            Self::Switch => None,
            Self::Choice(_) => Some("WORD"),
            Self::Seconds(..) => Some("SECONDS"),
            Self::Count(..) => Some("N"),
            Self::Factor(_) => Some("F"),
        }
    }
}

/// The part of the manual under which a setting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// What is served and where its files are.
    Model,
    /// Where it listens and to whom it answers.
    Listening,
    /// How long things may take.
    Times,
    /// How much is accepted.
    Limits,
    /// How it speaks.
    Output,
    /// Builds with the `fault` feature only.
    #[cfg(feature = "fault")]
    Faults,
}

impl Part {
    /// The heading in `--help`.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Model => "Model and files",
            Self::Listening => "Listening",
            Self::Times => "Times",
            Self::Limits => "Limits",
            Self::Output => "Behaviour and output",
            #[cfg(feature = "fault")]
            Self::Faults => "Faults (test builds only)",
        }
    }
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// The TOML key; the flag has `-` for `_`, the variable is in capitals behind the prefix.
    pub(crate) key: &'static str,
    /// What its value is.
    pub(crate) kind: Kind,
    /// The value when nobody names one, written as in the file; empty when there is none.
    pub(crate) default: &'static str,
    /// Where it stands in the manual.
    pub(crate) part: Part,
    /// One or more sentences for the manual, without the default and the spellings, which are added.
    pub(crate) help: &'static str,
    /// Whether it may stand in the file; the file's own place and the root that holds it may not.
    pub(crate) in_file: bool,
}

impl Setting {
    /// The flag, with its dashes.
    pub(crate) fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_uppercase())
    }
}

const fn setting(key: &'static str, part: Part, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default, part, help, in_file: true }
}

const fn place(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind: Kind::Path, default, part: Part::Model, help, in_file: false }
}

/// Seconds of an hour, the most that a limit on one thing may be.
const HOUR: f64 = 3_600.0;
/// The largest TCP port.
const PORT_MAX: u64 = 65_535;
/// Where both ports listen unless told otherwise.
const LOOPBACK: &str = "127.0.0.1";

/// The table. Its order is the order of the manual.
pub(crate) const SETTINGS: &[Setting] = &[
    place(
        "home",
        "~/.sanctum-mlx",
        "The root of everything the program keeps: models, certificates, state and logs. Only its owner may enter it (mode 0700).",
    ),
    place("config", "<home>/config.toml", "The settings file. The default one may be missing; a named one may not."),
    setting(
        "model",
        Model,
        Text,
        "",
        "What to serve: a folder in MLX or Hugging Face layout, a .gguf file, or a hub name. Without it, the small model that `scripts/setup` puts into <home>/models/default.",
    ),
    setting("alias", Model, List, "", "A further id under which the model answers."),
    setting(
        "kv_bits",
        Model,
        Choice(&["off", "8", "4"]),
        "off",
        "Store keys and values as integers of so many bits: less memory for each token of each answer, and answers that differ \
         from those without it. The heads of the model must be of a multiple of 32 elements.",
    ),
    setting(
        "manifest",
        Model,
        Path,
        "",
        "The public key of manifests: the model is served only if its files are what `sanctum-mlx manifest sign` signed with the \
         private one; otherwise exit 78 before a weight is read or a port is bound.",
    ),
    setting(
        "host",
        Listening,
        List,
        LOOPBACK,
        "An address or host name on which the plain port listens. Anything but loopback needs allow_remote_plain and api_key_file too.",
    ),
    setting(
        "port",
        Listening,
        Count(0, PORT_MAX),
        "1337",
        "The port of plain HTTP; 0 picks a free one, which the ready line and state/serve.json name.",
    ),
    setting(
        "tls_host",
        Listening,
        List,
        LOOPBACK,
        "An address or host name on which the mutual TLS port listens; it also becomes a name of the server certificate.",
    ),
    setting("tls_port", Listening, Count(0, PORT_MAX), "1338", "The port of mutual TLS; 0 picks a free one."),
    setting("no_plain", Listening, Switch, "false", "Do not listen on plain HTTP."),
    setting("no_tls", Listening, Switch, "false", "Do not listen on mutual TLS."),
    setting(
        "admin_port",
        Listening,
        Count(0, PORT_MAX),
        "0",
        "The loopback port of health and metrics on their own thread; 0 picks a free one.",
    ),
    setting(
        "allowed_host",
        Listening,
        List,
        "",
        "A further name or address that clients of the plain port may put into their Host header; loopback names and each --host always may.",
    ),
    setting(
        "allow_remote_plain",
        Listening,
        Switch,
        "false",
        "Allow plain HTTP on addresses that other machines can reach; needs api_key_file.",
    ),
    setting(
        "api_key_file",
        Listening,
        Path,
        "",
        "A file with the bearer token that the plain port then asks for: one line, at least 16 characters, readable by its owner only.",
    ),
    setting(
        "drain_seconds",
        Times,
        Seconds(0.0, HOUR),
        "25",
        "After the first request to stop, what is in flight may finish for this long; two seconds later the process is gone whatever hangs. Shorter than stall_dead_seconds.",
    ),
    setting(
        "stall_degraded_seconds",
        Times,
        Seconds(0.01, HOUR),
        "15",
        "Work is pending and nothing moves for this long: degraded, said in /health.",
    ),
    setting(
        "stall_unready_seconds",
        Times,
        Seconds(0.01, HOUR),
        "30",
        "Nothing moves for this long: /health/ready and /v1/models answer 503.",
    ),
    setting(
        "stall_dead_seconds",
        Times,
        Seconds(0.01, HOUR),
        "60",
        "Nothing moves for this long: threads are dumped, requests are told, exit 70.",
    ),
    setting(
        "queue_wait_seconds",
        Times,
        Seconds(0.01, HOUR),
        "30",
        "A request that waits for its turn longer than this is answered 503 and never reaches the engine. At most request_seconds.",
    ),
    setting("request_seconds", Times, Seconds(0.01, 24.0 * HOUR), "600", "One request may take this long in all."),
    setting(
        "first_byte_seconds",
        Times,
        Seconds(0.01, HOUR),
        "10",
        "A connection that sends nothing is closed after this long.",
    ),
    setting("headers_seconds", Times, Seconds(0.01, HOUR), "10", "A request head must be complete within this."),
    setting("tls_handshake_seconds", Times, Seconds(0.01, HOUR), "5", "A TLS handshake must be complete within this."),
    setting("body_seconds", Times, Seconds(0.01, HOUR), "30", "A request body must be complete within this."),
    setting(
        "ping_seconds",
        Times,
        Seconds(0.01, 15.0),
        "5",
        "A stream that has nothing to say sends a comment this often.",
    ),
    setting(
        "write_stall_seconds",
        Times,
        Seconds(0.01, HOUR),
        "60",
        "A client that takes nothing for this long is dropped.",
    ),
    setting(
        "watch_seconds",
        Times,
        Seconds(0.01, 5.0),
        "1",
        "How often the watch thread looks at the engine's progress.",
    ),
    setting(
        "self_probe_seconds",
        Times,
        Seconds(0.0, HOUR),
        "60",
        "When nobody had a token for this long and nobody waits for one, the server asks its own engine for one; a client that \
         comes meanwhile goes first, at once. 0 turns it off.",
    ),
    setting(
        "self_probe_deadline_seconds",
        Times,
        Seconds(0.01, HOUR),
        "10",
        "A token for the server itself that takes longer is a miss: one is degraded, two are not ready, three are exit 70.",
    ),
    setting(
        "integrity_seconds",
        Times,
        Seconds(0.01, HOUR),
        "10",
        "How often the server looks whether its own executable is still on disk as it was; /health and /metrics tell.",
    ),
    setting(
        "crash_loop_seconds",
        Times,
        Seconds(0.01, HOUR),
        "600",
        "The window in which starts that ended badly are counted, and how long the first crash loop waits before it loads again; \
         further ones wait longer, up to six times as long.",
    ),
    setting(
        "crash_loop_starts",
        Limits,
        Count(0, 64),
        "5",
        "After so many starts that ended badly, the next one loads nothing and says so (503 crash_loop) until the wait is over or SIGHUP \
         comes; 0 turns it off.",
    ),
    setting("body_bytes", Limits, Count(1_024, 1 << 30), "8388608", "Bytes of a request body."),
    setting("connections", Limits, Count(1, 65_536), "512", "Connections open at once, all listeners together."),
    setting(
        "half_handshakes",
        Limits,
        Count(1, 65_536),
        "64",
        "TLS handshakes under way at once. At most connections.",
    ),
    setting("queue_jobs", Limits, Count(1, 65_536), "64", "Requests accepted and waiting; one more is a 429 at once."),
    setting("rows", Limits, Count(1, 1_024), "8", "Answers generated at once."),
    setting(
        "prefix_cache_mb",
        Limits,
        Count(0, 1 << 20),
        "512",
        "Megabytes of finished prompts' states kept for prompts that begin alike; 0 keeps none.",
    ),
    setting(
        "memory_limit_mb",
        Limits,
        Count(1, 1 << 24),
        "",
        "Megabytes for the model, the answers under way and all that is kept; without it, what the GPU's driver recommends, \
         or three quarters of the memory that the process may use.",
    ),
    setting(
        "wired",
        Limits,
        Switch,
        "false",
        "Keep the model and the answers under way in memory that is never paged out, up to what the GPU's driver recommends \
         less a reserve. macOS only.",
    ),
    setting(
        "prompt_lookup",
        Limits,
        Count(0, 64),
        "0",
        "Tokens that an answer may guess in a step from what it repeats; the same answers, sooner where they repeat their prompt or themselves. 0 guesses nothing.",
    ),
    setting("n", Limits, Count(1, 128), "8", "Answers per request."),
    setting("stop_strings", Limits, Count(0, 64), "4", "Stop strings per request."),
    setting("top_logprobs", Limits, Count(0, 100), "20", "Alternatives listed per token."),
    setting("logit_bias", Limits, Count(0, 1 << 20), "1024", "Entries of logit_bias per request."),
    setting("messages", Limits, Count(1, 1 << 20), "2048", "Messages per request."),
    setting("tools", Limits, Count(0, 65_536), "128", "Tools per request."),
    setting(
        "tokens_default",
        Limits,
        Count(1, 1 << 24),
        "",
        "Tokens generated when the client names no number; without it, what is left of the context.",
    ),
    setting(
        "strict",
        Output,
        Switch,
        "false",
        "A request field that is not known is a 400 instead of being named in the x-ignored-params header.",
    ),
    setting("log_format", Output, Choice(&["text", "json"]), "text", "How log lines are written."),
    setting(
        "log_file",
        Output,
        Path,
        "",
        "Write log lines to this file, which is renamed at 10 MB (the last five are kept), instead of to stderr; errors go to both.",
    ),
    #[cfg(feature = "fault")]
    setting("fault", Part::Faults, List, "", "Faults injected into the inference thread: KIND@STEP[,KIND@STEP]."),
    #[cfg(feature = "fault")]
    setting("time_scale", Part::Faults, Kind::Factor(10_000.0), "1", "Every time is divided by this."),
];

/// The setting of this key.
pub(crate) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The candidate that differs least from `word`, if it differs little enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = word.chars().count().div_ceil(3);
    candidates
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and substitutions between two words.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_named_once_in_plain_words_and_explained_in_sentences() {
        let keys: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
        for Setting { key, help, .. } in SETTINGS {
            assert!(key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'), "{key}");
            assert!(help.ends_with('.') && help.len() > 12, "{key}: {help}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant_and_nonsense_finds_none() {
        let keys = || SETTINGS.iter().map(|setting| setting.key);
        assert_eq!(nearest("drain_second", keys()), Some("drain_seconds"));
        assert_eq!(nearest("queue_job", keys()), Some("queue_jobs"));
        assert_eq!(nearest("tls-port", keys()), Some("tls_port"));
        assert_eq!(nearest("zebra", keys()), None);
    }

    #[test]
    fn edits_counts_insertions_deletions_and_substitutions() {
        for (left, right, distance) in [("", "abc", 3), ("abc", "", 3), ("port", "port", 0), ("kitten", "sitting", 3)] {
            assert_eq!(edits(left, right), distance, "{left} {right}");
        }
    }
}
