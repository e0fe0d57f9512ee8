//! What launchd or the user's systemd is told of us: the server, its companions and the fallback, as the files of
//! `launchd/` with this home's paths in them. It owns how a path is written so that it is read as it is; it refuses to
//! know where definitions lie and who loads them.

use std::path::{Path, PathBuf};

use crate::ops::installed;
use crate::ops::supervisor::Supervisor;

/// Seconds after which a server that was told to stop is killed, unless its drain takes longer.
const EXIT_SECONDS: u64 = 40;
/// It leaves by itself two seconds after its drain; this is later.
const EXIT_GRACE_SECONDS: u64 = 5;

/// Whose definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Property lists.
    Launchd,
    /// Units of the user's manager.
    Systemd,
}

/// One thing that is loaded, and the files that define it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// launchd's label, or systemd's unit: the service of the server, the timer of a companion.
    pub(crate) name: String,
    /// Their names and contents; the one that is loaded first.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// What differs from one installation to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The root of everything kept.
    pub(crate) home: PathBuf,
    /// The server's own.
    pub(crate) drain_seconds: u64,
    /// Each URL at which the guardian looks, and of which others ask the one that users have; none is their default.
    pub(crate) listeners: Vec<String>,
}

/// The templates of one thing.
struct Template {
    label: &'static str,
    plist: &'static str,
    unit: &'static str,
    service: &'static str,
    /// `None` where the service is loaded itself.
    timer: Option<&'static str>,
}

macro_rules! companion {
    ($name:literal) => {
        Template {
            label: concat!("com.sanctum.mlx-", $name),
            plist: include_str!(concat!("../../launchd/com.sanctum.mlx-", $name, ".plist")),
            unit: concat!("sanctum-mlx-", $name),
            service: include_str!(concat!("../../launchd/systemd/sanctum-mlx-", $name, ".service")),
            timer: Some(include_str!(concat!("../../launchd/systemd/sanctum-mlx-", $name, ".timer"))),
        }
    };
}

/// The server first, then its companions.
const TEMPLATES: [Template; 6] = [
    Template {
        label: "com.sanctum.mlx",
        plist: include_str!("../../launchd/com.sanctum.mlx.plist"),
        unit: "sanctum-mlx",
        service: include_str!("../../launchd/systemd/sanctum-mlx.service"),
        timer: None,
    },
    companion!("guardian"),
    companion!("canary"),
    companion!("integrity"),
    companion!("drift"),
    companion!("parity-smoke"),
];

/// `mlx_lm.server` in another's Python.
const FALLBACK: Template = Template {
    label: "com.sanctum.server-mlx",
    plist: include_str!("../../launchd/com.sanctum.server-mlx.plist"),
    unit: "sanctum-mlx-fallback",
    service: include_str!("../../launchd/systemd/sanctum-mlx-fallback.service"),
    timer: None,
};

/// Why a home, a program or a model cannot be named in definitions of this style; `None` when it can. To be asked before
/// anything is rendered.
pub(crate) fn refusal(style: Style, named: &Path) -> Option<String> {
    let shown = named.display();
    let Some(text) = named.to_str() else { return Some(format!("{shown} is not UTF-8; choose another")) };
    if text.chars().any(char::is_control) {
        return Some(format!("{text:?} has a control character in it; choose another"));
    }
    // systemd would say "Executable name contains special characters".
    let refused = text.chars().find(|character| matches!(character, '"' | '\'' | '\\'));
    match (style, refused) {
        (Style::Systemd, Some(refused)) => {
            Some(format!("{shown} has a {refused} in it, from where systemd executes nothing; choose another"))
        }
        (Style::Systemd, None) | (Style::Launchd, _) => None,
    }
}

/// The definitions of the server and of its companions, in this order.
pub(crate) fn render(style: Style, place: &Place) -> Vec<Rendered> {
    let home = place.home.to_string_lossy();
    let (program, watcher) = (installed::program(&place.home), installed::watcher(&place.home));
    let exit_seconds = EXIT_SECONDS.max(place.drain_seconds.saturating_add(EXIT_GRACE_SECONDS));
    let word = |name: &str| match name {
        "home" => style.text(&home),
        "program" => style.text(&program.to_string_lossy()),
        "watcher" => style.text(&watcher.to_string_lossy()),
        "drain_seconds" => place.drain_seconds.to_string(),
        "exit_seconds" => exit_seconds.to_string(),
        "listeners" => style.options("--listener", &place.listeners),
        "url" => style.options("--url", asked(&place.listeners)),
        _ => unreachable!("no template of ours has {name}"),
    };
    TEMPLATES.iter().map(|template| template.rendered(style, word)).collect()
}

