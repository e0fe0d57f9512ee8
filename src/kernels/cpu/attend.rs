//! Attention over the keys and values of a cache, which `append` has written: it rotates the queries and lets each see
//! itself and what is before it, everything or a window.
//!
//! Attention goes through the keys in blocks of [`BLOCK`] that begin at multiples of that, keeping the largest score, the
//! sum of the exponentials and the weighted values so far (online softmax; M. Milakov, N. Gimelshein, 2018; the blocked
//! form of T. Dao et al., 2022), so that no row of scores longer than a block exists. What a query gets depends on its
//! position and on what it sees, and on nothing else: not on who is computed beside it.

use std::ops::Range;
use std::sync::Arc;

use crate::kernels::cpu::coded::{Affine, Coded, Floats};
use crate::kernels::cpu::pool::{PARTS_MAX, pool};
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::rows::{load_up_to, store_up_to};
use crate::kernels::cpu::simd::{Eight, Portable, exp};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::Avx2;
use crate::kernels::cpu::{Isa, Shared, isa, with_scratch};
use crate::kernels::{Bits, Coding, Heads};
use crate::mlx::{Array, Result};

/// Keys that share one step of the softmax.
const BLOCK: usize = 64;
/// Queries that go through the blocks together, so that keys are read once for several of them.
const QUERIES: usize = 16;
/// Lanes of the vectors here.
const LANES: usize = 8;

/// Elements of a token's projections.
pub(super) fn row_width(heads: Heads) -> usize {
    (heads.queries + 2 * heads.keys) * heads.width
}

/// The rotation of each token of a pass: cosines and sines of `width / 2` pairs.
#[derive(Debug)]
pub(in crate::kernels) struct Table {
    /// `[T, width / 2]`.
    pub(in crate::kernels) cosines: Vec<f32>,
    /// `[T, width / 2]`.
    pub(in crate::kernels) sines: Vec<f32>,
    /// Pairs are neighbours instead of halves.
    pub(in crate::kernels) traditional: bool,
}

impl Table {
    /// `out = rotated x · factor`, for the token `token` of the pass.
    pub(super) fn rotate(&self, x: &[f32], token: usize, factor: f32, out: &mut [f32]) {
        let half = x.len() / 2;
        let (cosines, sines) = (&self.cosines[token * half..][..half], &self.sines[token * half..][..half]);
        if self.traditional {
            for (pair, (cosine, sine)) in cosines.iter().zip(sines).enumerate() {
                let (a, b) = (x[2 * pair], x[2 * pair + 1]);
                out[2 * pair] = (a * cosine - b * sine) * factor;
                out[2 * pair + 1] = (b * cosine + a * sine) * factor;
            }
            return;
        }
        let (first, second) = x.split_at(half);
        let (out_first, out_second) = out.split_at_mut(half);
        for pair in 0..half {
            let (a, b, cosine, sine) = (first[pair], second[pair], cosines[pair], sines[pair]);
            out_first[pair] = (a * cosine - b * sine) * factor;
            out_second[pair] = (b * cosine + a * sine) * factor;
        }
    }
}

/// Consecutive tokens of a pass that belong to one sequence.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Span {
    /// The first of them in the pass.
    pub(in crate::kernels) first: usize,
    /// How many.
    pub(in crate::kernels) count: usize,
    /// The position of the first in its sequence.
    pub(in crate::kernels) offset: usize,
    /// The position of the first place of its cache.
    pub(in crate::kernels) first_kept: usize,
    /// Positions that a token sees, itself included; `None`: all.
    pub(in crate::kernels) window: Option<usize>,
}

impl Span {
    /// The position after its last token.
    pub(in crate::kernels) fn end(&self) -> usize {
        self.offset + self.count
    }

