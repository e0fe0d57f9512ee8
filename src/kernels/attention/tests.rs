//! Our attention against MLX's operations.

use proptest::prelude::*;

use super::*;
use crate::kernels::{Bits, Coding, RopeScaling};
use crate::mlx::{from_f32, slice, to_f32_vec, to_u32_vec};

/// A cache that never grows.
struct Fixed {
    arrays: Vec<Array>,
    form: Form,
    tokens: usize,
}

impl Fixed {
    fn new(heads: Heads, capacity: usize, form: Form) -> Self {
        let arrays = form.coding.empty(heads, Dtype::Float32, capacity).expect("memory");
        Self { arrays, form, tokens: 0 }
    }
}

impl KeyValues for Fixed {
    fn take(&mut self, _: Heads, _: Dtype, _: usize) -> Result<Stored> {
        let arrays = std::mem::take(&mut self.arrays);
        let Form { coding, window } = self.form;
        Ok(Stored { arrays, coding, first: 0, tokens: self.tokens, window })
    }

    fn put(&mut self, arrays: Vec<Array>, count: usize) {
        self.arrays = arrays;
        self.tokens += count;
    }
}

fn projections(heads: Heads, tokens: usize, step: usize) -> Array {
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let values: Vec<f32> = (0..tokens * row).map(|i| ((i * step % 97) as f32 - 48.0) / 30.0).collect();
    from_f32(&values, &[1, tokens, row])
}

/// How a sequence is kept, in one test.
#[derive(Debug, Clone, Copy)]
struct Form {
    coding: Coding,
    window: Option<usize>,
}

impl Form {
    const PLAIN: Self = Self { coding: Coding::Plain, window: None };

    /// Every coding that heads of this width can have, with some windows.
    fn all(width: usize) -> Vec<Self> {
        let codings = [Bits::Four, Bits::Eight].into_iter().filter_map(|bits| Coding::affine(bits, width));
        let codings = std::iter::once(Coding::Plain).chain(codings);
        codings.flat_map(|coding| [None, Some(1), Some(5), Some(64)].map(|window| Self { coding, window })).collect()
    }
}

/// What attention gives, and what the cache then holds: its integers as they are, and floats.
#[derive(Debug, PartialEq)]
struct Outcome {
    mixed: Vec<f32>,
    integers: Vec<u32>,
    floats: Vec<f32>,
}

/// One sequence, its tokens in chunks.
fn run((heads, form): (Heads, Form), rope: &Rope, all: &Array, chunks: &[usize], tables: bool) -> Outcome {
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let mut cache = Fixed::new(heads, chunks.iter().sum(), form);
    let mut mixed = Vec::new();
    let mut first = 0;
    for &count in chunks {
        let chunk = slice(all, &[0, first, 0], &[1, first + count, row]).expect("fits");
        let angles = if tables { rope.angles(&[(first, count)]) } else { Angles { table: None } };
        let mut sequence = [Sequence { cache: &mut cache, count }];
        let out = attention(&chunk, heads, (rope, &angles), &mut sequence).expect("fits");
        mixed.extend(to_f32_vec(&out).expect("cpu"));
        first += count;
    }
    let (integers, floats): (Vec<&Array>, Vec<&Array>) =
        cache.arrays.iter().partition(|array| array.dtype() == Dtype::Uint32);
    Outcome {
        mixed,
        integers: integers.into_iter().flat_map(|array| to_u32_vec(array).expect("cpu")).collect(),
        floats: floats.into_iter().flat_map(|array| to_f32_vec(array).expect("cpu")).collect(),
    }
}

fn near(a: &Outcome, b: &Outcome, of: &str) {
    assert_eq!(a.integers, b.integers, "{of}");
    for (a, b) in a.mixed.iter().zip(&b.mixed).chain(a.floats.iter().zip(&b.floats)) {
        assert!((a - b).abs() < 3e-5, "{of}: {a} and {b}");
    }
}

#[test]
fn the_kernel_equals_the_composed_operations() {
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_factor: 1.0, high_factor: 4.0, context: 64.0 };
    for (queries, keys, width) in [(6, 2, 8), (9, 3, 64), (4, 4, 80), (2, 1, 12), (2, 1, 256), (3, 1, 100)] {
        let heads = Heads { queries, keys, width };
        for (scaling, traditional) in [(RopeScaling::None, false), (llama3, true)] {
            let rope = Rope::new(width, 10_000.0, scaling, traditional);
            for chunks in [&[1][..], &[5], &[70, 1], &[3, 64, 1, 61, 9]] {
                let all = projections(heads, chunks.iter().sum(), 31);
                let run = |tables| run((heads, Form::PLAIN), &rope, &all, chunks, tables);
                near(&run(true), &run(false), &format!("{heads:?} {chunks:?}"));
            }
        }
    }
}

