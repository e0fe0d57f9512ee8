//! The command line, as it was typed. Settings are kept as texts: `resolve` judges them together with variables and the
//! file, so that every mistake is told in one go. It owns the manual (`--help`); it refuses to know what is right.

mod deploy;
mod doctor;
mod fallback;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, value_parser};

use crate::config::names::{Kind, SETTINGS, Setting};

use self::deploy::{DRIFT_NOTES, INSTALL_NOTES};
pub use self::deploy::{DriftArgs, InstallArgs, RollbackArgs, StatusArgs, UninstallArgs, VerifyArgs};
use self::doctor::DOCTOR_NOTES;
use self::fallback::FALLBACK_NOTES;
pub use self::fallback::{FallbackAction, FallbackArgs};
use self::watch::{CANARY_NOTES, GUARDIAN_NOTES, PARITY_NOTES};
pub use self::watch::{CanaryArgs, GuardianArgs, IntegrityArgs, ParitySmokeArgs, ProbeArgs, ProbeKind};

/// What clap's own mistakes exit with: `EX_USAGE`.
pub const EXIT_USAGE: u8 = 64;

const EXIT_CODES: &str = "\
Exit codes of serve:
    0  drained and stopped as asked; also when told to stop while loading
   64  the command line is not understood
   70  the inference engine died: panic, device error or stall
   71  the operating system refused something, such as a port
   75  stopped by force at the drain deadline
   78  the configuration, a certificate or the model is wrong; nothing was bound
  130  interrupted twice
Probes: 0 healthy, 1 unhealthy, 2 cannot run or needs a human. Doctor: 0 ready to start, 1 not.
Bench: 0 measured, 1 measured but some answers failed, 2 cannot run.";

const SERVE_NOTES: &str = "\
Settings come from flags, then from variables, then from the settings file, then from the defaults. A flag --drain-seconds
is the variable SANCTUM_MLX_DRAIN_SECONDS and the key drain_seconds. Every mistake is reported in one go, before anything
is bound.

Examples:
  sanctum-mlx serve
  sanctum-mlx serve --model mlx-community/Qwen3-4B-4bit --alias gpt-4o-mini --drain-seconds 10
  sanctum-mlx serve --host 0.0.0.0 --allow-remote-plain --api-key-file ~/.sanctum-mlx/token
  SANCTUM_MLX_PORT=8080 sanctum-mlx serve --check

Signals: TERM or INT drains and stops; INT twice stops now; HUP and USR1 are described in the README.";

const BENCH_NOTES: &str = "\
First 1, 2, 4 ... N clients, each of which asks again when its answer is complete (closed loop: capacity); then, for each
--rate, requests that come by chance, as from many users who do not wait for each other (open loop: latency under load;
times count from the moment at which a request was due, so that a server that falls behind cannot hide it).

Every answer is greedy, streamed, and of exactly --tokens tokens (`ignore_eos`); one of another length counts as failed.
No two prompts begin alike, or the server's prefix cache would do the work, unless --shared-prefix says otherwise. How
many words make --prompt-tokens is learned from what the server counts. The table tells how many tokens the server found
cached, and what each word in it means. A 99th percentile is told from 1,000 samples on.

Nothing of the model is loaded here: it can run beside the server or on another machine, against any server with
/v1/models and streaming /v1/chat/completions that honours `ignore_eos`. Client and server share the processor when they
share the machine: `client ... cores` says how much this program took. The table goes to stdout and speech to stderr;
with --json, JSON goes to stdout and the table to stderr.

Examples:
  sanctum-mlx bench
  sanctum-mlx bench --clients 16 --prompt-tokens 1024 --tokens 32 --json > bench.json
  sanctum-mlx bench --clients 0 --rate 0.5,1,2,4 --rate-seconds 60 --slo-ttft-ms 1000
  sanctum-mlx bench --url https://host.local:1338 --ca ca.crt --cert me.crt --key me.key

Exit codes: 0 measured; 1 measured, but some answers failed, as stderr and the column `failed` say; 2 cannot run: no
server, not ready, certificates, sizes; 64 the command line is not understood.";

