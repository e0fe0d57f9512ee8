//! What the inference thread and the async runtime last did, as atomics that anyone reads without waiting. It owns the
//! meaning of progress: a bounded unit of work that finished. It refuses to judge; `stall` does.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::platform::clock;

/// A bounded unit of work of the inference thread; finishing one is progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unit {
    /// Nothing yet.
    None = 0,
    /// One tensor read, checked and placed.
    TensorLoaded = 1,
    /// One token of warm-up.
    WarmUp = 2,
    /// One prefill chunk.
    PrefillChunk = 3,
    /// One decode step.
    DecodeStep = 4,
    /// One look at an empty queue: the thread is alive and idle.
    Idle = 5,
}

impl Unit {
    const ALL: [Self; 6] =
        [Self::None, Self::TensorLoaded, Self::WarmUp, Self::PrefillChunk, Self::DecodeStep, Self::Idle];

    /// The word used in dumps and on `/health`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TensorLoaded => "tensor_loaded",
            Self::WarmUp => "warm_up",
            Self::PrefillChunk => "prefill_chunk",
            Self::DecodeStep => "decode_step",
            Self::Idle => "idle",
        }
    }
}

/// The shared gauges. All times are milliseconds of [`clock::awake_ms`].
#[derive(Debug)]
pub struct Heartbeat {
    /// When the last unit finished.
    progress_ms: AtomicU64,
    /// Which unit that was.
    unit: AtomicU8,
    /// Rows being generated.
    running: AtomicU32,
    /// Jobs accepted and not yet admitted.
    queued: AtomicU32,
    /// When the oldest waiting job was accepted; 0 when none waits.
    queue_oldest_ms: AtomicU64,
    /// Engine steps since the start: prefill chunks and decode steps.
    steps: AtomicU64,
    /// When the last token was generated; the start counts as one.
    token_ms: AtomicU64,
    /// What the backend held when the inference thread last told: active, kept for reuse, and the most ever.
    memory: [AtomicU64; 3],
    /// When the async runtime's ticker last ran.
    runtime_tick_ms: AtomicU64,
}

/// Bytes that the backend holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryHeld {
    /// In what lives.
    pub active_bytes: u64,
    /// Freed, and kept for reuse.
    pub cache_bytes: u64,
    /// The most that was ever active.
    pub peak_bytes: u64,
}

/// One consistent-enough look at the gauges, with ages already computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Milliseconds since the last unit of work finished.
    pub last_progress_age_ms: u64,
    /// Which unit that was.
    pub unit: Unit,
    /// Rows being generated.
    pub running: u32,
    /// Jobs accepted and not yet admitted.
    pub queued: u32,
    /// Milliseconds the oldest waiting job has waited; 0 when none waits.
    pub queue_oldest_age_ms: u64,
    /// Engine steps since the start.
    pub steps: u64,
    /// Milliseconds since the last token was generated.
    pub last_token_age_ms: u64,
    /// Milliseconds since the async runtime's ticker last ran.
    pub runtime_tick_age_ms: u64,
}

impl Heartbeat {
    pub(crate) fn new() -> Self {
        let now = clock::awake_ms();
        Self {
            progress_ms: AtomicU64::new(now),
            unit: AtomicU8::new(Unit::None as u8),
            running: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            queue_oldest_ms: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            token_ms: AtomicU64::new(now),
            memory: [const { AtomicU64::new(0) }; 3],
            runtime_tick_ms: AtomicU64::new(now),
        }
    }

    /// The inference thread finished a unit of work.
    pub fn beat(&self, unit: Unit) {
        self.unit.store(unit as u8, Ordering::Relaxed);
        if matches!(unit, Unit::PrefillChunk | Unit::DecodeStep) {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
        self.progress_ms.store(clock::awake_ms(), Ordering::Release);
    }

    /// The inference thread generated a token.
    pub fn note_token(&self) {
        self.token_ms.store(clock::awake_ms(), Ordering::Release);
    }

    /// The inference thread tells what its backend holds: nobody else may ask it.
    pub fn set_memory(&self, held: MemoryHeld) {
        let MemoryHeld { active_bytes, cache_bytes, peak_bytes } = held;
        for (gauge, bytes) in self.memory.iter().zip([active_bytes, cache_bytes, peak_bytes]) {
            gauge.store(bytes, Ordering::Relaxed);
        }
    }

    /// What the backend held when it was last told.
    #[must_use]
    pub fn memory(&self) -> MemoryHeld {
        let [active_bytes, cache_bytes, peak_bytes] =
            [0, 1, 2].map(|gauge: usize| self.memory[gauge].load(Ordering::Relaxed));
        MemoryHeld { active_bytes, cache_bytes, peak_bytes }
    }

    /// Jobs accepted and not yet admitted, those among them that the inference thread has not heard of.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.queued.load(Ordering::Acquire)
    }

    /// The engine publishes how many rows run.
    pub fn set_running(&self, rows: u32) {
        self.running.store(rows, Ordering::Release);
    }

    /// Takes a place in the queue if fewer than `jobs_max` wait; says whether it did. Never waits.
    pub fn try_enqueue(&self, jobs_max: u32) -> bool {
        let taken = self
            .queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| (queued < jobs_max).then_some(queued + 1))
            .is_ok();
        if taken {
            // Only the first waiter sets the age; the engine moves it on when it admits.
            let now = clock::awake_ms().max(1);
            let _ = self.queue_oldest_ms.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        }
        taken
    }

    /// A job left the queue, admitted or refused.
    pub fn dequeue(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }

    /// The engine looked at its queue; `oldest_ms` is when the oldest job that waits was accepted, 0 for none.
    pub fn set_queue_oldest(&self, oldest_ms: u64) {
        self.queue_oldest_ms.store(oldest_ms, Ordering::Release);
    }

    /// The async runtime's ticker ran.
    pub fn tick_runtime(&self) {
        self.runtime_tick_ms.store(clock::awake_ms(), Ordering::Release);
    }

    /// Restarts the stall clocks: the process itself was asleep or stopped, so ages mean nothing.
    pub fn forgive(&self) {
        let now = clock::awake_ms();
        self.progress_ms.store(now, Ordering::Release);
        self.runtime_tick_ms.store(now, Ordering::Release);
    }

    /// The gauges as ages.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        let now = clock::awake_ms();
        let oldest = self.queue_oldest_ms.load(Ordering::Acquire);
        let queued = self.queued.load(Ordering::Acquire);
        Pulse {
            last_progress_age_ms: now.saturating_sub(self.progress_ms.load(Ordering::Acquire)),
            unit: Unit::ALL[usize::from(self.unit.load(Ordering::Relaxed))],
            running: self.running.load(Ordering::Acquire),
            queued,
            queue_oldest_age_ms: if queued == 0 || oldest == 0 { 0 } else { now.saturating_sub(oldest) },
            steps: self.steps.load(Ordering::Relaxed),
            last_token_age_ms: now.saturating_sub(self.token_ms.load(Ordering::Acquire)),
            runtime_tick_age_ms: now.saturating_sub(self.runtime_tick_ms.load(Ordering::Acquire)),
        }
    }
}
