//! The cache of keys and values, and attention over it.
//!
//! A cache is one array `[1, 2K, capacity, D]`: the keys of K heads, then their values. [`append`] rotates the new keys and
//! writes them and the values in place; [`attend`] rotates the queries and lets each see itself and everything before it.
//!
//! Attention goes through the keys in blocks of [`BLOCK`] that begin at multiples of that, keeping the largest score, the
//! sum of the exponentials and the weighted values so far (online softmax; M. Milakov, N. Gimelshein, 2018; the blocked
//! form of T. Dao et al., 2022), so that no row of scores longer than a block exists. What a query gets depends on its
//! position and on what it sees, and on nothing else: not on who is computed beside it.

use std::sync::Arc;

use crate::kernels::Heads;
use crate::kernels::cpu::pool::pool;
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::rows::{load_up_to, store_up_to};
use crate::kernels::cpu::simd::{Eight, Portable, exp};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::Avx2;
use crate::kernels::cpu::{Isa, Shared, isa, with_scratch};
use crate::mlx::{Array, Result};

/// Keys that share one step of the softmax.
const BLOCK: usize = 64;
/// Queries that go through the blocks together, so that keys are read once for several of them.
const QUERIES: usize = 16;
/// Tokens that one part of an [`append`] takes.
const TOKENS: usize = 32;
/// Lanes of the vectors here.
const LANES: usize = 8;

/// Elements of a token's projections.
fn row_width(heads: Heads) -> usize {
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
    fn rotate(&self, x: &[f32], token: usize, factor: f32, out: &mut [f32]) {
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
}

/// Inputs: the cache, the projections `[1, T, row]`.
struct Append {
    heads: Heads,
    span: Span,
    table: Arc<Table>,
}

/// The cache with the keys and values of a span; in place where nobody else holds it.
pub(in crate::kernels) fn append(
    cache: &Array,
    projections: &Array,
    heads: Heads,
    span: Span,
    table: &Arc<Table>,
) -> Result<Array> {
    let shape: Vec<usize> = cache.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
    let fits = shape.len() == 4 && shape[1] == 2 * heads.keys && shape[3] == heads.width;
    assert!(fits && span.offset + span.count <= shape[2], "the cache has room for the span");
    apply(Append { heads, span, table: Arc::clone(table) }, &[cache, projections], Made::Floats, Some(0), &shape)
}

impl Kernel for Append {
    fn run(&self, inputs: &[View], output: &View) {
        let Self { heads: Heads { queries, keys, width }, span, table } = self;
        let projections = inputs[1].elements::<f32>();
        let capacity = output.shape()[2].unsigned_abs() as usize;
        let out = Shared(output.pointer::<f32>());
        let one = |token: usize| {
            let row = &projections[(span.first + token) * row_width(self.heads)..][queries * width..];
            for (head, x) in row.chunks_exact(*width).take(2 * keys).enumerate() {
                let at = (head * capacity + span.offset + token) * width;
                // SAFETY: this token's own place in the cache.
                let out = unsafe { out.slice(at, *width) };
                if head < *keys { table.rotate(x, span.first + token, 1.0, out) } else { out.copy_from_slice(x) }
            }
        };
        let part = |part: usize| (part * TOKENS..((part + 1) * TOKENS).min(span.count)).for_each(one);
        pool().run(span.count.div_ceil(TOKENS), &part);
    }
}

/// Inputs: the projections `[1, T, row]`, then the cache of each span.
struct Attend {
    heads: Heads,
    spans: Vec<Span>,
    table: Arc<Table>,
    scale: f32,
    isa: Isa,
}

/// `softmax(q·kᵀ·scale)·v` of each token over its sequence up to itself: `[1, T, row]` → `[1, T, queries · width]`.
pub(in crate::kernels) fn attend(
    projections: &Array,
    caches: &[Array],
    heads: Heads,
    spans: &[Span],
    table: &Arc<Table>,
    scale: f32,
) -> Result<Array> {
    assert_eq!(caches.len(), spans.len(), "a cache for each span");
    let tokens = spans.iter().map(|span| span.count).sum();
    let inputs: Vec<&Array> = std::iter::once(projections).chain(caches).collect();
    let kernel = Attend { heads, spans: spans.to_vec(), table: Arc::clone(table), scale, isa: isa() };
    apply(kernel, &inputs, Made::Floats, None, &[1, tokens, heads.queries * heads.width])
}

/// Some neighbouring queries of one head, and the keys and values that they see.
struct Group {
    /// Rotated and scaled queries, `[count, width]`.
    queries: *const f32,
    count: usize,
    /// The position of the first query.
    position: usize,
    /// The head's keys and values, `[capacity, width]` each.
    keys: *const f32,
    values: *const f32,
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
            .flat_map(|(index, span)| (0..span.count).step_by(QUERIES).map(move |first| (index, first)))
            .collect();
        let caches: Vec<(Shared<f32>, usize)> = inputs[1..]
            .iter()
            .map(|cache| (Shared(cache.pointer::<f32>()), cache.shape()[2].unsigned_abs() as usize))
            .collect();
        let heads = self.heads.queries;
        let part = |part: usize| {
            let ((index, first), head) = (tiles[part / heads], part % heads);
            let (cache, capacity) = &caches[index];
            self.group(&projections, cache, *capacity, (self.spans[index], first, head), &out);
        };
        // Tiles of long prompts are more than a pool takes at once.
        for start in (0..tiles.len() * heads).step_by(crate::kernels::cpu::pool::PARTS_MAX) {
            let parts = (tiles.len() * heads - start).min(crate::kernels::cpu::pool::PARTS_MAX);
            pool().run(parts, &|index| part(start + index));
        }
    }
}

