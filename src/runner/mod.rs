//! The real backend: a model, the caches of its rows, and sampling, behind `engine::Backend`. It owns the order in which
//! steps are built, submitted and read, the size of a prefill chunk, and when memory is given back; it refuses to know
//! HTTP and text. Everything here lives on the inference thread: it is built, called and dropped there.
//!
//! All decoding rows step together, in one pass of the model; rows join and leave between steps. Steps run ahead: the pass
//! that token t leads to is built while token t is still being computed, as an array that nobody has read. A row that ends
//! with token t has then been given a place in a pass that is computed for nobody. On the GPU that pass is submitted before
//! token t is read, so the device never waits for the host. MLX's CPU backend is the host, and what is submitted there
//! holds up the next prompt, so there the pass is submitted at the next call, which costs the device the engine's own
//! microseconds between two calls. What is chosen from a pass is built while the pass is computed: a mask that depends on
//! token t has that long to be made.
//!
//! Rows that say again what they have read or said may guess their next tokens (`draft`), if the settings allow it. A pass
//! then has several tokens of a row, its last one and the draft behind it; each of its scores is chosen from with the draw
//! that the position has anyway, and as long as what is chosen is what was drafted, it counts: the answer is the one
//! without guesses. A pass with a draft cannot run ahead of itself, so it is built when its tokens are known. Rows whose
//! choice depends on earlier tokens by more than the scores (penalties, constraints) do not guess.
//!
//! A row that ends leaves its caches to the prefix index, stopped and cancelled rows included; a prompt that begins like an
//! earlier one of the same bucket, or like one that is open now, begins with a copy of what was computed for that, cut to
//! what both share.
//!
//! After each call a row's recorded tokens (its prompt as far as evaluated, and every token returned) are the tokens in its
//! cache: the cache gets token t with the pass that it leads to. A draft under way is in the cache behind the record; what
//! of it was wrong is trimmed when that is known, all of it when the row is closed. A row that fails holds nothing.

mod batch;
mod draft;
mod known;
mod pacing;
mod row;
mod warmup;
mod wired;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Coding, GROWTH_TOKENS, KvCache, State};
use crate::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, Memory, MemoryHeld, RowId};
use crate::mlx::{self, MlxError};
use crate::model::registry::Plan;
use crate::model::source::Tensors;
use crate::model::{LoadFailure, Model};
use crate::runner::draft::{Costs, Drafting};
use crate::runner::known::{Known, PREFIX_TOKENS_MIN};
use crate::runner::pacing::Pacing;
use crate::runner::row::{Left, Row};
use crate::sample::Sampler;
use crate::telemetry::metrics::DraftCounters;
use crate::telemetry::misses::Misses;

/// Freed buffers kept for reuse; enough for the transients of a prefill chunk.
const BUFFER_CACHE_BYTES: u64 = 64 << 20;
/// Steps after which freed buffers are given back even while rows run.
const CLEAR_EVERY_STEPS: u64 = 256;

/// What the runner is told by the settings.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Rows that may be open at once.
    pub rows_max: u32,
    /// For weights, rows and all that is kept.
    pub memory: MemoryLimit,
    /// Bytes of finished prompts' states that are kept for prompts that begin alike.
    pub prefix_bytes_max: u64,
    /// How keys and values are stored.
    pub coding: Coding,
    /// Whether rows guess.
    pub guesses: Guesses,
}

/// Whether rows guess their next tokens, so that a step may give several.
#[derive(Debug, Clone)]
pub struct Guesses {
    /// Tokens that a row may guess in a step; 0: rows do not guess.
    pub tokens_max: u32,
    /// When they do.
    pub gate: Gate,
    /// What became of them.
    pub counters: DraftCounters,
}

impl Guesses {
    /// Rows do not guess.
    #[must_use]
    pub fn none() -> Self {
        Self { tokens_max: 0, gate: Gate::Measured, counters: DraftCounters::default() }
    }
}

/// When rows that may guess do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// When it is likely to pay, by what longer passes cost here, which the start measures.
    Measured,
    /// Whenever they can: for whoever asks whether guessing changes answers, or what the gate is worth.
    Open,
}

/// How much memory may be used.
#[derive(Debug, Clone, Copy)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// What the GPU's driver recommends; where there is none, so many bytes.
    Recommended {
        /// Without a driver's word.
        otherwise: u64,
    },
}

impl MemoryLimit {
    fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Recommended { otherwise } => mlx::recommended_bytes().unwrap_or(otherwise),
        }
    }
}

