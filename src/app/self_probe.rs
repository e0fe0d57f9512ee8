//! The thread that asks the idle engine for a token (P5), and soon after the machine woke (P10). It owns the waiting and
//! the prompt; when one is due and what misses mean is `lifecycle`'s, and the watch thread acts on it.

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::engine::handle::Handle;
use crate::http::State;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::self_probe::{Outcome, SelfProbeSettings};
use crate::lifecycle::stall::LATE_TICK;
use crate::platform::pressure::Pressure;

/// What the engine is asked to go on with.
const PROMPT: &str = "Hello";
/// Tokens of it that are used: too few for anything of them to be kept, and few enough for every context.
const PROMPT_TOKENS_MAX: usize = 4;

/// Starts the thread named `self-probe`, unless the settings turn it off; it runs until the process drains or dies.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(state: &State) -> io::Result<()> {
    let times = state.settings.times;
    if times.self_probe.is_zero() {
        return Ok(());
    }
    let asker = Asker {
        engine: state.engine.clone(),
        lifecycle: Arc::clone(&state.lifecycle),
        prompt: prompt(state),
        settings: SelfProbeSettings { every: times.self_probe, deadline: times.self_probe_deadline },
        tick: times.watch,
    };
    Builder::new().name("self-probe".to_owned()).spawn(move || asker.run()).map(drop)
}

/// The same tokens every time; the first of the vocabulary, if the tokenizer has none for the words.
fn prompt(state: &State) -> Vec<u32> {
    let capacity = state.engine.capacity();
    let (width, context) = capacity.map_or((0, 2), |capacity| (capacity.logit_width, capacity.context_tokens));
    let encoded = state.served.get().and_then(|served| served.text.encode(PROMPT, context).ok()).unwrap_or_default();
    let room = PROMPT_TOKENS_MAX.min(context.saturating_sub(1) as usize);
    let tokens: Vec<u32> = encoded.into_iter().filter(|token| *token < width).take(room).collect();
    if tokens.is_empty() { vec![0] } else { tokens }
}

struct Asker {
    engine: Handle,
    lifecycle: Arc<Lifecycle>,
    prompt: Vec<u32>,
    settings: SelfProbeSettings,
    /// Between two looks.
    tick: Duration,
}

impl Asker {
    fn run(self) {
        let mut begun = Instant::now();
        loop {
            thread::park_timeout(self.tick);
            match self.lifecycle.phase.now() {
                Phase::Draining | Phase::Dead => return,
                Phase::Ready | Phase::Degraded | Phase::Stalled => {}
                Phase::Starting | Phase::CrashLoop | Phase::Loading => continue,
            }
            // Nothing new is begun then, as for clients.
            if self.lifecycle.shortage.now() == Pressure::Critical {
                continue;
            }
            let probe = &self.lifecycle.self_probe;
            if probe.is_due(&self.lifecycle.heartbeat.pulse(), begun.elapsed(), self.settings) {
                begun = Instant::now();
                probe.begin();
                let outcome = self.ask();
                probe.note(outcome, begun.elapsed());
            }
        }
    }

    /// Asks once and waits for what becomes of it.
    fn ask(&self) -> Outcome {
        let Some(asked) = self.engine.probe(&self.prompt) else {
            // The one before did not come back.
            return self.missed();
        };
        let mut since = Instant::now();
        loop {
            let Some(left) = self.settings.deadline.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else {
                return self.missed();
            };
            let (looked, time) = (Instant::now(), left.min(self.tick));
            if let Some(outcome) = asked.wait(time) {
                return outcome;
            }
            if looked.elapsed() > time + LATE_TICK {
                // We were stopped ourselves, and the engine with us: its time begins anew.
                since = Instant::now();
            }
        }
    }

    /// No token in time; with a client there, that is for the stall rules to judge.
    fn missed(&self) -> Outcome {
        let pulse = self.lifecycle.heartbeat.pulse();
        if pulse.running + pulse.queued > 0 { Outcome::Yielded } else { Outcome::Missed }
    }
}