impl Attend {
    /// The queries from `first` on of one head of a span.
    fn group(
        &self,
        projections: &[f32],
        cache: &Shared<f32>,
        capacity: usize,
        (span, first, head): (Span, usize, usize),
        out: &Shared<f32>,
    ) {
        let Heads { queries, keys, width } = self.heads;
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
            let kv_head = head / (queries / keys);
            // SAFETY: heads of the cache, whose shape `append` has checked, and this group's part of the output.
            let group = unsafe {
                Group {
                    queries: rotated.as_ptr(),
                    count,
                    position: span.offset + first,
                    keys: cache.0.add(kv_head * capacity * width),
                    values: cache.0.add((keys + kv_head) * capacity * width),
                    width,
                    out: out.0.add((token * queries + head) * width),
                    stride: queries * width,
                }
            };
            // SAFETY: the instruction set was detected.
            unsafe { group.run(self.isa, rest) }
        });
    }
}

impl Group {
    unsafe fn run(&self, isa: Isa, scratch: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(group: &Group, scratch: &mut [f32]) {
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
        let seen = self.position + self.count;
        for start in (0..seen).step_by(BLOCK) {
            // Keys of this block that the last query sees; earlier queries see fewer, and perhaps none.
            let keys = BLOCK.min(seen - start);
            unsafe { self.scores::<S>(start, keys, scores) };
            for query in 0..self.count {
                let visible = (self.position + query + 1).saturating_sub(start).min(BLOCK);
                if visible == 0 {
                    continue;
                }
                let scores = &mut scores[query * BLOCK..][..BLOCK];
                let mixed = &mut mixed[query * padded..][..padded];
                unsafe {
                    let rescale = soften::<S>(scores, visible, &mut largest[query], &mut sums[query]);
                    self.mix::<S>(start, &scores[..visible], rescale, mixed);
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

    /// The scores of all queries with the keys `start..start + keys`.
    #[inline(always)]
    unsafe fn scores<S: Eight>(&self, start: usize, keys: usize, scores: &mut [f32]) {
        let mut query = 0;
        while query < self.count {
            let at_once = if self.count - query >= 4 { 4 } else { 1 };
            let mut key = 0;
            while key < keys {
                let left = keys - key;
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

    /// Scalar products of some queries with some keys, each summed alike.
    #[inline(always)]
    unsafe fn dots<S: Eight, const QUERIES: usize, const KEYS: usize>(&self, query: usize, key: usize, out: *mut f32) {
        unsafe {
            let mut sums = [[S::splat(0.0); KEYS]; QUERIES];
            for at in (0..self.width).step_by(LANES) {
                let mut keys = [S::splat(0.0); KEYS];
                for (index, value) in keys.iter_mut().enumerate() {
                    *value = load_up_to::<S>(self.keys.add((key + index) * self.width + at), self.width - at);
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

    /// `mixed = mixed · rescale + Σ weight · value`.
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
        unsafe {
            let mut sums = [S::splat(0.0); VECTORS];
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = S::mul(S::load(mixed.as_ptr().add(at + vector * LANES)), S::splat(rescale));
            }
            for (key, weight) in weights.iter().enumerate() {
                let (weight, values) = (S::splat(*weight), self.values.add((start + key) * self.width + at));
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let value = load_up_to::<S>(values.add(vector * LANES), self.width - at - vector * LANES);
                    *sum = S::fma(weight, value, *sum);
                }
            }
            for (vector, sum) in sums.iter().enumerate() {
                S::store(mixed.as_mut_ptr().add(at + vector * LANES), *sum);
            }
        }
    }
}

/// Turns the first `visible` of a block's scores into weights, relative to the largest score so far; returns by what
/// earlier weights must be multiplied.
#[inline(always)]
unsafe fn soften<S: Eight>(scores: &mut [f32], visible: usize, largest: &mut f32, sum: &mut f32) -> f32 {
    let padded = visible.next_multiple_of(LANES);
    scores[visible..padded].fill(f32::NEG_INFINITY);
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
        scores[visible..padded].fill(0.0);
        let mut total = S::splat(0.0);
        for at in (0..padded).step_by(LANES) {
            total = S::add(total, S::load(scores.as_ptr().add(at)));
        }
        *largest = top;
        *sum = sum.mul_add(rescale, S::sum(total));
        rescale
    }
}