const MANIFEST_NOTES: &str = "\
The manifest is what `sha256sum` writes and checks (manifest.sha256 in the model's folder; FILE.sha256 beside a model of
one file), and its signature is Ed25519, in hexadecimal, beside it. Files are hashed in parallel; one that did not change
since (same inode, size and times) is not read again. A file that the manifest does not name is a mistake too, hidden
files excepted. Keep the private key on another machine: whoever has it can sign.

Examples:
  sanctum-mlx manifest keygen
  sanctum-mlx manifest sign ~/models/smol
  sanctum-mlx manifest verify ~/models/smol
  sanctum-mlx serve --model ~/models/smol --manifest ~/.sanctum-mlx/keys/manifest.pub

Exit codes: 0 done; 78 it is not what was signed, or cannot be done; 64 the command line is not understood.";

/// An OpenAI-compatible inference server on MLX whose listener never outlives its ability to answer.
#[derive(Debug, Parser)]
#[command(name = "sanctum-mlx", version, after_long_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model on plain HTTP and mutual TLS until told to stop.
    #[command(after_help = EXIT_CODES, after_long_help = serve_notes())]
    Serve(ServeArgs),
    /// Download a model, verify it and print where it is.
    #[command(after_long_help = "Example:\n  sanctum-mlx pull mlx-community/SmolLM2-135M-Instruct")]
    Pull(PullArgs),
    /// Make, hand out, revoke and list the certificates of mutual TLS.
    Certs(CertsArgs),
    /// Sign what a model's files hold, and find out whether they still do.
    #[command(after_long_help = MANIFEST_NOTES)]
    Manifest(ManifestArgs),
    /// Look once whether a server answers; one JSON line on stdout; exit 0 healthy, 1 unhealthy, 2 cannot run.
    Probe(ProbeArgs),
    /// Look whether the server serves on every listener, and restart it when it does not; one tick.
    #[command(after_long_help = GUARDIAN_NOTES)]
    Guardian(GuardianArgs),
    /// Ask a running server a question and call someone when it cannot answer it; one tick, as a scheduler runs it.
    #[command(after_long_help = CANARY_NOTES)]
    Canary(CanaryArgs),
    /// Compare a running server's answers to ten prompts with recorded ones, and call someone when they changed; one tick.
    #[command(after_long_help = PARITY_NOTES)]
    ParitySmoke(ParitySmokeArgs),
    /// Compare what is deployed with what was installed, and call someone when it differs; one tick.
    #[command(after_long_help = DRIFT_NOTES)]
    Drift(DriftArgs),
    /// Put another server in the place of one that no restart can help, and go back.
    #[command(after_long_help = FALLBACK_NOTES)]
    Fallback(FallbackArgs),
    /// Install this program as a supervised server with its watchers, out of reach of any build folder.
    #[command(after_long_help = INSTALL_NOTES)]
    Install(InstallArgs),
    /// Install this program over an earlier one, which is kept for `rollback`.
    #[command(after_long_help = INSTALL_NOTES)]
    Upgrade(InstallArgs),
    /// Go back to the release before, in one step.
    Rollback(RollbackArgs),
    /// Unload the server and its watchers and remove their definitions; settings, certificates and models stay.
    Uninstall(UninstallArgs),
    /// Print what is installed, what runs, and what of it is not as it should be; exit 0 or 1.
    Status(StatusArgs),
    /// Compare every installed file with its hash, once; exit 0 or 1.
    Verify(VerifyArgs),
    /// Measure a running server: time to first token, gaps between tokens, throughput at 1, 2, 4 ... N clients.
    #[command(after_long_help = BENCH_NOTES)]
    Bench(BenchArgs),
    /// Look for everything that could stop the next start, each with its remedy; exit 0 or 1.
    #[command(after_long_help = DOCTOR_NOTES)]
    Doctor(DoctorArgs),
}