    /// The first position that the token at `position` sees.
    pub(in crate::kernels) fn sees_from(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// A cache as attention reads it: its arrays, and how they are coded.
pub(in crate::kernels) type Cache<'a> = (&'a [Array], Coding);

/// Inputs: the projections `[1, T, row]`, then the arrays of each span's cache.
struct Attend {
    heads: Heads,
    /// Each with the coding of its cache.
    spans: Vec<(Span, Coding)>,
    table: Arc<Table>,
    scale: f32,
    isa: Isa,
}

/// `softmax(q·kᵀ·scale)·v` of each token over what it sees of its sequence: `[1, T, row]` → `[1, T, queries · width]`.
pub(in crate::kernels) fn attend(
    projections: &Array,
    caches: &[Cache<'_>],
    heads: Heads,
    (spans, table): (&[Span], &Arc<Table>),
    scale: f32,
) -> Result<Array> {
    assert_eq!(caches.len(), spans.len(), "a cache for each span");
    assert!(spans.iter().all(|span| span.first_kept <= span.sees_from(span.offset)), "what is seen is kept");
    let tokens = spans.iter().map(|span| span.count).sum();
    let inputs: Vec<&Array> =
        std::iter::once(projections).chain(caches.iter().flat_map(|(arrays, _)| *arrays)).collect();
    let spans = spans.iter().zip(caches).map(|(span, (_, coding))| (*span, *coding)).collect();
    let kernel = Attend { heads, spans, table: Arc::clone(table), scale, isa: isa() };
    apply(kernel, &inputs, Made::Floats, None, &[1, tokens, heads.queries * heads.width])
}

/// Some neighbouring queries of one head, and the keys and values that they see.
struct Group<C: Coded> {
    /// Rotated and scaled queries, `[count, width]`.
    queries: *const f32,
    count: usize,
    /// The position of the first query.
    position: usize,
    span: Span,
    /// Of the head, from the position `span.first_kept` on.
    keys: C,
    values: C,
    width: usize,
    /// `[count, stride]`, of which this head's part is `width` long.
    out: *mut f32,
    stride: usize,
}

impl Kernel for Attend {
    fn run(&self, inputs: &[View], output: &View) {
        let projections = inputs[0].elements::<f32>();
        let out = Shared(output.pointer::<f32>());
        let tiles: Vec<(usize, usize)> = self
            .spans
            .iter()
            .enumerate()
            .flat_map(|(index, (span, _))| (0..span.count).step_by(QUERIES).map(move |first| (index, first)))
            .collect();
        let mut rest = &inputs[1..];
        let caches: Vec<Places> = self.spans.iter().map(|(_, coding)| Places::next(*coding, &mut rest)).collect();
        let heads = self.heads.queries;
        let part = |part: usize| {
            let ((index, first), head) = (tiles[part / heads], part % heads);
            self.tile(&projections, &caches[index], (self.spans[index].0, first, head), &out);
        };
        // Tiles of long prompts are more than a pool takes at once.
        for start in (0..tiles.len() * heads).step_by(PARTS_MAX) {
            let parts = (tiles.len() * heads - start).min(PARTS_MAX);
            pool().run(parts, &|index| part(start + index));
        }
    }
}

/// Where the arrays of one cache lie.
struct Places {
    coding: Coding,
    capacity: usize,
    /// Elements or integers; scales; biases.
    arrays: [Shared<f32>; 3],
}

impl Places {
    /// Takes the arrays of the next cache.
    fn next(coding: Coding, inputs: &mut &[View]) -> Self {
        let count = match coding {
            Coding::Plain => 1,
            Coding::Affine { .. } => 3,
        };
        let (own, rest) = inputs.split_at(count);
        *inputs = rest;
        let at = |index: usize| Shared(own.get(index).map_or(std::ptr::null_mut(), View::pointer::<f32>));
        Self { coding, capacity: own[0].shape()[2].unsigned_abs() as usize, arrays: [at(0), at(1), at(2)] }
    }

    /// The rows of a head, of keys or of values, where each head has `width` elements.
    ///
    /// # Safety
    /// The head is there, and floats are how it is coded.
    unsafe fn floats(&self, head: usize, width: usize) -> Floats {
        // SAFETY: the caller's.
        Floats { elements: unsafe { self.arrays[0].0.add(head * self.capacity * width) }, width }
    }

    /// As `floats`, for integers of `BITS` bits.
    ///
    /// # Safety
    /// The head is there, and this is how it is coded.
    unsafe fn affine<const BITS: usize>(&self, head: usize, width: usize, group: usize) -> Affine<BITS> {
        let (row, groups) = (head * self.capacity, width / group);
        // SAFETY: the caller's.
        unsafe {
            Affine {
                integers: self.arrays[0].0.cast::<u8>().add(row * width * BITS / 8),
                scales: self.arrays[1].0.add(row * groups),
                biases: self.arrays[2].0.add(row * groups),
                width,
                group,
            }
        }
    }
}

impl Attend {
    /// The queries from `first` on of one head of a span.
    fn tile(&self, projections: &[f32], cache: &Places, of: (Span, usize, usize), out: &Shared<f32>) {
        let Heads { queries, keys, width } = self.heads;
        let key = of.2 / (queries / keys);
        // SAFETY: heads of the cache, whose shapes `append` has checked.
        unsafe {
            match cache.coding {
                Coding::Plain => {
                    let coded = [cache.floats(key, width), cache.floats(keys + key, width)];
                    self.group(projections, coded, of, out);
                }
                Coding::Affine { bits: Bits::Four, group } => {
                    let coded = [key, keys + key].map(|head| cache.affine::<4>(head, width, group));
                    self.group(projections, coded, of, out);
                }
                Coding::Affine { bits: Bits::Eight, group } => {
                    let coded = [key, keys + key].map(|head| cache.affine::<8>(head, width, group));
                    self.group(projections, coded, of, out);
                }
            }
        }
    }

    fn group<C: Coded>(
        &self,
        projections: &[f32],
        [keys, values]: [C; 2],
        (span, first, head): (Span, usize, usize),
        out: &Shared<f32>,
    ) {
        let Heads { queries, width, .. } = self.heads;
        let count = QUERIES.min(span.count - first);
        let token = span.first + first;
        // Queries, accumulators, scores, the largest score and the sum of each.
        let padded = width.next_multiple_of(LANES);
        with_scratch(QUERIES * (width + padded + BLOCK + 2), |scratch| {
            let (rotated, rest) = scratch.split_at_mut(QUERIES * width);
            for (index, rotated) in rotated.chunks_exact_mut(width).take(count).enumerate() {
                let x = &projections[(token + index) * row_width(self.heads) + head * width..][..width];
                self.table.rotate(x, token + index, self.scale, rotated);
            }
            let group = Group {
                queries: rotated.as_ptr(),
                count,
                position: span.offset + first,
                span,
                keys,
                values,
                width,
                // SAFETY: this group's part of the output.
                out: unsafe { out.0.add((token * queries + head) * width) },
                stride: queries * width,
            };
            // SAFETY: the instruction set was detected.
            unsafe { group.run(self.isa, rest) }
        });
    }
}

impl<C: Coded> Group<C> {
    unsafe fn run(&self, isa: Isa, scratch: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2<C: Coded>(group: &Group<C>, scratch: &mut [f32]) {
            unsafe { group.blocks::<Avx2>(scratch) }
        }
        // SAFETY: the instruction set was detected; AVX-512 includes AVX2.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => avx2(self, scratch),
                Isa::Portable => self.blocks::<Portable>(scratch),
            }
        }
    }

