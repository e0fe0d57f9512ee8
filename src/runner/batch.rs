//! One step of several rows: their next tokens are computed in one pass, which reads each weight once for all of them. It
//! owns what a row holds of a choice that it made together with others.

use std::cell::OnceCell;
use std::rc::Rc;

use mlx_rs::ops::concatenate;

use crate::engine::backend::Decoded;
use crate::mlx::{Array, Device, Result, async_eval, device, slice, to_u32_vec};
use crate::model::{Model, Sequence};
use crate::runner::row::Row;
use crate::sample::{self, NOT_FINITE};

/// What the rows of a step have chosen; perhaps not computed yet.
#[derive(Debug)]
struct Chosen {
    /// `[2, R]`; see [`sample::next`].
    array: Array,
    rows: usize,
    /// The array's numbers, once somebody has waited for them.
    read: OnceCell<Vec<u32>>,
}

/// One row's part of a choice.
#[derive(Debug)]
pub(super) struct Pending {
    chosen: Rc<Chosen>,
    column: usize,
}

impl Pending {
    /// The parts of a choice of so many rows, in their order.
    pub(super) fn of_batch(array: Array, rows: usize) -> Vec<Self> {
        let chosen = Rc::new(Chosen { array, rows, read: OnceCell::new() });
        (0..rows).map(|column| Self { chosen: Rc::clone(&chosen), column }).collect()
    }

    /// Waits for the token; `None` when the row's scores were not finite.
    pub(super) fn read(&self) -> Result<Option<u32>> {
        let Chosen { array, rows, read } = self.chosen.as_ref();
        let numbers = match read.get() {
            Some(numbers) => numbers,
            None => {
                let numbers = to_u32_vec(array)?;
                read.get_or_init(|| numbers)
            }
        };
        let report = numbers[rows + self.column];
        Ok((report != NOT_FINITE).then_some(report))
    }
}

/// The tokens of some rows as the input of a pass, `[1, R]`.
fn tokens(pending: &[&Pending]) -> Result<Array> {
    let Chosen { array, rows, .. } = pending[0].chosen.as_ref();
    let unchanged = pending.len() == *rows
        && pending
            .iter()
            .enumerate()
            .all(|(place, part)| part.column == place && Rc::ptr_eq(&part.chosen, &pending[0].chosen));
    if unchanged {
        return slice(array, &[0, 0], &[1, *rows]);
    }
    let one = |part: &&Pending| slice(&part.chosen.array, &[0, part.column], &[1, part.column + 1]);
    Ok(concatenate(&pending.iter().map(one).collect::<Result<Vec<_>>>()?, 1)?)
}

/// One token of each row, in their order: builds the step after the pending one, sees to it that the device has work (see
/// the module `runner`), and waits for the pending tokens.
pub(super) fn step(model: &dyn Model, rows: &mut [&mut Row]) -> Result<Vec<Decoded>> {
    // What is submitted now updates the caches in place, if nobody else holds them.
    rows.iter_mut().for_each(|row| row.before = None);
    let pending: Vec<&Pending> =
        rows.iter().map(|row| row.pending.as_ref().expect("the engine decodes only complete prompts")).collect();
    if device() == Device::Cpu {
        let mut arrays: Vec<&Rc<Chosen>> = Vec::new();
        for part in &pending {
            if !arrays.iter().any(|other| Rc::ptr_eq(other, &part.chosen)) {
                arrays.push(&part.chosen);
            }
        }
        async_eval(arrays.iter().map(|chosen| &chosen.array))?;
    }
    let tokens = tokens(&pending)?;
    let (mut sequences, mut samplers) = (Vec::new(), Vec::new());
    for row in rows.iter_mut() {
        row.before = (device() == Device::Cpu).then(|| row.caches.clone());
        sequences.push(Sequence { caches: &mut row.caches, count: 1 });
        samplers.push(&mut row.sampler);
    }
    let scores = model.forward(&tokens, &mut sequences)?;
    let chosen = sample::next(&mut samplers, &scores)?;
    if device() == Device::Gpu {
        async_eval([&chosen])?;
    }
    let following = Pending::of_batch(chosen, rows.len());
    for (row, following) in rows.iter_mut().zip(following) {
        row.following = Some(following);
    }
    rows.iter_mut().map(|row| row.take()).collect()
}
