//! A backend that computes nothing: every row gets the same tokens over and over, and each step takes exactly as long as
//! it is told to. It writes down when each step began and ended, so that what happens between and after steps is known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sanctum_mlx::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, RowId};

/// Room for the steps of one request, so that writing them down never allocates.
const STEPS_MAX: usize = 8 << 10;

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub began: Instant,
    pub ended: Instant,
}

/// What bench and backend share.
#[derive(Debug)]
pub struct Shared {
    steps: Mutex<Vec<Step>>,
    pace: Mutex<Duration>,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { steps: Mutex::new(Vec::with_capacity(STEPS_MAX)), pace: Mutex::new(Duration::ZERO) })
    }

    /// From now on a step takes this long. Its core is busy meanwhile, as it is under MLX's CPU backend.
    pub fn set_pace(&self, pace: Duration) {
        *self.pace.lock().expect("nobody panics with it") = pace;
    }

    /// The steps since the last call.
    pub fn take(&self) -> Vec<Step> {
        let mut steps = self.steps.lock().expect("nobody panics with it");
        steps.drain(..).collect()
    }
}

/// The backend.
#[derive(Debug)]
pub struct Null {
    /// What every row says, again and again.
    pub tokens: Vec<u32>,
    pub capacity: Capacity,
    /// Prompt tokens left and tokens given.
    rows: HashMap<RowId, (u32, usize)>,
    shared: Arc<Shared>,
}

impl Null {
    pub fn new(tokens: Vec<u32>, capacity: Capacity, shared: Arc<Shared>) -> Self {
        assert!(!tokens.is_empty(), "a row says something");
        Self { tokens, capacity, rows: HashMap::new(), shared }
    }
}

impl Backend for Null {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        let left = u32::try_from(ask.prompt.len()).expect("a prompt fits the context");
        self.rows.insert(row, (left, 0));
    }

    fn begin(&mut self, _: RowId) -> Result<u32, DeviceFault> {
        Ok(0)
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        let (left, _) = self.rows.get_mut(&row).expect("the row is open");
        *left = left.saturating_sub(tokens);
        Ok(*left)
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        let began = Instant::now();
        let pace = *self.shared.pace.lock().expect("nobody panics with it");
        let decoded = rows
            .iter()
            .map(|row| {
                let (_, at) = self.rows.get_mut(row).expect("the row is open");
                let token = self.tokens[*at % self.tokens.len()];
                *at += 1;
                Decoded::token(token)
            })
            .collect();
        while began.elapsed() < pace {
            std::hint::spin_loop();
        }
        let mut steps = self.shared.steps.lock().expect("nobody panics with it");
        if steps.len() < STEPS_MAX {
            steps.push(Step { began, ended: Instant::now() });
        }
        Ok(decoded)
    }

    fn close(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    fn kept_bytes(&self) -> u64 {
        0
    }

    fn shed(&mut self, _: u64) {}

    fn idle(&mut self) {}
}