/// Nothing is rotated here: two rotations that differ in the last place would code an element differently now and then.
#[test]
fn windows_and_integers_are_those_of_the_composed_operations() {
    for (queries, keys, width) in [(9, 3, 64), (4, 2, 32), (2, 1, 96)] {
        let heads = Heads { queries, keys, width };
        let rope = Rope::new(width, 10_000.0, RopeScaling::Linear { factor: 1e30 }, false);
        for form in Form::all(width) {
            for chunks in [&[1][..], &[5], &[70, 1], &[3, 64, 1, 61, 9], &[150, 1, 1]] {
                let all = projections(heads, chunks.iter().sum(), 31);
                let run = |tables| run((heads, form), &rope, &all, chunks, tables);
                near(&run(true), &run(false), &format!("{heads:?} {form:?} {chunks:?}"));
            }
        }
    }
}

#[test]
fn chunks_change_no_bit() {
    let heads = Heads { queries: 9, keys: 3, width: 64 };
    let rope = Rope::new(64, 10_000.0, RopeScaling::None, false);
    let all = projections(heads, 130, 31);
    for form in Form::all(64) {
        let whole = run((heads, form), &rope, &all, &[130], true);
        for chunks in [vec![1; 130], vec![7; 18], vec![64, 1, 1, 64], vec![129, 1]] {
            let covered: usize = chunks.iter().sum();
            let chunks: Vec<usize> = chunks.into_iter().chain((covered < 130).then(|| 130 - covered)).collect();
            assert_eq!(run((heads, form), &rope, &all, &chunks, true), whole, "{form:?} {chunks:?}");
        }
    }
}

#[test]
fn instruction_sets_change_no_bit() {
    let heads = Heads { queries: 4, keys: 2, width: 96 };
    let rope = Rope::new(96, 10_000.0, RopeScaling::None, false);
    let all = projections(heads, 81, 31);
    for form in Form::all(96) {
        let found = cpu::with_each_isa(|| run((heads, form), &rope, &all, &[70, 1, 10], true));
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{form:?}");
    }
}

#[test]
fn a_sequence_gets_the_same_bits_alone_and_among_others_of_any_form() {
    let heads = Heads { queries: 6, keys: 2, width: 32 };
    let rope = Rope::new(32, 10_000.0, RopeScaling::None, false);
    let affine = |bits| Coding::affine(bits, 32).expect("it fits");
    let forms = [
        Form::PLAIN,
        Form { window: Some(30), ..Form::PLAIN },
        Form { coding: affine(Bits::Four), window: None },
        Form { coding: affine(Bits::Eight), window: Some(9) },
    ];
    let lengths = [3, 1, 40, 1];
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let before = [0, 90, 7, 64];
    let all = projections(heads, lengths.iter().sum(), 53);
    let filled = |index: usize| {
        let mut cache = Fixed::new(heads, 160, forms[index]);
        if before[index] > 0 {
            let old = projections(heads, before[index], 17 + index);
            let mut sequence = [Sequence { cache: &mut cache, count: before[index] }];
            let angles = rope.angles(&[(0, before[index])]);
            attention(&old, heads, (&rope, &angles), &mut sequence).expect("fits");
        }
        cache
    };
    let mut caches: Vec<Fixed> = (0..4).map(filled).collect();
    let mut sequences: Vec<Sequence<'_>> =
        caches.iter_mut().zip(lengths).map(|(cache, count)| Sequence { cache, count }).collect();
    let spans: Vec<(usize, usize)> = before.into_iter().zip(lengths).collect();
    let together = attention(&all, heads, (&rope, &rope.angles(&spans)), &mut sequences).expect("fits");
    let together = to_f32_vec(&together).expect("cpu");

    let mut first = 0;
    for (index, count) in lengths.into_iter().enumerate() {
        let own = slice(&all, &[0, first, 0], &[1, first + count, row]).expect("fits");
        let mut cache = filled(index);
        let mut sequence = [Sequence { cache: &mut cache, count }];
        let alone = attention(&own, heads, (&rope, &rope.angles(&spans[index..=index])), &mut sequence).expect("fits");
        let width = heads.queries * heads.width;
        assert_eq!(to_f32_vec(&alone).expect("cpu"), together[first * width..(first + count) * width], "{index}");
        first += count;
    }
}

