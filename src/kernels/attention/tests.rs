//! Our attention against MLX's operations.

use super::*;
use crate::kernels::RopeScaling;
use crate::mlx::{from_f32, to_f32_vec};

/// A cache that never grows.
struct Fixed {
    array: Option<Array>,
    tokens: usize,
}

impl Fixed {
    fn new(heads: Heads, capacity: usize) -> Self {
        let values = vec![0.0; 2 * heads.keys * capacity * heads.width];
        Self { array: Some(from_f32(&values, &[1, 2 * heads.keys, capacity, heads.width])), tokens: 0 }
    }
}

impl KeyValues for Fixed {
    fn take(&mut self, _: Heads, _: Dtype, _: usize) -> Result<(Array, usize)> {
        Ok((self.array.take().expect("it was put back"), self.tokens))
    }

    fn put(&mut self, array: Array, count: usize) {
        self.array = Some(array);
        self.tokens += count;
    }
}

fn projections(heads: Heads, tokens: usize, step: usize) -> Array {
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let values: Vec<f32> = (0..tokens * row).map(|i| ((i * step % 97) as f32 - 48.0) / 30.0).collect();
    from_f32(&values, &[1, tokens, row])
}

/// One sequence, its tokens in chunks; what attention gives and what the cache then holds.
fn run(heads: Heads, rope: &Rope, chunks: &[usize], tables: bool) -> [Vec<f32>; 2] {
    let total: usize = chunks.iter().sum();
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let all = projections(heads, total, 31);
    let mut cache = Fixed::new(heads, total);
    let mut mixed = Vec::new();
    let mut first = 0;
    for &count in chunks {
        let chunk = slice(&all, &[0, first, 0], &[1, first + count, row]).expect("fits");
        let angles = if tables { rope.angles(&[(first, count)]) } else { Angles { table: None } };
        let mut sequence = [Sequence { cache: &mut cache, count }];
        let out = attention(&chunk, heads, (rope, &angles), &mut sequence).expect("fits");
        mixed.extend(to_f32_vec(&out).expect("cpu"));
        first += count;
    }
    [mixed, to_f32_vec(&cache.array.expect("it was put back")).expect("cpu")]
}

fn near(a: &[Vec<f32>; 2], b: &[Vec<f32>; 2], of: &str) {
    for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
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
                let composed = run(heads, &rope, chunks, false);
                near(&run(heads, &rope, chunks, true), &composed, &format!("{heads:?} {chunks:?}"));
            }
        }
    }
}

#[test]
fn chunks_change_no_bit() {
    let heads = Heads { queries: 9, keys: 3, width: 64 };
    let rope = Rope::new(64, 10_000.0, RopeScaling::None, false);
    let whole = run(heads, &rope, &[130], true);
    for chunks in [vec![1; 130], vec![7; 18], vec![64, 1, 1, 64], vec![129, 1]] {
        let covered: usize = chunks.iter().sum();
        let chunks: Vec<usize> = chunks.into_iter().chain((covered < 130).then(|| 130 - covered)).collect();
        assert_eq!(run(heads, &rope, &chunks, true), whole, "{chunks:?}");
    }
}

#[test]
fn a_sequence_gets_the_same_bits_alone_and_among_others() {
    let heads = Heads { queries: 6, keys: 2, width: 16 };
    let rope = Rope::new(16, 10_000.0, RopeScaling::None, false);
    let lengths = [3, 1, 40, 1];
    let row = (heads.queries + 2 * heads.keys) * heads.width;
    let before = [0, 90, 7, 64];
    let all = projections(heads, lengths.iter().sum(), 53);
    let filled = |index: usize| {
        let mut cache = Fixed::new(heads, 160);
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
