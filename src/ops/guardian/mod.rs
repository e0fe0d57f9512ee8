//! The guardian: the process serves and the engine makes progress; if not, it is started again. The only watcher that
//! heals, and the one that can do harm: busy is not hung, a server that would not boot is not killed, and after three
//! restarts within an hour a human is called instead of a fourth.

mod ends;
mod judge;
mod standby;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use self::ends::Starts;
use self::judge::{Answer, Past, Verdict};
use crate::client::wire::ErrorEnvelope;
use crate::client::{Client, ClientError};
use crate::config::args::{GuardianArgs, ServerArgs};
use crate::config::home;
use crate::ops::fallback::lock::Lock;
use crate::ops::integrity;
use crate::ops::look;
use crate::ops::serving::Serving;
use crate::ops::state::State;
use crate::ops::supervisor::{self, Service, Supervisor};
use crate::ops::target::Target;
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::{Health, Tick, Watcher};

const OK: Kind = Kind::info("guardian_ok");
/// It loads or drains.
const WAITING: Kind = Kind::info("guardian_waiting");
/// The listeners are silent, and the engine works.
const BUSY: Kind = Kind::warn("guardian_busy");
/// A listener failed, not often enough for anything to be done: a line that nobody can miss, and nobody is called.
const FAILED: Kind = Kind::error("guardian_failed");
/// Another process answers on our port.
const SQUATTED: Kind = Kind::error("port_squatted").alerting(60);
/// A process of the server ended and another one serves: nothing else shows it.
const DIED: Kind = Kind::error("server_died").alerting(10);
/// The server put itself into its brake.
const CRASH_LOOP: Kind = Kind::error("crash_loop").alerting(60);
/// It was started again.
const RESTARTED: Kind = Kind::error("guardian_restarted").alerting(10);
/// It should be, and was not, because it would not boot.
const WITHHELD: Kind = Kind::error("restart_withheld").alerting(30);
/// It should be, and was not, because it was three times within the hour.
const RATE_LIMITED: Kind = Kind::error("rate_limited").alerting(60);
/// It should be, and could not.
const RESTART_FAILED: Kind = Kind::error("restart_failed").alerting(30);
const CANNOT_RUN: Kind = Kind::error("guardian_cannot_run").alerting(60);

/// After its drain a server needs this long to be gone.
const DRAIN_GRACE_SECONDS: u64 = 2;
/// The engine or the runtime works when it moved within this.
const PROGRESS_SECONDS: f64 = 15.0;

/// A listener, and what it answered.
struct Look {
    url: String,
    answer: Answer,
    /// It took the connection and said nothing within the limit: what a busy server does, and a hung one.
    silent: bool,
    instance: Option<String>,
}

/// What the server's own admin listener says.
#[derive(Debug, Deserialize)]
struct Inside {
    instance: String,
    running_rows: u32,
    last_step_age_seconds: f64,
    runtime_tick_age_seconds: f64,
}

/// What a listener's 200 says besides its models.
#[derive(Debug, Deserialize)]
struct Listed {
    data: Vec<serde_json::Value>,
    sanctum: Option<Instance>,
}

#[derive(Debug, Deserialize)]
struct Instance {
    instance: String,
}

/// One tick: looks at every listener, heals if it must, tells, and says how it ended.
#[must_use]
pub fn run(args: &GuardianArgs) -> Health {
    let every = Some(Duration::from_secs(args.every_seconds));
    let home = home::root(args.server.root.home.as_deref());
    let tick = Tick::begin(Watcher { name: "guardian", every }, home.as_deref().ok());
    let prepared = home.map_err(anyhow::Error::from).and_then(|home| {
        let plan = Plan::of(&home)?;
        let limit = look::limit(args.timeout_seconds, look::MODELS_LIMIT)?;
        let lock = Lock::of(&home)?;
        let targets: Vec<Target> = match &lock {
            Some(lock) => vec![lock.target()],
            None => servers(args).iter().map(Target::of).collect::<Result<_, _>>()?,
        };
        let clients = targets.iter().map(|target| Ok((target.url.clone(), target.client(limit)?)));
        let clients: Vec<(String, Client)> = clients.collect::<anyhow::Result<_>>()?;
        let transport = targets.iter().map(Target::transport).min().unwrap_or("none");
        Ok((home, (plan, lock), clients, transport, limit))
    });
    let (home, (plan, lock), clients, transport, limit) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tick.end(Health::CannotRun, "none", vec![CANNOT_RUN.with(format!("{error:#}"))], None),
    };
    let supervisor = supervisor::of_system();
    let service = args.service.clone().unwrap_or_else(|| supervisor.server().to_owned());
    let guard = Guard {
        home: &home,
        plan: &plan,
        lock: lock.as_ref(),
        supervisor: supervisor.as_ref(),
        service: &service,
        limit,
        drain_seconds: args.drain_seconds,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (health, events) = match &lock {
        Some(lock) => guard.follow(lock, &standby::look_at(&clients), now),
        None => guard.act(clients.iter().map(|(url, client)| look_at(url, client)).collect(), now),
    };
    if health == Health::Healthy
        && let Some(url) = &plan.heartbeat.url
    {
        beat(url);
    }
    tick.end(health, transport, events, Some(&plan))
}

