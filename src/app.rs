//! The composition root: the only module that sees every layer. It owns which command does what and which exit code
//! tells it; the way `serve` comes up and goes down is in its submodules.

mod announce;
mod awake;
mod loading;
mod self_probe;
mod serve;
mod shutdown;
mod surroundings;

use std::ffi::OsString;

use crate::config::args::{self, Cli, Command, PullArgs};
use crate::hub::{self, Access, ModelName};
use crate::lifecycle::exit::ExitCode;
use crate::ops;
use crate::ops::install::Before;

/// Runs one command line to its end and returns the exit code; `serve` does not return when it was started.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    match args::parse(arguments) {
        Ok(Cli { command }) => dispatch(&command),
        Err(refusal) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = refusal.print();
            i32::from(args::exit_code(&refusal))
        }
    }
}

fn dispatch(command: &Command) -> i32 {
    match command {
        Command::Serve(args) => serve::run(args) as i32,
        Command::Pull(args) => told(pull(args)),
        Command::Certs(args) => told(ops::certs::run(args)),
        Command::Probe(args) => ops::probe::run(args) as i32,
        Command::Manifest(args) => told(ops::manifest::run(args)),
        Command::Canary(args) => ops::canary::run(args) as i32,
        Command::Guardian(args) => ops::guardian::run(args) as i32,
        Command::ParitySmoke(args) => ops::parity_smoke::run(args) as i32,
        Command::Drift(args) => ops::drift::run(args) as i32,
        Command::Fallback(args) => ops::fallback::run(args) as i32,
        Command::Install(args) => told(ops::install::install(args, Before::Any)),
        Command::Upgrade(args) => told(ops::install::install(args, Before::Something)),
        Command::Rollback(args) => told(ops::install::rollback(args)),
        Command::Uninstall(args) => told(ops::install::uninstall(args)),
        Command::Status(args) => judged(ops::install::status(args)),
        Command::Verify(args) => judged(ops::install::verify(args)),
        Command::Bench(args) => ops::bench::run(args) as i32,
        Command::Doctor(args) => judged(ops::doctor::run(args)),
    }
}

fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let name = ModelName::parse(&args.name)?;
    let path = Access::from_env()?.pull(&name, hub::on_stderr().as_mut())?;
    println!("{}", path.display());
    Ok(())
}

/// 0 when all is well, 1 when it is not.
fn judged(well: anyhow::Result<bool>) -> i32 {
    match well {
        Ok(well) => i32::from(!well),
        Err(error) => told(Err(error)),
    }
}

/// One line on stderr for what went wrong; the code says that the asker can mend it.
fn told(outcome: anyhow::Result<()>) -> i32 {
    match outcome {
        Ok(()) => ExitCode::Done as i32,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::Config as i32
        }
    }
}