/// The elements of a cache of one head of keys, which lie before those of the values, as numbers; and how far each may be from
/// what was coded.
fn decoded(outcome: &Outcome, coding: Coding, elements: usize) -> Vec<(f64, f64)> {
    let Coding::Affine { bits, group } = coding else {
        return outcome.floats.iter().map(|float| (f64::from(*float), 1e-5)).collect();
    };
    let (scales, biases) = outcome.floats.split_at(elements / group);
    let each_word = 32 / bits.count();
    let one = |at: usize| {
        let word = outcome.integers[at / each_word];
        let integer = word >> (at % each_word * bits.count()) & ((1 << bits.count()) - 1);
        let (scale, bias) = (f64::from(scales[at / group]), f64::from(biases[at / group]));
        // Half a step, or a whole one at the end that is clipped where the scale was moved to make zero exact.
        (f64::from(integer) * scale + bias, scale.abs() * 1.01 + 1e-5)
    };
    (0..elements).map(one).collect()
}

/// `x` rotated to a position, in 64-bit floats.
fn rotated(x: &[f32], position: usize, base: f64) -> Vec<f64> {
    let half = x.len() / 2;
    let angle = |pair: usize| position as f64 * base.powf(-2.0 * pair as f64 / x.len() as f64);
    let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let first = (0..half).map(|i| x[i] * angle(i).cos() - x[i + half] * angle(i).sin());
    let second = (0..half).map(|i| x[i + half] * angle(i).cos() + x[i] * angle(i).sin());
    first.chain(second).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The slow way: every number a 64-bit float, every score by itself, over what the cache says it holds.
    #[test]
    fn attention_is_that_over_the_decoded_cache_and_the_cache_is_what_was_computed(
        values in proptest::collection::vec(-4.0_f32..4.0, 4 * 64 * 40),
        tokens in 1_usize..40,
        cut in 0_usize..40,
        window in proptest::option::of(1_usize..45),
        bits in proptest::option::of(prop_oneof![Just(Bits::Four), Just(Bits::Eight)]),
        width in prop_oneof![Just(32_usize), Just(64)],
    ) {
        let heads = Heads { queries: 2, keys: 1, width };
        let coding = bits.map_or(Coding::Plain, |bits| Coding::affine(bits, width).expect("it fits"));
        let rope = Rope::new(width, 500.0, RopeScaling::None, false);
        let all = from_f32(&values[..tokens * 4 * width], &[1, tokens, 4 * width]);
        let chunks: Vec<usize> = [cut.min(tokens), tokens.saturating_sub(cut)].into_iter().filter(|n| *n > 0).collect();
        let outcome = run((heads, Form { coding, window }), &rope, &all, &chunks, true);
        let cache = decoded(&outcome, coding, 2 * tokens * width);
        let head = |token: usize, head: usize| &values[(token * 4 + head) * width..][..width];
        for token in 0..tokens {
            let key = rotated(head(token, 2), token, 500.0);
            let value: Vec<f64> = head(token, 3).iter().copied().map(f64::from).collect();
            for (exact, first) in [(key, 0), (value, tokens * width)] {
                for (exact, (stored, off)) in exact.iter().zip(&cache[first + token * width..]) {
                    prop_assert!((exact - stored).abs() <= *off, "{exact} is stored as {stored}, {off} off at most");
                }
            }
            for query in 0..2 {
                let q = rotated(head(token, query), token, 500.0);
                let sees = window.map_or(0, |window| (token + 1).saturating_sub(window))..=token;
                let row = |at: usize| cache[at * width..][..width].iter().map(|(number, _)| *number);
                let score = |at: usize| q.iter().zip(row(at)).map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt();
                let scores: Vec<f64> = sees.clone().map(score).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for at in 0..width {
                    let column = sees.clone().map(|seen| cache[(tokens + seen) * width + at].0);
                    let expected = weights.iter().zip(column).map(|(weight, value)| weight * value).sum::<f64>() / total;
                    let found = f64::from(outcome.mixed[(token * 2 + query) * width + at]);
                    prop_assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible_when_it_is_coded() {
    let heads = Heads { queries: 1, keys: 1, width: 64 };
    let rope = Rope::new(64, 10_000.0, RopeScaling::None, false);
    for poison in [f32::NAN, f32::INFINITY] {
        let mut values = vec![0.5; 3 * 192];
        values[192 + 128 + 7] = poison;
        let all = from_f32(&values, &[1, 3, 192]);
        for bits in [Bits::Four, Bits::Eight] {
            let form = Form { coding: Coding::affine(bits, 64).expect("it fits"), window: None };
            let Outcome { mixed, .. } = run((heads, form), &rope, &all, &[2, 1], true);
            let finite: Vec<bool> = mixed.chunks(64).map(|token| token.iter().all(|x| x.is_finite())).collect();
            assert_eq!(finite, [true, false, false], "{poison} in {bits:?}");
        }
    }
}
