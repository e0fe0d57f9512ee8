//! A backend that does what the one behind it does, and writes down when each row was decoded and when it was closed.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use sanctum_mlx::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, RowId};

/// What happened to rows since the last call.
#[derive(Debug, Default)]
pub struct Happened {
    /// When each decode step began.
    pub steps: Vec<Instant>,
    /// When rows were closed.
    pub closed: Vec<Instant>,
}

/// Where it is written down.
pub type Record = Arc<Mutex<Happened>>;

/// The backend.
#[derive(Debug)]
pub struct Watched<B> {
    inner: B,
    record: Record,
}

impl<B> Watched<B> {
    pub fn new(inner: B, record: Record) -> Self {
        Self { inner, record }
    }
}

impl<B: Backend> Backend for Watched<B> {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        self.inner.open(row, ask);
    }

    fn begin(&mut self, row: RowId) -> Result<u32, DeviceFault> {
        self.inner.begin(row)
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        self.inner.prefill(row, tokens)
    }

    fn chunk_tokens_beside_decode(&self) -> u32 {
        self.inner.chunk_tokens_beside_decode()
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        self.record.lock().expect("nobody panics with it").steps.push(Instant::now());
        self.inner.decode(rows)
    }

    fn close(&mut self, row: RowId) {
        self.inner.close(row);
        self.record.lock().expect("nobody panics with it").closed.push(Instant::now());
    }

    fn kept_bytes(&self) -> u64 {
        self.inner.kept_bytes()
    }

    fn shed(&mut self, bytes_max: u64) {
        self.inner.shed(bytes_max);
    }

    fn idle(&mut self) {
        self.inner.idle();
    }
}