/// A unit of work that the start finished; each one is progress in the sense of the stall rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// This tensor is in memory, one of so many.
    Tensor {
        /// Its name.
        name: &'a str,
        /// All that will be loaded.
        of: usize,
    },
    /// A warm-up chunk or token was evaluated.
    WarmUp,
}

/// A loaded, warm model with its rows.
pub struct Runner {
    /// Open rows; dropped before the model.
    rows: HashMap<RowId, Row>,
    capacity: Capacity,
    /// How keys and values are stored.
    coding: Coding,
    /// What a prompt may begin with.
    known: Known<KvCache>,
    /// None if rows do not guess.
    drafting: Option<Drafting>,
    pacing: Pacing,
    /// Decode calls since the start.
    steps: u64,
    model: Box<dyn Model>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, capacity, coding, known, drafting, pacing, steps, model: _ } = self;
        f.debug_struct("Runner")
            .field("rows", &rows.len())
            .field("capacity", capacity)
            .field("coding", coding)
            .field("kept", &known.kept.len())
            .field("drafting", drafting)
            .field("pacing", pacing)
            .field("steps", steps)
            .finish()
    }
}

impl Runner {
    /// Loads a checked model and generates one real token. Called on the thread that will call everything else.
    ///
    /// # Errors
    /// A file cannot be read, or the device failed.
    pub fn load(
        source: &dyn Tensors,
        plan: &Plan,
        settings: RunnerSettings,
        progress: &dyn Fn(Progress<'_>),
    ) -> Result<Self, LoadFailure> {
        // Nothing freed while loading is of a size that is needed again.
        mlx::set_cache_limit(0)?;
        let model = plan.load(source, &|name| progress(Progress::Tensor { name, of: plan.tensors }))?;
        mlx::set_cache_limit(BUFFER_CACHE_BYTES)?;
        let weights = mlx::gauges()?.active_bytes;
        mlx::reset_peak()?;
        let coding = settings.coding;
        let prefill_chunk_tokens = warmup::run(model.as_ref(), plan, coding, &|| progress(Progress::WarmUp))?;
        let drafting = match settings.guesses.tokens_max as usize {
            0 => None,
            most => {
                let costs = match settings.guesses.gate {
                    Gate::Measured => {
                        warmup::costs(model.as_ref(), (plan, coding), most, &|| progress(Progress::WarmUp))?
                    }
                    Gate::Open => Costs::none(),
                };
                Some(Drafting::new(most, costs, settings.guesses.counters))
            }
        };
        let transients = mlx::gauges()?.peak_bytes.saturating_sub(weights);
        mlx::clear_cache()?;
        let memory = Memory {
            bytes_max: settings.memory.bytes(),
            fixed_bytes: weights + transients + BUFFER_CACHE_BYTES,
            token_bytes: warmup::token_bytes(model.as_ref(), plan, coding)?,
            step_tokens: GROWTH_TOKENS,
            window_tokens: warmup::window_tokens(
                model.as_ref(),
                prefill_chunk_tokens.max(1 + settings.guesses.tokens_max),
            ),
        };
        if memory.rows_bytes_max() < memory.row_bytes(1) {
            return Err(LoadFailure::Memory { bytes: memory.fixed_bytes, bytes_max: memory.bytes_max });
        }
        let capacity = Capacity {
            context_tokens: plan.context_tokens,
            logit_width: plan.logit_width,
            rows_max: settings.rows_max,
            prefill_chunk_tokens,
            memory,
        };
        let known = Known::new(settings.prefix_bytes_max, Misses::default());
        let pacing = Pacing::new(prefill_chunk_tokens);
        Ok(Self { rows: HashMap::new(), capacity, coding, known, drafting, pacing, steps: 0, model })
    }

    /// The same, counting into `misses` the prompts that find nothing computed.
    #[must_use]
    pub fn counting(mut self, misses: Misses) -> Self {
        self.known.misses = misses;
        self
    }

    /// Caches for a prompt, with as much of its beginning as another row of the bucket has computed.
    fn caches(&mut self, prompt: &[u32], bucket: Option<&Arc<str>>) -> Result<Vec<KvCache>, MlxError> {
        let room = prompt.len() + 1;
        let Some(bucket) = bucket else { return Ok(self.model.caches(self.coding, room)) };
        let open = self.rows.values().filter(|row| row.bucket() == Some(bucket)).map(Row::computed);
        match self.known.longest(bucket, prompt, open.filter(|(tokens, _)| !tokens.is_empty())) {
            Some((tokens, caches)) => caches.iter().map(|cache| cache.fork(tokens, room)).collect(),
            None => Ok(self.model.caches(self.coding, room)),
        }
    }

    fn row(&mut self, id: RowId) -> (&dyn Model, &mut Row) {
        let row = self.rows.get_mut(&id).expect("the engine names only rows that it opened");
        (self.model.as_ref(), row)
    }
}

impl Backend for Runner {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        let Ask { prompt, bucket, sampling, constraint, tokens_max } = ask;
        assert!(!prompt.is_empty(), "the engine opens no row without a prompt");
        assert!(prompt.len() < self.capacity.context_tokens as usize, "the engine checks the context");
        let sampler = Sampler::new(sampling, prompt, self.capacity.logit_width as usize, constraint);
        let tokens_max = prompt.len().saturating_add(tokens_max as usize).min(self.capacity.context_tokens as usize);
        let mut opened = Row::new(prompt, bucket, sampler, tokens_max);
        if self.drafting.is_some() {
            opened.guess_ahead();
        }
        let before = self.rows.insert(row, opened);
        assert!(before.is_none(), "a row is opened once");
        assert!(self.rows.len() <= self.capacity.rows_max as usize, "the engine admits no more rows than there are");
    }

