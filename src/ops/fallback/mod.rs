//! `fallback …`: another server in the place of one that no restart can help, and back. One direction at a time: nothing
//! falls back from the fallback, and only a person (or a drill) goes back. It owns what each command says and exits with;
//! the steps, the word that is left, and what counts as hopeless are in its submodules.

mod define;
pub(crate) mod fatal;
mod gap;
pub(crate) mod lock;
pub(crate) mod switch;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use self::gap::Asking;
use self::lock::Lock;
use self::switch::Switch;
use crate::config::args::{FallbackAction, FallbackArgs};
use crate::config::home;
use crate::ops::install::Proof;
use crate::ops::look::{self, Seen};
use crate::ops::supervisor;
use crate::ops::target::Target;
use crate::ops::turn;
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::Health;

/// Between two looks whether the fallback answers yet.
const LOOK: Duration = Duration::from_millis(100);
/// Tokens of the answer that shows that it does.
const TOKENS: u32 = 64;

/// Does it, says so, and says how it ended.
#[must_use]
pub fn run(args: &FallbackArgs) -> Health {
    act(args).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Health::CannotRun
    })
}

fn act(args: &FallbackArgs) -> anyhow::Result<Health> {
    let home = home::root(args.root.home.as_deref())?;
    let plan = Plan::of(&home)?;
    let supervisor = supervisor::of_system();
    let primary = args.service.clone().unwrap_or_else(|| supervisor.server().to_owned());
    let switch = Switch { home: &home, supervisor: supervisor.as_ref(), primary: &primary };
    let ready = Duration::from_secs(args.ready_seconds);
    if matches!(args.action, FallbackAction::Status) {
        return status(&switch, &plan);
    }
    let busy = || format!("an installation or another switch is under way in {}", home.display());
    let _turn = turn::take(&home)?.with_context(busy)?;
    match &args.action {
        FallbackAction::Define { python, model } => {
            let definition = define::write(&home, supervisor.as_ref(), &plan, python, model)?;
            println!("{} defines the fallback", definition.display());
            Ok(Health::Healthy)
        }
        FallbackAction::Activate { why } => {
            let lock = switch.activate(&plan, why, now())?;
            eprintln!("{} is loaded instead of {}", lock.fallback.name, lock.primary.name);
            Ok(told(&lock, answers(&lock.target(), &plan, ready)))
        }
        FallbackAction::Restore => {
            let lock = switch.restore()?;
            println!("{} is ready, and answers a chat; {} is unloaded", lock.primary.name, lock.fallback.name);
            Ok(Health::Healthy)
        }
        FallbackAction::Drill => drill(&switch, &plan, ready),
        FallbackAction::Status => unreachable!("it takes no turn and was answered above"),
    }
}

fn told(lock: &Lock, answered: anyhow::Result<()>) -> Health {
    match answered {
        Ok(()) => {
            println!("{} answers a chat at {}", lock.fallback.name, lock.url);
            Health::Healthy
        }
        Err(error) => {
            eprintln!("error: {error:#}; the guardian watches it from now on");
            Health::Unhealthy
        }
    }
}

/// Waits until a chat is answered at all; whether rightly is the canary's.
fn answers(target: &Target, plan: &Plan, limit: Duration) -> anyhow::Result<()> {
    let client = target.client(look::CHAT_LIMIT)?;
    let begun = Instant::now();
    loop {
        let why = match look::answer(&client, &plan.canary.question, TOKENS) {
            Ok(_) | Err(Seen::Busy(_) | Seen::Fine(_)) => return Ok(()),
            Err(Seen::Failed(why) | Seen::CannotLook(why)) => why,
        };
        if begun.elapsed() > limit {
            bail!("no chat was answered at {} within {} s: {why}", target.url, limit.as_secs());
        }
        std::thread::park_timeout(LOOK);
    }
}

/// There and back, for real, with someone who asks all the time.
fn drill(switch: &Switch<'_>, plan: &Plan, ready: Duration) -> anyhow::Result<Health> {
    // What would stop the way back is told before the way there.
    let usual = Proof::of(switch.home)?.target()?;
    let mut targets = vec![usual];
    if targets[0].url != plan.fallback.url {
        targets.push(Target { url: plan.fallback.url.clone(), identity: None });
    }
    switch.fallback(plan)?;
    let asking = Asking::begin(&targets, &plan.canary.question)?;
    let lock = switch.activate(plan, "a drill", now())?;
    let there = answers(&lock.target(), plan, ready).and_then(|()| asking.end());
    match &there {
        Ok(gap) => println!("activate: nobody answered for {} ms", gap.as_millis()),
        Err(error) => eprintln!("error: {error:#}; going back"),
    }
    // One that does not answer is no beginning of a measurement; the way back is taken all the same.
    let asking = there.is_ok().then(|| Asking::begin(&targets, &plan.canary.question)).transpose();
    switch.restore()?;
    if let Some(asking) = asking? {
        println!("restore: nobody answered for {} ms", asking.end()?.as_millis());
    }
    println!("{} is ready, and answers a chat", lock.primary.name);
    Ok(if there.is_ok() { Health::Healthy } else { Health::Unhealthy })
}

/// Who serves, and whether a switch would be refused.
fn status(switch: &Switch<'_>, plan: &Plan) -> anyhow::Result<Health> {
    let lock = Lock::of(switch.home)?;
    let process = |name: &str| -> anyhow::Result<String> {
        let service = switch.supervisor.look(name)?;
        Ok(match service.map(|service| service.pid) {
            Some(Some(pid)) => format!("process {pid}"),
            Some(None) => "no process".to_owned(),
            None => "not loaded".to_owned(),
        })
    };
    println!("primary   {}: {}", switch.primary, process(switch.primary)?);
    match (&lock, switch.fallback(plan)) {
        (Some(lock), _) => println!("fallback  {}: {}", lock.fallback.name, process(&lock.fallback.name)?),
        (None, Ok(part)) => println!("fallback  {}: {}, could be activated", part.name, process(&part.name)?),
        (None, Err(error)) => println!("fallback  could not be activated: {error:#}"),
    }
    if let Some(lock) = &lock {
        println!("{}", lock.words());
    }
    Ok(if lock.is_some() { Health::Unhealthy } else { Health::Healthy })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
