//! When a restart is right: a function of what was seen, what was seen before, and the time. It owns the counts and
//! limits; it asks nobody and restarts nothing, so that every rule is a row of a table in its tests.

use serde::{Deserialize, Serialize};

/// Failed ticks in a row before anything is done.
const FAILURES_MIN: u32 = 3;
/// Restarts within [`WINDOW_SECONDS`]; the next one is a human's.
const RESTARTS_MAX: usize = 3;
const WINDOW_SECONDS: u64 = 60 * 60;
/// How long a load may take.
pub(super) const LOADING_SECONDS_MAX: u64 = 15 * 60;

/// What one listener answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200 with a model.
    Served,
    /// 503 while the model is put into memory.
    Loading,
    /// 503 while the process is on its way out.
    Draining,
    /// 503 because it crashed too often and waits before it tries again: another restart would be one more.
    CrashLoop(String),
    /// Anything else, or nothing.
    Failed(String),
}

/// What the guardian remembers from tick to tick. Times are Unix seconds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Past {
    failures: u32,
    /// Since when it loads, or drains, without a break.
    waiting_since: Option<u64>,
    restarts: Vec<u64>,
    /// The begin (Unix milliseconds) of the newest process of whose end nothing is left to tell.
    pub(super) settled: Option<u64>,
    /// The supervised server that was last seen to serve.
    pub(super) instance: Option<String>,
}

/// What a tick comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Healthy,
    /// Neither well nor wrong: it loads or drains, and may for a while yet.
    Waiting(&'static str),
    /// It is in the brake that it put on itself.
    CrashLoop(String),
    /// Failed, and not often enough for a second look.
    Failing(String),
    /// Failed often enough: look a second time, and restart if that agrees.
    Suspect(String),
    /// As `Suspect`, but it was restarted too often.
    RateLimited(String),
}

impl Past {
    /// Judges the answers of all listeners at `now`. A server may drain for `drain_seconds`.
    pub(super) fn judge(&mut self, answers: &[Answer], now: u64, drain_seconds: u64) -> Verdict {
        let failed: Vec<&str> = answers
            .iter()
            .filter_map(|answer| if let Answer::Failed(why) = answer { Some(why.as_str()) } else { None })
            .collect();
        if failed.is_empty() {
            let brake = answers.iter().find_map(|answer| match answer {
                Answer::CrashLoop(why) => Some(why.clone()),
                _ => None,
            });
            if let Some(why) = brake {
                (self.failures, self.waiting_since) = (0, None);
                return Verdict::CrashLoop(why);
            }
            let waiting =
                [(Answer::Draining, "draining", drain_seconds), (Answer::Loading, "loading", LOADING_SECONDS_MAX)];
            let waits = waiting.into_iter().find(|(answer, ..)| answers.contains(answer));
            let Some((_, state, most)) = waits else {
                (self.failures, self.waiting_since) = (0, None);
                return Verdict::Healthy;
            };
            let since = *self.waiting_since.get_or_insert(now);
            if now.saturating_sub(since) <= most {
                return Verdict::Waiting(state);
            }
            return self.failed(format!("{state} for {} s", now - since), now);
        }
        self.waiting_since = None;
        self.failed(failed.join("; "), now)
    }

    fn failed(&mut self, why: String, now: u64) -> Verdict {
        self.failures = self.failures.saturating_add(1);
        // A time ahead of now is a clock that was set back; it would hold restarts back for ever.
        self.restarts.retain(|restart| *restart <= now && now - restart < WINDOW_SECONDS);
        if self.failures < FAILURES_MIN {
            Verdict::Failing(why)
        } else if self.restarts.len() >= RESTARTS_MAX {
            Verdict::RateLimited(why)
        } else {
            Verdict::Suspect(why)
        }
    }

    /// It was restarted: counting begins anew.
    pub(super) fn restarted(&mut self, now: u64) {
        (self.failures, self.waiting_since) = (0, None);
        self.restarts.push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: u64 = 27;

    fn down() -> Vec<Answer> {
        vec![Answer::Served, Answer::Failed("refused".to_owned())]
    }

    #[test]
    fn p9_three_failed_ticks_in_a_row_are_suspect_and_a_good_one_in_between_forgives() {
        let mut past = Past::default();
        let failing = Verdict::Failing("refused".to_owned());
        assert_eq!(past.judge(&down(), 0, DRAIN), failing, "one listener of two is enough");
        assert_eq!(past.judge(&down(), 60, DRAIN), failing);
        assert_eq!(past.judge(&[Answer::Served], 120, DRAIN), Verdict::Healthy);
        assert_eq!(past.judge(&down(), 180, DRAIN), failing);
        assert_eq!(past.judge(&down(), 240, DRAIN), failing);
        assert_eq!(past.judge(&down(), 300, DRAIN), Verdict::Suspect("refused".to_owned()));
    }

    #[test]
    fn p9_the_fourth_restart_within_an_hour_is_a_humans() {
        let mut past = Past::default();
        let mut now = 0;
        let mut restart = |past: &mut Past| {
            loop {
                now += 60;
                match past.judge(&down(), now, DRAIN) {
                    Verdict::Failing(_) => {}
                    Verdict::Suspect(_) => {
                        past.restarted(now);
                        return true;
                    }
                    _ => return false,
                }
            }
        };
        assert_eq!([(); 4].map(|()| restart(&mut past)), [true, true, true, false]);
        // The first was at 180 s: an hour later there is room for one more.
        assert_eq!(past.judge(&down(), 180 + WINDOW_SECONDS, DRAIN), Verdict::Suspect("refused".to_owned()));
        past.restarts = vec![u64::MAX; 3];
        assert_eq!(past.judge(&down(), 9_999, DRAIN), Verdict::Suspect("refused".to_owned()), "a clock set back");
    }

    #[test]
    fn loading_and_draining_are_no_failure_for_as_long_as_they_may_take() {
        let mut past = Past::default();
        let loading = [Answer::Loading, Answer::Loading];
        for now in (0..=LOADING_SECONDS_MAX).step_by(60) {
            assert_eq!(past.judge(&loading, now, DRAIN), Verdict::Waiting("loading"));
        }
        let late = past.judge(&loading, LOADING_SECONDS_MAX + 60, DRAIN);
        assert_eq!(late, Verdict::Failing("loading for 960 s".to_owned()));
        let mut past = Past::default();
        assert_eq!(past.judge(&[Answer::Draining], 0, DRAIN), Verdict::Waiting("draining"));
        assert_eq!(past.judge(&[Answer::Draining], 60, DRAIN), Verdict::Failing("draining for 60 s".to_owned()));
    }

    #[test]
    fn a_server_in_its_own_brake_is_not_restarted() {
        let mut past = Past::default();
        let brake = || vec![Answer::CrashLoop("exit 70".to_owned())];
        for now in 0..10 {
            assert_eq!(past.judge(&brake(), now * 60, DRAIN), Verdict::CrashLoop("exit 70".to_owned()));
        }
    }
}
