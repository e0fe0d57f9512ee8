//! Faults on demand, in builds with the `fault` feature only: a wrapper around any backend that goes wrong at a given
//! step of the real inference thread. It owns the words of `--fault`; the engine behind it is the one that ships.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, MemoryHeld, RowId};
use crate::job::Token;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Native code that never returns and ignores everything.
    SpinNative,
    /// Native code that returns after this long.
    SleepNative(Duration),
    /// A panic at a site.
    Panic(Site),
    /// A device error.
    Error,
    /// Logits of every row that are no numbers.
    Nan,
    /// Every step from there on takes this much longer.
    Slow(Duration),
    /// The end of the text at once.
    Empty,
    /// Every token id is one too high.
    Wrong,
    /// A terminal event is dropped.
    LostEvent,
    /// Every worker of the async runtime parks for ever.
    BlockWorkers,
    /// Loading the model takes this much longer; its step means nothing.
    SlowLoad(Duration),
}

/// Where a panic happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Before a chunk is evaluated.
    Prefill,
    /// Before a step is evaluated.
    Decode,
    /// After a step, as if the choice of the token had failed.
    Sample,
    /// As a row is begun.
    Cache,
    /// As a row is closed.
    Trim,
}

/// One fault and the step, counted from 1 after the start-up token, at which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// At which prefill chunk or decode step.
    pub step: u64,
}

impl FromStr for Fault {
    type Err = String;

    /// Reads `KIND@STEP`, `KIND=MS@STEP` or `panic@STEP:SITE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "fault `{text}`: expected KIND@STEP with KIND one of spin_native, sleep_native=MS, panic, error, nan, \
                 slow=MS, slow_load=MS, empty, wrong, lost_event, block_workers, or panic@STEP:prefill|decode|sample|cache|trim"
            )
        };
        let (kind, place) = text.split_once('@').ok_or_else(wrong)?;
        let (step, site) = place.split_once(':').map_or((place, None), |(step, site)| (step, Some(site)));
        let step = step.parse().map_err(|_| wrong())?;
        let (kind, milliseconds) = kind.split_once('=').map_or((kind, None), |(kind, ms)| (kind, Some(ms)));
        let milliseconds = milliseconds.map(str::parse).transpose().map_err(|_| wrong())?.map(Duration::from_millis);
        let site = site.map_or(Some(Site::Decode), Site::named).ok_or_else(wrong)?;
        let kind = match (kind, milliseconds) {
            ("spin_native", None) => Kind::SpinNative,
            ("sleep_native", Some(time)) => Kind::SleepNative(time),
            ("panic", None) => Kind::Panic(site),
            ("error", None) => Kind::Error,
            ("nan", None) => Kind::Nan,
            ("slow", Some(time)) => Kind::Slow(time),
            ("slow_load", Some(time)) => Kind::SlowLoad(time),
            ("empty", None) => Kind::Empty,
            ("wrong", None) => Kind::Wrong,
            ("lost_event", None) => Kind::LostEvent,
            ("block_workers", None) => Kind::BlockWorkers,
            _ => return Err(wrong()),
        };
        Ok(Self { kind, step })
    }
}

impl Site {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "prefill" => Self::Prefill,
            "decode" => Self::Decode,
            "sample" => Self::Sample,
            "cache" => Self::Cache,
            "trim" => Self::Trim,
            _ => return None,
        })
    }
}

/// Set when the next terminal event is to be lost; one process runs one engine.
static LOSE_TERMINAL_EVENT: AtomicBool = AtomicBool::new(false);

/// Whether the terminal event at hand is the one to lose.
pub(crate) fn lose_this_terminal_event() -> bool {
    LOSE_TERMINAL_EVENT.swap(false, Ordering::AcqRel)
}

/// A backend that goes wrong as told.
pub struct Faulty<B> {
    inner: B,
    faults: Vec<Fault>,
    /// Ends a text; what `empty` answers.
    stop_token: u32,
    /// Parks every worker of the async runtime; `app` knows how.
    block_workers: Box<dyn Fn() + Send>,
    /// Steps begun since the start-up token.
    step: u64,
    /// The start-up token is behind us.
    proved: bool,
}

