//! The command line of the watchers: what they look at, how often, and their pages of the manual.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

use crate::config::args::ServerArgs;

pub(super) const GUARDIAN_NOTES: &str = "\
GET /v1/models must answer 200 on every listener. Loading (15 minutes at most), draining and a crash loop that the server
declared itself are no failure. After 3 failed ticks in a row it looks a second time, at the admin listener: silent
listeners in front of an engine that works are busy, not hung. Then it looks whether the next start would boot; if not,
nothing is restarted and a human is called. Else the supervisor (launchd, or the user's systemd) is told to restart the
server: at most 3 times in 60 minutes, then a human is called. Where a fallback is configured (`fallback --help`), it takes
the server's place in each of these cases, and is what is looked at from then on.

It tells whoever <home>/watch.toml names (`canary --help` shows that file), and after a healthy tick fetches
[heartbeat] url = \"https://...\", by which another machine knows that this one still watches.
A process that ended unasked is told (server_died) although another one serves by now, and so is a stranger who answers on
a port of the server (port_squatted).

Examples:
  sanctum-mlx guardian --listener http://127.0.0.1:1337 --listener https://127.0.0.1:1338

Exit codes: 0 healthy; 1 not, or restarted; 2 a human is needed: it would not boot, was restarted too often, cannot run;
64 the command line is not understood.";

const INTEGRITY_NOTES: &str = "\
Eight checks, each of which fails as an event of its own:
  integrity_program       what the supervisor would execute is there, executable, and not in a build folder
  integrity_signature     it is what was installed (codesign --verify --strict on macOS, its SHA-256 elsewhere)
  integrity_release       every library of the release is there, with its size and time
  integrity_running       the process that serves runs that file, and not one that was deleted or replaced
  integrity_definition    the service is loaded; its definition names that program and lets it drain
  integrity_model         the model's files are there, as large as they were
  integrity_certificates  nothing ends within 14 days, and nobody else may read a key
  integrity_disk          logs can be written, and the disk has room
It starts, loads and repairs nothing. The guardian asks the first three and the fifth before it restarts anything.

Exit codes: 0 all hold; 1 one does not; 2 cannot run: watch.toml, records; 64 the command line is not understood.";

pub(super) const CANARY_NOTES: &str = "\
Asks 'What is 2+2?' and reads the answer: an empty 200 fails. A failed try is repeated once after --retry-seconds; when
that fails too, whoever `<home>/watch.toml` names is told at once, and once more when it is right again. They are also told
when 3 of the last 6 ticks had a failed try, and when the queue was full 3 ticks in a row. It never restarts anything.

watch.toml, every key optional; stderr is always told:
  [alerts]
  webhook = \"https://example.org/hook\"       # gets the alert as a JSON POST, three tries
  command = [\"/usr/local/bin/page\", \"me\"]  # gets it on stdin
  notification = true                         # on the desktop; macOS only
  [canary]
  question = \"What is 2+2? Respond with only the number.\"
  expected = \"4\"
  [fallback]                                  # `fallback --help`
  enabled = false
  url = \"http://127.0.0.1:1337\"

Each tick prints one JSON line an event, keeps it in <home>/logs/canary.log (10 MB, 5 files), and notices when another
watcher has not run for 2.5 of its cadences.

Exit codes: 0 answered; 1 not; 2 cannot run: certificates, watch.toml; 64 the command line is not understood.";

pub(super) const PARITY_NOTES: &str = "\
Asks the prompts of <home>/parity-smoke.json at temperature 0 and compares the answers, letter by letter. One that
differs is a warning; more than one tells whoever <home>/watch.toml names (`canary --help` shows that file). --record
writes the answers of the server as it is now; prompts, tokens and answers may be edited.

Examples:
  sanctum-mlx parity-smoke --record
  sanctum-mlx parity-smoke

Exit codes: 0 as recorded; 1 not, or not answered; 2 cannot run: nothing recorded, another model; 64 the command line is
not understood.";

/// `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to look at.
    #[command(subcommand)]
    pub kind: ProbeKind,
    /// Give up after this many seconds instead of the probe's own limit.
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout_seconds: Option<f64>,
    /// Which server to look at.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What a probe looks at.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ProbeKind {
    /// GET /v1/models must answer 200 with a model, within 10 seconds.
    Http,
    /// A chat must answer that 2+2 is 4, within 120 seconds.
    Chat,
    /// The next start must find its program, libraries, definition, model, certificates and disk; nothing is started.
    #[command(after_long_help = INTEGRITY_NOTES)]
    Integrity(IntegrityArgs),
}

/// `probe integrity`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct IntegrityArgs {
    /// What the supervisor calls the server (by default com.sanctum.mlx with launchd, sanctum-mlx.service with systemd).
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// How long the server may drain (by default what was installed, else 25).
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(0..=3_600))]
    pub drain_seconds: Option<u64>,
    /// Least free space on the disk of the home.
    #[arg(long, value_name = "MB", default_value_t = 1_000)]
    pub disk_floor_mb: u64,
    /// How often it is scheduled. Without it nobody is called, and other watchers do not wait for the next look.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=86_400))]
    pub every_seconds: Option<u64>,
}

/// `guardian`.
#[derive(Debug, Args)]
pub struct GuardianArgs {
    /// The server, and who the guardian is to it.
    #[command(flatten)]
    pub server: ServerArgs,
    /// A listener that must serve, instead of the one of --url; repeat it for each.
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub listener: Vec<String>,
    /// What the supervisor calls the server (by default com.sanctum.mlx with launchd, sanctum-mlx.service with systemd).
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Give up on a listener after this many seconds instead of 10.
    #[arg(long, value_name = "SECONDS")]
    pub timeout_seconds: Option<f64>,
    /// How long the server may drain: its own --drain-seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = value_parser!(u64).range(0..=3_600))]
    pub drain_seconds: u64,
    /// How often it is scheduled.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    pub every_seconds: u64,
}

/// `canary`.
#[derive(Debug, Args)]
pub struct CanaryArgs {
    /// Which server to ask.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Give up on a try after this many seconds instead of 120.
    #[arg(long, value_name = "SECONDS")]
    pub timeout_seconds: Option<f64>,
    /// How long after a failed try it is tried once more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(0..=3_600))]
    pub retry_seconds: u64,
    /// How often it is scheduled.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(1..=86_400))]
    pub every_seconds: u64,
}

/// `parity-smoke`.
#[derive(Debug, Args)]
pub struct ParitySmokeArgs {
    /// Which server to ask.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Ask, and keep the answers as what is right from now on.
    #[arg(long)]
    pub record: bool,
    /// The prompts and their answers (by default `<home>/parity-smoke.json`).
    #[arg(long, value_name = "PATH")]
    pub spec: Option<PathBuf>,
    /// Give up on an answer after this many seconds instead of 120.
    #[arg(long, value_name = "SECONDS")]
    pub timeout_seconds: Option<f64>,
    /// How often it is scheduled.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = value_parser!(u64).range(1..=604_800))]
    pub every_seconds: u64,
}