    #[inline(always)]
    unsafe fn blocks<S: Eight>(&self, scratch: &mut [f32]) {
        let padded = self.width.next_multiple_of(LANES);
        let (mixed, rest) = scratch.split_at_mut(QUERIES * padded);
        let (scores, rest) = rest.split_at_mut(QUERIES * BLOCK);
        let (largest, sums) = rest.split_at_mut(QUERIES);
        mixed.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        let (begin, end) = (self.span.sees_from(self.position), self.position + self.count);
        for start in (begin / BLOCK * BLOCK..end).step_by(BLOCK) {
            // Keys of this block that some query sees; each query sees its own part of them, and perhaps none.
            let keys = begin.saturating_sub(start)..BLOCK.min(end - start);
            unsafe { self.scores::<S>(start, keys, scores) };
            for query in 0..self.count {
                let position = self.position + query;
                let from = self.span.sees_from(position).saturating_sub(start);
                let to = (position + 1).saturating_sub(start).min(BLOCK);
                if from >= to {
                    continue;
                }
                let scores = &mut scores[query * BLOCK..][..BLOCK];
                let mixed = &mut mixed[query * padded..][..padded];
                unsafe {
                    let rescale = soften::<S>(scores, from..to, &mut largest[query], &mut sums[query]);
                    self.mix::<S>(start + from, &scores[from..to], rescale, mixed);
                }
            }
        }
        for (query, sum) in sums.iter().enumerate().take(self.count) {
            let factor = 1.0 / sum;
            for at in (0..self.width).step_by(LANES) {
                unsafe {
                    let value = S::mul(S::load(mixed.as_ptr().add(query * padded + at)), S::splat(factor));
                    store_up_to::<S>(self.out.add(query * self.stride + at), self.width - at, value);
                }
            }
        }
    }

    /// The scores of all queries with some keys of the block that begins at `start`.
    #[inline(always)]
    unsafe fn scores<S: Eight>(&self, start: usize, keys: Range<usize>, scores: &mut [f32]) {
        let mut query = 0;
        while query < self.count {
            let at_once = if self.count - query >= 4 { 4 } else { 1 };
            let mut key = keys.start;
            while key < keys.end {
                let left = keys.end - key;
                // SAFETY: queries and keys that there are, and their places among the scores.
                unsafe {
                    let out = scores.as_mut_ptr().add(query * BLOCK + key);
                    match (at_once, left) {
                        (4, 2..) => self.dots::<S, 4, 2>(query, start + key, out),
                        (4, _) => self.dots::<S, 4, 1>(query, start + key, out),
                        (_, 8..) => self.dots::<S, 1, 8>(query, start + key, out),
                        (_, 4..) => self.dots::<S, 1, 4>(query, start + key, out),
                        (_, _) => self.dots::<S, 1, 1>(query, start + key, out),
                    }
                }
                key += match (at_once, left) {
                    (4, 2..) => 2,
                    (1, 8..) => 8,
                    (1, 4..) => 4,
                    (_, _) => 1,
                };
            }
            query += at_once;
        }
    }