/// What differs from one fallback to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fallback<'a> {
    /// The root of everything kept, for its log.
    pub(crate) home: &'a Path,
    /// The Python that has `mlx_lm`.
    pub(crate) python: &'a Path,
    /// The model by the name that `mlx_lm` knows.
    pub(crate) model: &'a str,
    /// Where it listens on loopback.
    pub(crate) port: u16,
}

/// What the supervisor calls the fallback, and the file that defines it.
pub(crate) fn fallback_name(style: Style) -> (&'static str, String) {
    let name = match style {
        Style::Launchd => FALLBACK.label,
        Style::Systemd => "sanctum-mlx-fallback.service",
    };
    (name, if style == Style::Launchd { format!("{name}.plist") } else { name.to_owned() })
}

/// The definition of the fallback. Its paths and the model's name are to be asked for by [`refusal`] before.
pub(crate) fn fallback(style: Style, fallback: Fallback<'_>) -> Rendered {
    FALLBACK.rendered(style, |name| match name {
        "home" => style.text(&fallback.home.to_string_lossy()),
        "python" => style.text(&fallback.python.to_string_lossy()),
        "model" => style.text(fallback.model),
        "port" => fallback.port.to_string(),
        _ => unreachable!("no template of ours has {name}"),
    })
}

/// The listener that is asked questions: that of mutual TLS, where there is one.
fn asked(listeners: &[String]) -> &[String] {
    let encrypted = listeners.iter().find(|url| url.starts_with("https://"));
    encrypted.or(listeners.first()).map(std::slice::from_ref).unwrap_or_default()
}

impl Template {
    fn rendered(&self, style: Style, word: impl Fn(&str) -> String) -> Rendered {
        let file = |name: &str, end: &str, text: &str| (format!("{name}.{end}"), fill(text, &word).into_bytes());
        match style {
            Style::Launchd => {
                Rendered { name: self.label.to_owned(), files: vec![file(self.label, "plist", self.plist)] }
            }
            Style::Systemd => {
                let timer = self.timer.map(|timer| file(self.unit, "timer", timer));
                let files: Vec<_> = timer.into_iter().chain([file(self.unit, "service", self.service)]).collect();
                Rendered { name: files[0].0.clone(), files }
            }
        }
    }
}

impl Style {
    /// The one that `supervisor` reads.
    pub(crate) fn of(supervisor: &dyn Supervisor) -> Self {
        if supervisor.name() == "launchd" { Self::Launchd } else { Self::Systemd }
    }

    /// `text` as it stands within an element of a property list, or within the double quotes of a unit.
    fn text(self, text: &str) -> String {
        let written = |character| match (self, character) {
            (Self::Launchd, '&') => "&amp;".to_owned(),
            (Self::Launchd, '<') => "&lt;".to_owned(),
            (Self::Launchd, '>') => "&gt;".to_owned(),
            (Self::Systemd, '\\') => "\\\\".to_owned(),
            (Self::Systemd, '"') => "\\\"".to_owned(),
            // Else it would be a specifier; `ExecStart=:` keeps `$` from being a variable.
            (Self::Systemd, '%') => "%%".to_owned(),
            (Self::Launchd | Self::Systemd, other) => other.to_string(),
        };
        text.chars().map(written).collect()
    }

    /// Arguments that name each of these URLs.
    fn options(self, name: &str, urls: &[String]) -> String {
        let of = |url: &String| match self {
            Self::Launchd => format!("<string>{name}</string>\n\t\t<string>{}</string>", self.text(url)),
            Self::Systemd => format!("{name} \"{}\"", self.text(url)),
        };
        let between = if self == Self::Launchd { "\n\t\t" } else { " " };
        urls.iter().map(of).collect::<Vec<_>>().join(between)
    }
}

/// The template with each `{name}` replaced, once: a path with braces in it stays as it is.
fn fill(template: &str, word: impl Fn(&str) -> String) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').expect("the braces of our templates are balanced");
        filled.push_str(before);
        filled.push_str(&word(name));
        rest = after;
    }
    filled + rest
}

#[cfg(test)]
#[path = "definitions_tests.rs"]
mod tests;
