//! The guardian and the fallback: when it is activated, and how it is watched while it serves. It owns that a server is
//! given up only where another is configured, and that nothing here goes back: that is a person's.

use crate::client::{Client, ClientError};
use crate::ops::fallback::fatal;
use crate::ops::fallback::lock::Lock;
use crate::ops::fallback::switch::Switch;
use crate::ops::guardian::judge::{Answer, LOADING_SECONDS_MAX, Past, Verdict};
use crate::ops::guardian::{
    CANNOT_RUN, CRASH_LOOP, FAILED, Guard, OK, RATE_LIMITED, RESTART_FAILED, RESTARTED, WAITING,
};
use crate::ops::state::State;
use crate::ops::supervisor::Service;
use crate::ops::turn;
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::tick::Health;

/// The fallback serves. Said at each tick, so that "recovered" is told when the server is back and not before.
const ACTIVATED: Kind = Kind::error("fallback_activated").alerting(6 * 60);

/// What one deed of the guardian comes to.
pub(super) type Deed = (Health, Event);

/// What the fallback answers: any 200, for not every server lists what it loaded from a folder.
pub(super) fn look_at(clients: &[(String, Client)]) -> Vec<Answer> {
    let answer = |(url, client): &(String, Client)| match client.get("/v1/models") {
        Ok(reply) if reply.status == 200 => Answer::Served,
        Ok(reply) => Answer::Failed(format!("{url}: {} {}", reply.status, reply.excerpt())),
        Err(error @ ClientError::Timeout(_)) => Answer::Failed(format!("{url}: silent: {error}")),
        Err(error) => Answer::Failed(format!("{url}: {error}")),
    };
    clients.iter().map(answer).collect()
}

impl Guard<'_> {
    /// Nobody else loads or unloads meanwhile, and what this tick looked at is still what serves. A turn that cannot even be
    /// asked for (a full disk) holds nothing back.
    pub(super) fn alone(&self, deed: impl FnOnce() -> Deed) -> Deed {
        let turn = turn::take(self.home);
        if matches!(turn, Ok(None)) {
            return (
                Health::Unhealthy,
                WAITING.with("an installation, or a switch to or from the fallback, is under way"),
            );
        }
        match Lock::of(self.home) {
            Ok(lock) if lock.as_ref() == self.lock => deed(),
            Ok(_) => (Health::Unhealthy, WAITING.with("the other server was loaded meanwhile")),
            Err(error) => (Health::CannotRun, CANNOT_RUN.with(format!("{error:#}"))),
        }
    }

    /// No restart can help: the fallback's turn where there is one, else a human's.
    pub(super) fn helpless(&self, kind: &'static Kind, why: String, past: &mut Past, now: u64) -> Deed {
        if !self.plan.fallback.enabled {
            return (Health::CannotRun, kind.with(why));
        }
        match self.activate(&why, past, now) {
            Ok(activated) => activated,
            Err(refused) => (Health::CannotRun, kind.with(format!("{why}; {refused}"))),
        }
    }

    /// Why the next start would end as the last one did, where there is a fallback for that.
    pub(super) fn hopeless(&self, service: &Service) -> Option<String> {
        if !self.plan.fallback.enabled {
            return None;
        }
        fatal::of(self.home, self.supervisor, self.service, service)
    }

    /// It is in its own brake, which no restart ends; a reason that will not go away does end it.
    pub(super) fn braked(&self, why: String, past: &mut Past, now: u64) -> Deed {
        let service = self.supervisor.look(self.service).ok().flatten().unwrap_or_default();
        match self.hopeless(&service) {
            Some(fatal) => self.alone(|| self.helpless(&CRASH_LOOP, format!("{why}; {fatal}"), past, now)),
            None => (Health::Unhealthy, CRASH_LOOP.with(why)),
        }
    }

    pub(super) fn activate(&self, why: &str, past: &mut Past, now: u64) -> Result<Deed, String> {
        let switch = Switch { home: self.home, supervisor: self.supervisor, primary: self.service };
        match switch.activate(self.plan, why, now) {
            Ok(lock) => {
                // Whatever was counted was of a server that is gone.
                *past = Past::default();
                Ok((Health::Unhealthy, ACTIVATED.with(lock.words())))
            }
            Err(error) => Err(format!("the fallback was not activated: {error:#}")),
        }
    }

    /// Watches the fallback. It is started again as the server would be; there is no fallback from it.
    pub(super) fn follow(&self, lock: &Lock, answers: &[Answer], now: u64) -> (Health, Vec<Event>) {
        let state = State::of(self.home, "guardian-fallback");
        let mut past: Past = state.read();
        let service = self.supervisor.look(&lock.fallback.name).ok().flatten();
        // It binds its port when its model is loaded; until then a process is all that can be seen of it.
        let loads =
            now.saturating_sub(lock.at) <= LOADING_SECONDS_MAX && service.is_some_and(|service| service.pid.is_some());
        let answers: Vec<Answer> = answers
            .iter()
            .map(|answer| match answer {
                Answer::Failed(_) if loads => Answer::Loading,
                other => other.clone(),
            })
            .collect();
        let (health, event) = match past.judge(&answers, now, 0) {
            Verdict::Healthy => (Health::Healthy, OK.with("the fallback serves")),
            Verdict::Waiting(state) => (Health::Healthy, WAITING.with(format!("the fallback is {state}"))),
            Verdict::Failing(why) | Verdict::CrashLoop(why) => (Health::Unhealthy, FAILED.with(why)),
            Verdict::RateLimited(why) => {
                let why = format!("the fallback was loaded three times within an hour, and still {why}");
                (Health::CannotRun, RATE_LIMITED.with(why))
            }
            Verdict::Suspect(why) => self.alone(|| self.revive(lock, &why, &mut past, now)),
        };
        let mut events = vec![ACTIVATED.with(lock.words()), event];
        if let Err(error) = state.write(&past) {
            events.push(CANNOT_RUN.with(format!("restarts cannot be counted: {error}")));
        }
        (health, events)
    }

    /// Loads the fallback anew; a switch that was cut off half-way is finished by that.
    fn revive(&self, lock: &Lock, why: &str, past: &mut Past, now: u64) -> Deed {
        let switch = Switch { home: self.home, supervisor: self.supervisor, primary: self.service };
        match switch.revive(lock) {
            Ok(()) => {
                past.restarted(now);
                (Health::Unhealthy, RESTARTED.with(format!("{why}; {} was loaded anew", lock.fallback.name)))
            }
            Err(error) => (Health::CannotRun, RESTART_FAILED.with(format!("{why}; {error:#}"))),
        }
    }
}