/// The notes of `serve` followed by the exit codes.
fn serve_notes() -> String {
    format!("{SERVE_NOTES}\n\n{EXIT_CODES}")
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Every setting given as a flag.
    #[command(flatten)]
    pub flags: Flags,
    /// Validate, print the resolved settings with the source of each, and start nothing.
    #[arg(long)]
    pub check: bool,
    /// With --check: print JSON.
    #[arg(long, requires = "check")]
    pub json: bool,
}

/// `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model's name on the hub, as `owner/name` or `owner/name@revision`.
    pub name: String,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `certs`.
#[derive(Debug, Args)]
pub struct CertsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub action: CertsAction,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// The actions on certificates.
#[derive(Debug, Subcommand)]
pub enum CertsAction {
    /// Make whatever is missing: authority, server certificate, revocation list, first client. Never replaces a key.
    Init {
        /// A further name or address of the server certificate.
        #[arg(long, value_name = "TEXT")]
        tls_host: Vec<String>,
    },
    /// Make a key and a certificate for a client.
    Issue {
        /// The client's name: letters, digits, dot, dash and underscore.
        name: String,
    },
    /// Revoke a client's certificate and sign the revocation list anew.
    Revoke {
        /// The client's name.
        name: String,
    },
    /// Print name, serial, last day and state of every certificate.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: ManifestAction,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// The actions on manifests.
#[derive(Debug, Subcommand)]
pub enum ManifestAction {
    /// Make the key pair `<home>/keys/manifest.key` and `.pub`. Never replaces one.
    Keygen,
    /// Hash every file of a model and sign the list.
    Sign {
        /// The model's folder or its GGUF file.
        model: PathBuf,
        /// The private key (by default `<home>/keys/manifest.key`).
        #[arg(long, value_name = "PATH")]
        key: Option<PathBuf>,
    },
    /// Check the signature, then every file; exit 78 naming each file that is not what was signed.
    Verify {
        /// The model's folder or its GGUF file.
        model: PathBuf,
        /// The public key (by default `<home>/keys/manifest.pub`).
        #[arg(long, value_name = "PATH")]
        key: Option<PathBuf>,
    },
}

/// `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which server to measure.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The model to ask for, by its id; without it, the first that the server lists.
    #[arg(long, value_name = "TEXT")]
    pub model: Option<String>,
    /// Measure at 1, 2, 4 ... and at this number of clients; 0 leaves the closed loop out.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(0..=256))]
    pub clients: u32,
    /// Requests that each client of the closed loop sends.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=100_000))]
    pub requests: u32,
    /// Tokens of each prompt, with what the chat template adds.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub prompt_tokens: u32,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(2..=1_000_000))]
    pub tokens: u32,
    /// Tokens at the beginning of all prompts that are alike, to measure the prefix cache.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub shared_prefix: u32,
    /// Also measure at this many requests a second, by chance (Poisson). Repeat it, or separate by commas.
    #[arg(long, value_name = "R", value_delimiter = ',', value_parser = rate)]
    pub rate: Vec<f64>,
    /// How long each rate is kept up.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u32).range(1..=3_600))]
    pub rate_seconds: u32,
    /// An answer is good if its first token comes within this time ...
    #[arg(long, value_name = "MS", default_value_t = 500.0, value_parser = objective)]
    pub slo_ttft_ms: f64,
    /// ... and each further one, on average, within this.
    #[arg(long, value_name = "MS", default_value_t = 50.0, value_parser = objective)]
    pub slo_tpot_ms: f64,
    /// Of the moments at which requests of an open loop are due.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Most time for one answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..=86_400))]
    pub timeout_seconds: u32,
    /// Print JSON on stdout, and the table on stderr.
    #[arg(long)]
    pub json: bool,
}

/// A number of requests a second that makes sense.
fn rate(text: &str) -> Result<f64, String> {
    positive(text, 1_000.0)
}

/// Milliseconds that someone may wait for.
fn objective(text: &str) -> Result<f64, String> {
    positive(text, 1e9)
}

fn positive(text: &str, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "wants a number".to_owned())?;
    if number > 0.0 && number <= most { Ok(number) } else { Err(format!("wants more than 0 and at most {most}")) }
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The settings that the next start would have.
    #[command(flatten)]
    pub flags: Flags,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Look only whether this program carries everything that it loads; what comes from elsewhere is named.
    #[arg(long = "self", conflicts_with = "json")]
    pub itself: bool,
}