    /// Scalar products of some queries with the keys from a position on, each summed alike.
    #[inline(always)]
    unsafe fn dots<S: Eight, const QUERIES: usize, const KEYS: usize>(&self, query: usize, key: usize, out: *mut f32) {
        let row = key - self.span.first_kept;
        unsafe {
            let mut sums = [[S::splat(0.0); KEYS]; QUERIES];
            for at in (0..self.width).step_by(LANES) {
                let mut keys = [S::splat(0.0); KEYS];
                for (index, value) in keys.iter_mut().enumerate() {
                    *value = self.keys.load::<S>(row + index, at);
                }
                for (index, sums) in sums.iter_mut().enumerate() {
                    let q = load_up_to::<S>(self.queries.add((query + index) * self.width + at), self.width - at);
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = S::fma(q, key, *sum);
                    }
                }
            }
            for (query, sums) in sums.iter().enumerate() {
                for (key, sum) in sums.iter().enumerate() {
                    *out.add(query * BLOCK + key) = S::sum(*sum);
                }
            }
        }
    }

    /// `mixed = mixed · rescale + Σ weight · value`, for the values from the position `start` on.
    #[inline(always)]
    unsafe fn mix<S: Eight>(&self, start: usize, weights: &[f32], rescale: f32, mixed: &mut [f32]) {
        let mut at = 0;
        while at < self.width {
            // SAFETY: as many elements of a head as there are.
            unsafe {
                match self.width - at {
                    64.. => self.mix_vectors::<S, 8>(start, weights, rescale, mixed, at),
                    32.. => self.mix_vectors::<S, 4>(start, weights, rescale, mixed, at),
                    _ => self.mix_vectors::<S, 1>(start, weights, rescale, mixed, at),
                }
            }
            at += match self.width - at {
                64.. => 64,
                32.. => 32,
                _ => LANES,
            };
        }
    }

    #[inline(always)]
    unsafe fn mix_vectors<S: Eight, const VECTORS: usize>(
        &self,
        start: usize,
        weights: &[f32],
        rescale: f32,
        mixed: &mut [f32],
        at: usize,
    ) {
        let row = start - self.span.first_kept;
        unsafe {
            let mut sums = [S::splat(0.0); VECTORS];
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = S::mul(S::load(mixed.as_ptr().add(at + vector * LANES)), S::splat(rescale));
            }
            for (key, weight) in weights.iter().enumerate() {
                let weight = S::splat(*weight);
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let value = self.values.load::<S>(row + key, at + vector * LANES);
                    *sum = S::fma(weight, value, *sum);
                }
            }
            for (vector, sum) in sums.iter().enumerate() {
                S::store(mixed.as_mut_ptr().add(at + vector * LANES), *sum);
            }
        }
    }
}

/// Turns the `visible` ones of a block's scores into weights, relative to the largest score so far; returns by what
/// earlier weights must be multiplied.
#[inline(always)]
unsafe fn soften<S: Eight>(scores: &mut [f32], visible: Range<usize>, largest: &mut f32, sum: &mut f32) -> f32 {
    let padded = visible.end.next_multiple_of(LANES);
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..padded].fill(f32::NEG_INFINITY);
    unsafe {
        let mut top = S::splat(*largest);
        for at in (0..padded).step_by(LANES) {
            top = S::max(top, S::load(scores.as_ptr().add(at)));
        }
        let top = S::largest(top);
        let mut first = [0.0; LANES];
        S::store(first.as_mut_ptr(), exp::<S>(S::splat(*largest - top)));
        let rescale = first[0];
        for at in (0..padded).step_by(LANES) {
            let place = scores.as_mut_ptr().add(at);
            S::store(place, exp::<S>(S::add(S::load(place), S::splat(-top))));
        }
        scores[..visible.start].fill(0.0);
        scores[visible.end..padded].fill(0.0);
        let mut total = S::splat(0.0);
        for at in (0..padded).step_by(LANES) {
            total = S::add(total, S::load(scores.as_ptr().add(at)));
        }
        *largest = top;
        *sum = sum.mul_add(rescale, S::sum(total));
        rescale
    }
}