/// One target for each listener that was named, or the usual one.
fn servers(args: &GuardianArgs) -> Vec<ServerArgs> {
    if args.listener.is_empty() {
        return vec![args.server.clone()];
    }
    args.listener.iter().map(|url| ServerArgs { url: Some(url.clone()), ..args.server.clone() }).collect()
}

fn look_at(url: &str, client: &Client) -> Look {
    let look = |answer, silent, instance| Look { url: url.to_owned(), answer, silent, instance };
    let reply = match client.get("/v1/models") {
        Ok(reply) => reply,
        Err(error) => {
            let silent = matches!(error, ClientError::Timeout(_));
            return look(Answer::Failed(format!("{url}: {error}")), silent, None);
        }
    };
    if reply.status == 200 {
        return match reply.json::<Listed>() {
            Ok(listed) if !listed.data.is_empty() => {
                look(Answer::Served, false, listed.sanctum.map(|sanctum| sanctum.instance))
            }
            Ok(_) => look(Answer::Failed(format!("{url}: 200, but no model is listed")), false, None),
            Err(error) => look(Answer::Failed(format!("{url}: {error}")), false, None),
        };
    }
    let error = reply.json::<ErrorEnvelope>().map(|envelope| envelope.error);
    let (code, message) = match error {
        Ok(error) => (error.code.unwrap_or_default(), error.message),
        Err(_) => (String::new(), reply.excerpt()),
    };
    let answer = match (reply.status, code.as_str()) {
        (503, "starting" | "loading") => Answer::Loading,
        (503, "draining" | "shutting_down") => Answer::Draining,
        (503, "crash_loop") => Answer::CrashLoop(message),
        (status, _) => Answer::Failed(format!("{url}: {status} {message}")),
    };
    look(answer, false, None)
}

/// Everything that healing needs.
struct Guard<'a> {
    home: &'a Path,
    plan: &'a Plan,
    /// That the fallback serves, when this tick began.
    lock: Option<&'a Lock>,
    supervisor: &'a dyn Supervisor,
    service: &'a str,
    limit: Duration,
    drain_seconds: u64,
}