impl<B: Backend> Faulty<B> {
    /// Wraps `inner`.
    pub fn new(inner: B, faults: Vec<Fault>, stop_token: u32, block_workers: Box<dyn Fn() + Send>) -> Self {
        Self { inner, faults, stop_token, block_workers, step: 0, proved: false }
    }

    /// Counts a step and does what is due before it.
    fn before_step(&mut self, site: Site) -> Result<(), DeviceFault> {
        if !self.proved {
            return Ok(());
        }
        self.step += 1;
        for fault in self.faults.clone() {
            match fault.kind {
                Kind::Slow(time) if fault.step <= self.step => std::thread::sleep(time),
                // The first visit of the site from that step on: a given step is either a chunk or a decode step.
                Kind::Panic(at) if at == site && fault.step <= self.step => panic!("injected panic in {site:?}"),
                _ if fault.step != self.step => {}
                Kind::SpinNative => loop {
                    std::hint::spin_loop();
                },
                Kind::SleepNative(time) => std::thread::sleep(time),
                Kind::Error => return Err(DeviceFault("injected device error".to_owned())),
                Kind::LostEvent => LOSE_TERMINAL_EVENT.store(true, Ordering::Release),
                Kind::BlockWorkers => (self.block_workers)(),
                Kind::Panic(_) | Kind::Nan | Kind::Slow(_) | Kind::Empty | Kind::Wrong | Kind::SlowLoad(_) => {}
            }
        }
        Ok(())
    }

    /// Panics at a site that is not a step of its own, once its step has come.
    fn panic_if_due(&mut self, site: Site) {
        let due = |fault: &Fault| fault.kind == Kind::Panic(site) && fault.step <= self.step;
        if self.proved && self.faults.iter().any(due) {
            self.faults.retain(|fault| fault.kind != Kind::Panic(site));
            panic!("injected panic in {site:?}");
        }
    }

    fn spoil(&self, decoded: Decoded) -> Decoded {
        let mut spoiled = decoded;
        for fault in self.faults.iter().filter(|fault| self.proved && fault.step <= self.step) {
            spoiled = match (fault.kind, spoiled) {
                (Kind::Nan, _) if fault.step == self.step => Decoded::Failed("logits are not finite".to_owned()),
                (Kind::Empty, Decoded::Tokens(_)) => Decoded::token(self.stop_token),
                (Kind::Wrong, Decoded::Tokens(tokens)) => {
                    let width = self.inner.capacity().logit_width;
                    let wrong = |token: Token| Token { id: (token.id + 1) % width, ..token };
                    Decoded::Tokens(tokens.into_iter().map(wrong).collect())
                }
                (_, kept) => kept,
            };
        }
        spoiled
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        self.inner.open(row, ask);
    }

    fn begin(&mut self, row: RowId) -> Result<u32, DeviceFault> {
        self.panic_if_due(Site::Cache);
        self.inner.begin(row)
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        self.before_step(Site::Prefill)?;
        self.inner.prefill(row, tokens)
    }

    fn chunk_tokens_beside_decode(&self) -> u32 {
        self.inner.chunk_tokens_beside_decode()
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        self.before_step(Site::Decode)?;
        let decoded = self.inner.decode(rows)?;
        self.panic_if_due(Site::Sample);
        Ok(decoded.into_iter().map(|one| self.spoil(one)).collect())
    }

    fn close(&mut self, row: RowId) {
        self.panic_if_due(Site::Trim);
        self.inner.close(row);
        self.proved = true;
    }

    fn kept_bytes(&self) -> u64 {
        self.inner.kept_bytes()
    }

    fn shed(&mut self, bytes_max: u64) {
        self.inner.shed(bytes_max);
    }

    fn held(&self) -> MemoryHeld {
        self.inner.held()
    }

    fn idle(&mut self) {
        self.inner.idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_fault_are_read_and_others_are_refused() {
        let read = |text: &str| text.parse::<Fault>();
        assert_eq!(read("spin_native@3"), Ok(Fault { kind: Kind::SpinNative, step: 3 }));
        assert_eq!(read("slow=250@1"), Ok(Fault { kind: Kind::Slow(Duration::from_millis(250)), step: 1 }));
        assert_eq!(read("panic@7:trim"), Ok(Fault { kind: Kind::Panic(Site::Trim), step: 7 }));
        for text in ["", "panic", "panic@x", "panic@1:nowhere", "slow@1", "error=5@1", "nonsense@1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
