//! One step of several rows: their next tokens are computed in one pass, which reads each weight once for all of them. It
//! owns what a row holds of a pass that it made together with others.

use std::rc::Rc;

use mlx_rs::ops::concatenate;

use crate::engine::backend::Decoded;
use crate::mlx::{Array, Device, Result, async_eval, device, slice};
use crate::model::{Model, Sequence};
use crate::runner::row::Row;
use crate::sample;

/// One row's part of a pass: the scores of its next token, perhaps not computed yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// `[1, R, V]`, of all rows of the pass.
    scores: Rc<Array>,
    rows: usize,
    place: usize,
}

impl Pending {
    /// The parts of a pass of so many rows, in their order.
    pub(super) fn of_pass(scores: Array, rows: usize) -> Vec<Self> {
        let scores = Rc::new(scores);
        (0..rows).map(|place| Self { scores: Rc::clone(&scores), rows, place }).collect()
    }

    fn of_the_pass_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.scores, &other.scores)
    }
}

/// The scores of some rows, `[1, R, V]`.
fn scores(pending: &[&Pending]) -> Result<Array> {
    let first = pending[0];
    let whole = pending.len() == first.rows;
    if whole && pending.iter().enumerate().all(|(place, part)| part.place == place && part.of_the_pass_of(first)) {
        return Ok(first.scores.as_ref().clone());
    }
    let one = |part: &&Pending| {
        let width = part.scores.shape()[2].unsigned_abs() as usize;
        slice(&part.scores, &[0, part.place, 0], &[1, part.place + 1, width])
    };
    Ok(concatenate(&pending.iter().map(one).collect::<Result<Vec<_>>>()?, 1)?)
}

/// One token of each row, in their order: chooses it from the pending scores, builds the pass that it leads to, sees to it
/// that the device has work (see the module `runner`), and waits for the tokens.
pub(super) fn step(model: &dyn Model, rows: &mut [&mut Row]) -> Result<Vec<Decoded>> {
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
    let scores = scores(&pending)?;
    // The device computes the scores while a mask is waited for.
    let chosen = sample::next(&mut rows.iter_mut().map(|row| &mut row.sampler).collect::<Vec<_>>(), &scores)?;
    async_eval([&chosen])?;

    let tokens = slice(&chosen, &[0, 0], &[1, rows.len()])?;
    let mut sequences = Vec::new();
    for row in rows.iter_mut() {
        row.make_room(1)?;
        row.before = (device() == Device::Cpu).then(|| row.caches.clone());
        sequences.push(Sequence { caches: &mut row.caches, count: 1 });
    }
    let following = model.forward(&tokens, &mut sequences)?;
    if device() == Device::Gpu {
        async_eval([&following])?;
    }
    let following = Pending::of_pass(following, rows.len());
    let choices = sample::read(&rows.iter().map(|row| &row.sampler).collect::<Vec<_>>(), &chosen)?;
    let decoded = rows.iter_mut().zip(following).zip(choices).map(|((row, following), choice)| {
        row.pending = Some(following);
        row.take(choice)
    });
    Ok(decoded.collect())
}
