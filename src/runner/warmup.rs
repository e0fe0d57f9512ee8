//! One real token through the real path before anyone is told that the model is ready, the size of a prefill chunk, and what
//! a pass that checks a draft costs.

use std::time::{Duration, Instant};

use crate::cache::{Coding, GROWTH_TOKENS, KvCache};
use crate::job::Sampling;
use crate::mlx::Result;
use crate::model::Model;
use crate::model::registry::Plan;
use crate::runner::batch;
use crate::runner::draft::Costs;
use crate::runner::row::Row;
use crate::sample::Sampler;

/// How long a prefill chunk should take: a cancel, a neighbour or a short request waits that long at most.
const CHUNK_TIME: Duration = Duration::from_millis(100);
/// Smallest chunk, however slow the device.
const CHUNK_TOKENS_MIN: u32 = 12;
/// Largest chunk, however fast; also what the transients of attention are sized by.
const CHUNK_TOKENS_MAX: u32 = 2048;
/// Chunks are multiples of this: what our kernels take at once (6), and what fills MLX's tiles closely enough.
const CHUNK_TOKENS_STEP: u32 = 12;
/// Steps of each length that are measured; the fastest counts, because others are the machine's.
const STEPS_MEASURED: usize = 4;
/// A token that every vocabulary has.
const TOKEN: u32 = 0;

/// Generates one token, then measures ever larger chunks until one takes half the chunk time; returns the size that
/// should take all of it.
pub(super) fn run(model: &dyn Model, plan: &Plan, coding: Coding, progress: &dyn Fn()) -> Result<u32> {
    let context = plan.context_tokens.min(CHUNK_TOKENS_MAX);
    let mut row = open(model, plan, coding, 1);
    row.prefill(model, 1)?;
    batch::step(model, &mut [&mut row], None)?;
    row.close()?;
    progress();

    let mut tokens = CHUNK_TOKENS_MIN.min(context);
    // The first chunk of a size pays for its buffers; the second one is measured.
    let _ = time(model, plan, coding, tokens)?;
    loop {
        let took = time(model, plan, coding, tokens)?;
        progress();
        if took >= CHUNK_TIME / 2 || tokens * 2 > context {
            let fitting = f64::from(tokens) * CHUNK_TIME.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON);
            // Beyond twice what was measured nothing is known.
            let fitting = (fitting as u32).min(tokens * 2);
            let whole = fitting / CHUNK_TOKENS_STEP * CHUNK_TOKENS_STEP;
            return Ok(whole.clamp(CHUNK_TOKENS_MIN, CHUNK_TOKENS_MAX));
        }
        tokens *= 2;
    }
}

/// How long a chunk of this size takes, of a prompt that goes on.
fn time(model: &dyn Model, plan: &Plan, coding: Coding, tokens: u32) -> Result<Duration> {
    let mut row = open(model, plan, coding, tokens + 1);
    let start = Instant::now();
    row.prefill(model, tokens)?;
    let took = start.elapsed();
    row.close()?;
    Ok(took)
}

/// How long steps with drafts take that have up to so many tokens, beside one without.
pub(super) fn costs(
    model: &dyn Model,
    (plan, coding): (&Plan, Coding),
    draft_tokens_max: usize,
    progress: &dyn Fn(),
) -> Result<Costs> {
    // Every step measured may add as many tokens.
    let longest = (draft_tokens_max + 1).min(plan.context_tokens as usize / (2 * (STEPS_MEASURED + 1)));
    let mut tokens = 1;
    let mut points = Vec::new();
    while tokens <= longest {
        points.push((tokens, step_time(model, plan, coding, tokens)?.as_secs_f64()));
        progress();
        tokens += 1;
    }
    Ok(Costs::new(points))
}

/// How long a step takes that checks a draft and has so many tokens with it, or one without a draft.
fn step_time(model: &dyn Model, plan: &Plan, coding: Coding, tokens: usize) -> Result<Duration> {
    let mut row = open(model, plan, coding, 1);
    row.prefill(model, 1)?;
    let mut fastest = Duration::MAX;
    // The first step only leads to the ones that are measured.
    for step in 0..=STEPS_MEASURED {
        let start = Instant::now();
        batch::step(model, &mut [&mut row], None)?;
        if step > 0 {
            fastest = fastest.min(start.elapsed());
        }
        if tokens > 1 {
            batch::redraft(model, &mut row, vec![TOKEN; tokens - 1])?;
        }
    }
    row.close()?;
    Ok(fastest)
}

fn open(model: &dyn Model, plan: &Plan, coding: Coding, tokens: u32) -> Row {
    let prompt = vec![TOKEN; tokens as usize];
    let sampler = Sampler::new(&Sampling::greedy(), &prompt, plan.logit_width as usize, None);
    let mut row = Row::new(&prompt, None, sampler, plan.context_tokens as usize);
    row.begin(model.caches(coding, prompt.len()));
    row
}

/// What a row's caches take for each token.
pub(super) fn token_bytes(model: &dyn Model, plan: &Plan, coding: Coding) -> Result<u64> {
    let mut row = open(model, plan, coding, 2);
    row.prefill(model, 2)?;
    let (_, caches) = row.computed();
    let bytes: u64 = caches.iter().map(KvCache::bytes).sum();
    Ok(bytes / u64::from(GROWTH_TOKENS))
}

/// Tokens above which a row's caches take no more, in passes of at most so many; `u32::MAX` if some layer sees everything.
pub(super) fn window_tokens(model: &dyn Model, pass_tokens: u32) -> u32 {
    let caches = model.caches(Coding::Plain, 0);
    let most = caches.iter().map(|cache| cache.positions_max(pass_tokens as usize).unwrap_or(usize::MAX)).max();
    u32::try_from(most.unwrap_or(usize::MAX)).unwrap_or(u32::MAX)
}
