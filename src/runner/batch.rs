//! One step of several rows: their next tokens are computed in one pass, which reads each weight once for all of them. It
//! owns what a row holds of a pass that it made together with others, and when the next pass is built: before the tokens
//! are known that it is fed with, or, where rows guess, with what they guess behind them.

use std::iter::repeat_n;
use std::rc::Rc;

use mlx_rs::ops::concatenate;

use crate::engine::backend::Decoded;
use crate::mlx::{Array, Device, Result, async_eval, device, from_tokens, slice};
use crate::model::{Model, Sequence};
use crate::runner::draft::{Drafting, Guess};
use crate::runner::row::Row;
use crate::sample;

/// One row's part of a pass: the scores of its next tokens, perhaps not computed yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// `[1, P, V]`, of all positions of the pass.
    scores: Rc<Array>,
    /// P.
    positions: usize,
    /// The row's first position.
    first: usize,
    /// How many are the row's.
    count: usize,
}

impl Pending {
    /// The parts of a pass that has so many positions of each row, in their order.
    pub(super) fn of_pass(scores: Array, counts: &[usize]) -> Vec<Self> {
        let (scores, positions) = (Rc::new(scores), counts.iter().sum());
        let mut end = 0;
        let part = |count: &usize| {
            end += count;
            Self { scores: Rc::clone(&scores), positions, first: end - count, count: *count }
        };
        counts.iter().map(part).collect()
    }

    fn of_the_pass_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.scores, &other.scores)
    }
}

/// The scores of some rows, `[1, P, V]`.
fn scores(pending: &[&Pending]) -> Result<Array> {
    let mut end = 0;
    let in_order = pending.iter().all(|part| {
        end += part.count;
        part.of_the_pass_of(pending[0]) && part.first + part.count == end
    });
    if in_order && end == pending[0].positions {
        return Ok(pending[0].scores.as_ref().clone());
    }
    let one = |part: &&Pending| {
        let width = part.scores.shape()[2].unsigned_abs() as usize;
        slice(&part.scores, &[0, part.first, 0], &[1, part.first + part.count, width])
    };
    Ok(concatenate(&pending.iter().map(one).collect::<Result<Vec<_>>>()?, 1)?)
}

/// The next tokens of each row, in their order: chooses them from the pending scores, builds the pass that they lead to,
/// sees to it that the device has work (see the module `runner`), and waits for the tokens. A row has one token, and as
/// many more as it drafted right.
pub(super) fn step(model: &dyn Model, rows: &mut [&mut Row], drafting: Option<&Drafting>) -> Result<Vec<Decoded>> {
    // What is submitted now updates the caches in place, if nobody else holds them.
    rows.iter_mut().for_each(|row| row.before = None);
    let pending: Vec<&Pending> =
        rows.iter().map(|row| row.pending.as_ref().expect("the engine decodes only complete prompts")).collect();
    if device() == Device::Cpu {
        let distinct = pending
            .iter()
            .enumerate()
            .filter(|(at, part)| !pending[..*at].iter().any(|earlier| part.of_the_pass_of(earlier)));
        async_eval(distinct.map(|(_, part)| part.scores.as_ref()))?;
    }
    let counts: Vec<usize> = pending.iter().map(|part| part.count).collect();
    let scores = scores(&pending)?;
    // The device computes the scores while a mask is waited for.
    let chosen = sample::next(&mut rows.iter_mut().map(|row| row.draws()).collect::<Vec<_>>(), &scores)?;
    async_eval([&chosen])?;

    let ahead = runs_ahead(rows, drafting);
    if ahead {
        let tokens = slice(&chosen, &[0, 0], &[1, rows.len()])?;
        follow(model, rows, &tokens, &counts)?;
    }
    let samplers = rows.iter().zip(&counts).flat_map(|(row, count)| repeat_n(&row.sampler, *count));
    let mut choices = sample::read(&samplers.collect::<Vec<_>>(), &chosen)?;
    let counted = rows.iter_mut().zip(&counts);
    let decoded = counted.map(|(row, count)| row.take(choices.drain(..*count), drafting)).collect();

    let mut going: Vec<&mut Row> = rows.iter_mut().map(|row| &mut **row).filter(|row| !row.has_failed()).collect();
    if !ahead || device() == Device::Cpu {
        go_on(model, &mut going, drafting, ahead)?;
    }
    going.iter().for_each(|row| row.check());
    Ok(decoded)
}

/// Whether the pass that a step leads to is built before its tokens are known.
fn runs_ahead(rows: &[&mut Row], drafting: Option<&Drafting>) -> bool {
    // What a draft leads to depends on how much of it is right.
    let known = rows.iter().all(|row| !row.drafts());
    match device() {
        Device::Cpu => known,
        // What is submitted is not taken back, so it is held back where the token may lead to a draft.
        Device::Gpu => known && !drafting.is_some_and(|drafting| rows.iter().any(|row| row.may_draft(drafting))),
    }
}

/// Builds the pass that the last tokens lead to, with the drafts behind them that pay; one that was built ahead stays if
/// there are none.
fn go_on(model: &dyn Model, rows: &mut [&mut Row], drafting: Option<&Drafting>, ahead: bool) -> Result<()> {
    let guesses: Vec<Option<Guess>> = rows.iter_mut().map(|row| row.guess()).collect();
    let lengths = drafting.map_or_else(|| vec![0; rows.len()], |drafting| drafting.lengths(&guesses));
    if rows.is_empty() || ahead && lengths.iter().all(|length| *length == 0) {
        return Ok(());
    }
    if ahead {
        rows.iter_mut().for_each(|row| row.unbuild());
    }
    let drafts = rows.iter().zip(guesses).zip(lengths).map(|((row, guess), length)| row.draft(guess, length)).collect();
    draft(model, rows, drafts)
}

/// Has the pass that was built last check this draft too.
pub(super) fn redraft(model: &dyn Model, row: &mut Row, tokens: Vec<u32>) -> Result<()> {
    row.unbuild();
    draft(model, &mut [row], vec![tokens])
}

/// Builds the pass of each row's last token and its draft.
fn draft(model: &dyn Model, rows: &mut [&mut Row], drafts: Vec<Vec<u32>>) -> Result<()> {
    let fed: Vec<Vec<u32>> = rows.iter_mut().zip(drafts).map(|(row, draft)| row.feed(draft)).collect();
    follow(model, rows, &from_tokens(&fed.concat()), &fed.iter().map(Vec::len).collect::<Vec<_>>())
}

/// Builds the pass of these tokens, so many of each row, and submits it where the device then need not wait for the host.
fn follow(model: &dyn Model, rows: &mut [&mut Row], tokens: &Array, counts: &[usize]) -> Result<()> {
    let mut sequences = Vec::with_capacity(rows.len());
    for (row, count) in rows.iter_mut().zip(counts) {
        row.make_room(*count)?;
        row.before = (device() == Device::Cpu).then(|| row.caches.clone());
        sequences.push(Sequence { caches: &mut row.caches, count: *count });
    }
    let scores = model.forward_all(tokens, &mut sequences)?;
    if device() == Device::Gpu {
        async_eval([&scores])?;
    }
    for (row, part) in rows.iter_mut().zip(Pending::of_pass(scores, counts)) {
        row.pending = Some(part);
    }
    Ok(())
}