impl Guard<'_> {
    fn act(&self, looks: Vec<Look>, now: u64) -> (Health, Vec<Event>) {
        let state = State::of(self.home, "guardian");
        let mut past: Past = state.read();
        let mut events = Vec::new();
        let inside = self.inside();
        let squatted = self.squatter(&looks, inside.as_ref(), past.instance.as_deref());
        let silent = looks.iter().all(|look| look.silent || !matches!(look.answer, Answer::Failed(_)));
        let mut answers: Vec<Answer> = looks.into_iter().map(|look| look.answer).collect();
        if let Some(why) = squatted {
            events.push(SQUATTED.with(why.clone()));
            answers.push(Answer::Failed(why));
        }
        past.instance = inside.as_ref().map(|inside| inside.instance.clone()).or(past.instance);
        events.extend(self.died(&answers, &mut past));
        let verdict = past.judge(&answers, now, self.drain_seconds + DRAIN_GRACE_SECONDS);
        let (health, event) = match verdict {
            Verdict::Healthy => (Health::Healthy, OK.with(format!("{} listeners serve", answers.len()))),
            Verdict::Waiting(state) => (Health::Healthy, WAITING.with(state)),
            Verdict::CrashLoop(why) => self.braked(why, &mut past, now),
            Verdict::Failing(why) => (Health::Unhealthy, FAILED.with(why)),
            Verdict::RateLimited(why) => {
                let why = format!("restarted three times within an hour, and still {why}");
                self.alone(|| self.helpless(&RATE_LIMITED, why, &mut past, now))
            }
            Verdict::Suspect(why) if silent && inside.as_ref().is_some_and(works) => {
                (Health::Unhealthy, BUSY.with(format!("{why}; yet the engine works")))
            }
            Verdict::Suspect(why) => self.alone(|| self.heal(&why, &mut past, now)),
        };
        events.push(event);
        if let Err(error) = state.write(&past) {
            events.push(CANNOT_RUN.with(format!("restarts cannot be counted: {error}")));
        }
        (health, events)
    }

    /// Restarts the server, unless that would end it for good, or would end as the last start did and there is another.
    fn heal(&self, why: &str, past: &mut Past, now: u64) -> (Health, Event) {
        let name = self.supervisor.name();
        let service = match self.supervisor.look(self.service) {
            Ok(Some(service)) => service,
            Ok(None) => {
                let detail = format!("{why}; {name} has not loaded {}, so nobody would start it", self.service);
                return self.helpless(&WITHHELD, detail, past, now);
            }
            Err(error) => return (Health::CannotRun, RESTART_FAILED.with(format!("{why}; {error:#}"))),
        };
        let obstacles = integrity::obstacles(self.home, self.supervisor, self.service);
        if !obstacles.is_empty() {
            let detail = format!("{why}; it would not boot: {}", obstacles.join("; "));
            return self.helpless(&WITHHELD, detail, past, now);
        }
        let mut refused = String::new();
        if let Some(fatal) = self.hopeless(&service) {
            match self.activate(&format!("{why}; {fatal}"), past, now) {
                Ok(activated) => return activated,
                Err(words) => refused = format!("; {words}"),
            }
        }
        match self.supervisor.restart(self.service) {
            Ok(()) => {
                past.restarted(now);
                (Health::Unhealthy, RESTARTED.with(format!("{why}; {}{refused}", told(name, &service))))
            }
            Err(error) => (Health::CannotRun, RESTART_FAILED.with(format!("{why}; {error:#}"))),
        }
    }

    /// What the supervised server says of itself where clients cannot crowd us out; `None` when it does not.
    fn inside(&self) -> Option<Inside> {
        let serving = Serving::of(self.home)?;
        // A file of a process that the supervisor did not start says nothing about the one that it did.
        let supervised = self.supervisor.look(self.service).ok().flatten();
        if supervised.is_some_and(|service| service.pid != Some(serving.pid)) {
            return None;
        }
        let client = Client::new(&format!("http://{}", serving.admin), None, self.limit).ok()?;
        client.get("/health").ok()?.json().ok()
    }

    /// A listener that answers and is not the supervised server. While that has no process, only the one that was there
    /// before may have answered, which ended just now.
    fn squatter(&self, looks: &[Look], inside: Option<&Inside>, before: Option<&str>) -> Option<String> {
        let (instance, instead) = match inside {
            Some(inside) => (Some(inside.instance.as_str()), inside.instance.clone()),
            None if self.is_absent() => (before, format!("{}, which has no process", self.service)),
            None => return None,
        };
        let same = |look: &Look| instance.is_some() && look.instance.as_deref() == instance;
        let look = looks.iter().find(|look| matches!(look.answer, Answer::Served) && !same(look))?;
        let answers = look.instance.as_deref().unwrap_or("a server that is not ours");
        Some(format!("{} is answered by {answers}, not by {instead}", look.url))
    }

    /// The supervisor has loaded the server and has no process of it.
    fn is_absent(&self) -> bool {
        self.supervisor.look(self.service).is_ok_and(|service| service.is_some_and(|service| service.pid.is_none()))
    }

    /// That a process ended whose end no listener shows. What befell one that failed to answer is told by that.
    fn died(&self, answers: &[Answer], past: &mut Past) -> Option<Event> {
        let starts = Starts::of(self.home);
        let why = starts.untold(past.settled);
        let failing = answers.iter().any(|answer| matches!(answer, Answer::Failed(_)));
        past.settled = if failing { starts.newest() } else { starts.newest_ended().or(Some(0)) };
        // The brake tells its reason itself.
        let braked = answers.iter().any(|answer| matches!(answer, Answer::CrashLoop(_)));
        why.filter(|_| !braked).map(|why| DIED.with(why))
    }
}

fn told(supervisor: &str, service: &Service) -> String {
    let pid = service.pid.map_or_else(|| "no process".to_owned(), |pid| format!("process {pid}"));
    format!("{supervisor} was told to replace {pid}")
}

/// The engine and the runtime move; then silence is work.
fn works(inside: &Inside) -> bool {
    let engine = inside.running_rows == 0 || inside.last_step_age_seconds < PROGRESS_SECONDS;
    engine && inside.runtime_tick_age_seconds < PROGRESS_SECONDS
}

/// A dead man's switch: that it could not be reached is the other side's to notice.
fn beat(url: &str) {
    const LIMIT: Duration = Duration::from_secs(10);
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build().new_agent();
    if let Err(error) = agent.get(url).call() {
        eprintln!("guardian: heartbeat {url}: {error}");
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
