//! The resolved settings: validated, immutable, in the units of their use. It owns what a setting means once every
//! source has been heard; it refuses to know flags, variables and files, which `args` and `resolve` read.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything `serve` needs, with every mistake already refused.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The root of everything the program keeps.
    pub home: PathBuf,
    /// A folder, a `.gguf` file or a hub name; `None` is the embedded default.
    pub model: Option<String>,
    /// Further ids under which the model answers.
    pub aliases: Vec<String>,
    /// Bits of the integers that keys and values are stored as, 4 or 8; `None`: as they are computed.
    pub kv_bits: Option<u32>,
    /// The public key by which the model's manifest must be signed; `None`: whatever the files hold is served.
    pub manifest: Option<PathBuf>,
    /// Where we listen.
    pub listen: Listen,
    /// How long things may take; already divided by the time scale.
    pub times: Times,
    /// How much of anything is accepted.
    pub limits: Limits,
    /// The model and its rows are kept in memory that is never paged out.
    pub wired: bool,
    /// Unknown request fields are a 400 instead of a header.
    pub strict: bool,
    /// Faults to inject, as written after `--fault`; always empty without the `fault` feature.
    pub faults: Vec<String>,
    /// Log lines as JSON objects instead of text.
    pub log_json: bool,
    /// The file of log lines; `None` for stderr.
    pub log_file: Option<PathBuf>,
}

/// Where the server listens.
#[derive(Clone)]
pub struct Listen {
    /// Plain HTTP/1.1 addresses; empty with `--no-plain`.
    pub plain: Vec<SocketAddr>,
    /// Mutual TLS addresses; empty with `--no-tls`.
    pub tls: Vec<SocketAddr>,
    /// The hosts of the TLS addresses as they were written; names of the server certificate.
    pub tls_names: Vec<String>,
    /// Health and metrics on their own runtime; loopback.
    pub admin: SocketAddr,
    /// Host names, besides the loopback ones, that the plain port answers to.
    pub hosts: Vec<String>,
    /// Bearer token required on the plain port, when one is configured.
    pub bearer_token: Option<String>,
}

impl fmt::Debug for Listen {
    /// Everything but the token, which must not reach a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, tls, tls_names, admin, hosts, bearer_token } = self;
        let mut debug = formatter.debug_struct("Listen");
        debug.field("plain", plain).field("tls", tls).field("tls_names", tls_names).field("admin", admin);
        debug.field("hosts", hosts).field("bearer_token", &bearer_token.as_ref().map(|_| "(set)")).finish()
    }
}

/// Every time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// In-flight work may finish for this long after the first request to stop.
    pub drain: Duration,
    /// No progress for this long while work is pending: degraded.
    pub stall_degraded: Duration,
    /// No progress for this long: not ready.
    pub stall_unready: Duration,
    /// No progress for this long: the process ends.
    pub stall_dead: Duration,
    /// Longest wait in the queue.
    pub queue_wait: Duration,
    /// Longest time one request may take in all.
    pub request: Duration,
    /// From accept to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a head to its end.
    pub headers: Duration,
    /// From accept to the end of a TLS handshake.
    pub tls_handshake: Duration,
    /// From the end of the head to the end of the body.
    pub body: Duration,
    /// Between two comment pings on a stream.
    pub ping: Duration,
    /// A client that takes nothing for this long is dropped.
    pub write_stall: Duration,
    /// Between two looks of the watch thread.
    pub watch: Duration,
    /// An idle engine without a token for this long is asked for one; zero: never.
    pub self_probe: Duration,
    /// A token for the process itself that takes longer is a miss.
    pub self_probe_deadline: Duration,
    /// Between two looks at the executable on disk.
    pub integrity: Duration,
    /// The window in which bad ends are counted, and the first pause of the brake.
    pub brake: Duration,
}

/// Every bound on what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes: u64,
    /// Connections open at once, all listeners together.
    pub connections: usize,
    /// TLS handshakes under way at once.
    pub half_handshakes: usize,
    /// Jobs accepted and not yet admitted.
    pub queue_jobs: u32,
    /// Rows generated at once.
    pub rows: u32,
    /// Bytes for the model, rows and all that is kept; `None` is what the machine recommends.
    pub memory_bytes: Option<u64>,
    /// Bytes of finished prompts' states that are kept.
    pub prefix_cache_bytes: u64,
    /// Tokens that an answer may guess in a step.
    pub prompt_lookup: u32,
    /// Answers per request.
    pub n: u32,
    /// Stop strings per request.
    pub stop_strings: usize,
    /// Bad ends from which on a start does not load; 0: never.
    pub crash_loop_starts: u32,
    /// Alternatives listed per token.
    pub top_logprobs: u32,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// Messages per request.
    pub messages: usize,
    /// Tools per request.
    pub tools: usize,
    /// Default and most tokens generated when the client names no number; `None` is what is left of the context.
    pub tokens_default: Option<u32>,
}

impl Times {
    /// The documented defaults.
    #[must_use]
    pub fn documented() -> Self {
        let seconds = Duration::from_secs;
        Self {
            drain: seconds(25),
            stall_degraded: seconds(15),
            stall_unready: seconds(30),
            stall_dead: seconds(60),
            queue_wait: seconds(30),
            request: seconds(600),
            first_byte: seconds(10),
            headers: seconds(10),
            tls_handshake: seconds(5),
            body: seconds(30),
            ping: seconds(5),
            write_stall: seconds(60),
            watch: seconds(1),
            self_probe: seconds(60),
            self_probe_deadline: seconds(10),
            integrity: seconds(10),
            brake: seconds(600),
        }
    }
}

impl Limits {
    /// The documented defaults.
    #[must_use]
    pub fn documented() -> Self {
        Self {
            body_bytes: 8 << 20,
            connections: 512,
            half_handshakes: 64,
            queue_jobs: 64,
            rows: 8,
            memory_bytes: None,
            prefix_cache_bytes: 512 << 20,
            prompt_lookup: 0,
            crash_loop_starts: 5,
            n: 8,
            stop_strings: 4,
            top_logprobs: 20,
            logit_bias: 1024,
            messages: 2048,
            tools: 128,
            tokens_default: None,
        }
    }
}