/// Which server a command talks to, and who it is to that server.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The server; without it, mutual TLS on 127.0.0.1:1338 where certificates exist, else plain HTTP on 127.0.0.1:1337.
    #[arg(long, global = true)]
    pub url: Option<String>,
    /// The authority that the server's certificate must chain to (by default `<home>/certs/ca.crt`).
    #[arg(long, global = true, value_name = "PATH")]
    pub ca: Option<PathBuf>,
    /// The certificate to show (by default `<home>/certs/clients/default.crt`).
    #[arg(long, global = true, value_name = "PATH", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key (by default `<home>/certs/clients/default.key`).
    #[arg(long, global = true, value_name = "PATH", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// The one root of everything kept.
#[derive(Debug, Clone, Args)]
pub struct RootArgs {
    /// The root of everything the program keeps [variable SANCTUM_MLX_HOME; default ~/.sanctum-mlx].
    #[arg(long, global = true, value_name = "PATH")]
    pub home: Option<PathBuf>,
}

/// Settings that were given as flags: by key, the texts in their order.
#[derive(Debug, Clone, Default)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// What was given for `key`.
    pub(crate) fn texts(&self, key: &str) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The root, when it was given as a flag.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.texts("home")?.first().map(PathBuf::from)
    }

    /// As if nothing but `--home` had been typed.
    pub(crate) fn of_home(home: &Path) -> Self {
        Self(BTreeMap::from([("home", vec![home.to_string_lossy().into_owned()])]))
    }

    /// As if `--key text` had been typed.
    #[cfg(test)]
    pub(crate) fn with(mut self, key: &'static str, text: &str) -> Self {
        self.0.entry(key).or_default().push(text.to_owned());
        self
    }
}

impl Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        SETTINGS.iter().fold(command, |command, setting| command.arg(flag(setting)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS {
            if setting.kind == Kind::Switch {
                if matches.get_flag(setting.key) {
                    self.0.insert(setting.key, vec!["true".to_owned()]);
                }
            } else if let Some(texts) = matches.get_many::<String>(setting.key) {
                self.0.insert(setting.key, texts.cloned().collect());
            }
        }
        Ok(())
    }
}

/// One setting as a flag of clap's.
fn flag(setting: &'static Setting) -> Arg {
    let first_sentence = setting.help.split_inclusive(['.', ';']).next().unwrap_or(setting.help);
    let argument = Arg::new(setting.key)
        .long(setting.key.replace('_', "-"))
        .help(first_sentence.trim_end_matches(['.', ';']).to_owned())
        .long_help(manual(setting))
        .help_heading(setting.part.heading());
    match setting.kind.placeholder() {
        None => argument.action(ArgAction::SetTrue),
        Some(word) if setting.kind == Kind::List => argument.action(ArgAction::Append).value_name(word),
        // Numbers are judged by `resolve`, so that `-1` is a mistake with a remedy and not an unknown flag.
        Some(word) => argument.action(ArgAction::Set).value_name(word).allow_negative_numbers(true),
    }
}

/// The setting's paragraph in the manual.
fn manual(setting: &Setting) -> String {
    let list = if setting.kind == Kind::List { " Repeat it, or separate by commas." } else { "" };
    let default = if setting.default.is_empty() { "none" } else { setting.default };
    let key = if setting.in_file { format!("; key: {}", setting.key) } else { String::new() };
    let wants = setting.kind.wants();
    format!("{}{list}\n[wants {wants}; default: {default}; variable: {}{key}]", setting.help, setting.variable())
}

/// Reads a command line.
///
/// # Errors
/// The line is not understood, or asks for help: print the error and exit with [`exit_code`] of it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

/// 0 for help and version, which are data; [`EXIT_USAGE`] for a line that is not understood.
#[must_use]
pub fn exit_code(refusal: &clap::Error) -> u8 {
    if refusal.use_stderr() { EXIT_USAGE } else { 0 }
}

#[cfg(test)]
mod tests;
