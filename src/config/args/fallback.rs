//! The command line of the fallback: which way, and its page of the manual.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

use crate::config::args::RootArgs;

pub(super) const FALLBACK_NOTES: &str = "\
Another server takes the place of this one when restarting cannot help. define writes its definition for mlx_lm.server:
launchd's com.sanctum.server-mlx.plist in ~/Library/LaunchAgents, or systemd's sanctum-mlx-fallback.service among the user's
units; you may write that file yourself, for any server. <home>/watch.toml says that it may be used, and where it answers in
plain HTTP:
  [fallback]
  enabled = true                    # without it nothing is ever switched
  url = \"http://127.0.0.1:1337\"     # the default: the port that clients know, which only one of the two has at a time

activate ends the server, loads the fallback, and leaves word in <home>/state/fallback.json; while that is there, every
watcher looks at the fallback, and says so (fallback_serving). There is no fallback from the fallback. restore looks whether
the server would boot, goes back, waits until it is ready and answers a chat, and takes the word back; when it does not
answer, the fallback is loaded again. What is unloaded is not started at login either. drill does both for real, with
someone who asks all the time, and prints how long nobody was answered. Run it once after the fallback was defined.

The guardian activates it by itself when the server would not boot, was restarted three times within an hour, or says what
another start would say again: metallib missing, manifest or signature invalid, address in use, out of memory,
segmentation fault, exit 78. Only a person goes back.

Examples:
  sanctum-mlx fallback define --python ~/mlx/bin/python3 --model mlx-community/Qwen3-4B-4bit
  sanctum-mlx fallback drill
  sanctum-mlx fallback activate --why \"new weights are being signed\"
  sanctum-mlx fallback restore

Exit codes: 0 done, or (status) the server's turn; 1 the fallback was loaded and does not answer, or (status) it serves;
2 refused or failed: what served before serves on, unless stderr says otherwise; 64 the command line is not understood.";

/// `fallback`.
#[derive(Debug, Args)]
pub struct FallbackArgs {
    /// Which way.
    #[command(subcommand)]
    pub action: FallbackAction,
    /// What the supervisor calls the server (by default com.sanctum.mlx with launchd, sanctum-mlx.service with systemd).
    #[arg(long, global = true, value_name = "NAME")]
    pub service: Option<String>,
    /// How long the fallback may take until it answers.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 900, value_parser = value_parser!(u64).range(1..=86_400))]
    pub ready_seconds: u64,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// The ways.
#[derive(Debug, Subcommand)]
pub enum FallbackAction {
    /// Write the definition of mlx_lm.server; nothing is started.
    Define {
        /// The Python interpreter that has the package mlx-lm.
        #[arg(long, value_name = "FILE")]
        python: PathBuf,
        /// The model, by the name or the folder that mlx_lm.server takes.
        #[arg(long, value_name = "NAME")]
        model: String,
    },
    /// End the server and load the fallback.
    Activate {
        /// What the word that is left says.
        #[arg(long, value_name = "TEXT", default_value = "a person said so")]
        why: String,
    },
    /// End the fallback and load the server, if it would boot.
    Restore,
    /// There and back; prints how long nobody answered.
    Drill,
    /// Say who serves, and whether the fallback could.
    Status,
}