    fn begin(&mut self, row: RowId) -> Result<u32, DeviceFault> {
        let (prompt, bucket) = {
            let (_, row) = self.row(row);
            (row.prompt().to_vec(), row.bucket().cloned())
        };
        let caches = self.caches(&prompt, bucket.as_ref())?;
        // What was copied is let go of before its owner's next step, which then changes it in place.
        mlx::eval(caches.iter().flat_map(KvCache::arrays))?;
        let cached = caches.first().map_or(0, KvCache::tokens);
        self.row(row).1.begin(caches);
        Ok(u32::try_from(cached).expect("less than the prompt"))
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        let begun = Instant::now();
        let (model, row) = self.row(row);
        let before = row.prompt_left();
        let left = row.prefill(model, tokens)?;
        self.pacing.took(before - left, begun.elapsed());
        Ok(left)
    }

    fn chunk_tokens_beside_decode(&self) -> u32 {
        self.pacing.tokens()
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        self.steps += 1;
        if self.steps.is_multiple_of(CLEAR_EVERY_STEPS) {
            mlx::clear_cache()?;
        }
        let place = |id: &RowId| rows.iter().position(|row| row == id);
        let mut stepping: Vec<(usize, &mut Row)> =
            self.rows.iter_mut().filter_map(|(id, row)| Some((place(id)?, row))).collect();
        assert_eq!(stepping.len(), rows.len(), "the engine names only rows that it opened, each once");
        stepping.sort_by_key(|(place, _)| *place);
        let mut stepping: Vec<&mut Row> = stepping.into_iter().map(|(_, row)| row).collect();
        Ok(batch::step(self.model.as_ref(), &mut stepping, self.drafting.as_ref())?)
    }

    fn close(&mut self, row: RowId) {
        let row = self.rows.remove(&row).expect("the engine closes only rows that it opened");
        match row.close() {
            Ok(Left { bucket: Some(bucket), tokens, caches }) if tokens.len() >= PREFIX_TOKENS_MIN => {
                let bytes = caches.iter().map(KvCache::bytes).sum();
                self.known.kept.insert(&bucket, tokens, caches, bytes);
            }
            Ok(_) => {}
            // A device that refuses this fails the next step too, and says so there.
            Err(error) => tracing::warn!(%error, "a row left nothing to be used again"),
        }
    }

    fn kept_bytes(&self) -> u64 {
        self.known.kept.bytes()
    }

    fn shed(&mut self, bytes_max: u64) {
        self.known.kept.shrink(bytes_max);
    }

    fn held(&self) -> MemoryHeld {
        // A device that refuses this fails the next step too, and says so there.
        let mlx::Gauges { active_bytes, cache_bytes, peak_bytes } = mlx::gauges().unwrap_or_default();
        MemoryHeld { active_bytes, cache_bytes, peak_bytes }
    }

    fn idle(&mut self) {
        assert!(self.rows.is_empty(), "idle means that no row is open");
        // A device that refuses this fails the next step too, and says so there.
        let _ = mlx::clear_cache();
    }
}

impl From<MlxError> for DeviceFault {
    fn from(error: MlxError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests;
