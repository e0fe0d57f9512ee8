//! New keys and values on their way into the cache: the keys rotated, both coded, written in place.
//!
//! Each array of a [`Coding`] is an operation of its own, because MLX updates in place what is the only output of one. They
//! all compute the same from the same, which for a token is little: nobody has to agree with anybody.

use std::sync::Arc;

use crate::kernels::cpu::attend::{Span, Table, row_width};
use crate::kernels::cpu::pool::pool;
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::{Shared, with_scratch};
use crate::kernels::{Bits, Coding, Heads};
use crate::mlx::{Array, Result};

/// Tokens that one part of an [`append`] takes.
const TOKENS: usize = 32;
/// Smallest scale of a group, as MLX has it.
const SCALE_MIN: f32 = 1e-7;

/// What one array of a coding is.
#[derive(Debug, Clone, Copy)]
enum Part {
    Floats,
    Integers { bits: Bits, group: usize },
    Scales { bits: Bits, group: usize },
    Biases { bits: Bits, group: usize },
}

/// Inputs: the array, the projections `[1, T, row]`.
struct Append {
    heads: Heads,
    span: Span,
    table: Arc<Table>,
    part: Part,
}

/// The arrays of a cache with the keys and values of a span; in place where nobody else holds them.
pub(in crate::kernels) fn append(
    arrays: &[Array],
    coding: Coding,
    projections: &Array,
    heads: Heads,
    (span, table): (Span, &Arc<Table>),
) -> Result<Vec<Array>> {
    let parts = match coding {
        Coding::Plain => vec![Part::Floats],
        Coding::Affine { bits, group } => {
            vec![Part::Integers { bits, group }, Part::Scales { bits, group }, Part::Biases { bits, group }]
        }
    };
    assert_eq!(arrays.len(), parts.len(), "a cache has the arrays of its coding");
    let one = |(array, part): (&Array, Part)| {
        let shape: Vec<usize> = array.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
        let (width, made) = part.of(heads.width);
        assert!(shape.len() == 4 && shape[1] == 2 * heads.keys && shape[3] == width, "the cache is of these heads");
        assert!(span.first_kept <= span.offset && span.end() - span.first_kept <= shape[2], "the span has room");
        let kernel = Append { heads, span, table: Arc::clone(table), part };
        apply(kernel, &[array, projections], made, Some(0), &shape)
    };
    arrays.iter().zip(parts).map(one).collect()
}

impl Part {
    /// Elements of a head, and their type.
    fn of(self, width: usize) -> (usize, Made) {
        match self {
            Self::Floats => (width, Made::Floats),
            Self::Integers { bits, .. } => (width * bits.count() / 32, Made::Words),
            Self::Scales { group, .. } | Self::Biases { group, .. } => (width / group, Made::Floats),
        }
    }

    /// Writes what this part stores of a head `x` to its place, the `place`-th of the array.
    fn write(self, x: &[f32], array: &Shared<f32>, place: usize) {
        let (width, _) = self.of(x.len());
        // SAFETY: a token's own place in the array, whose shape `append` has checked; both types have four bytes.
        let out = unsafe { array.slice(place * width, width) };
        match self {
            Self::Floats => out.copy_from_slice(x),
            Self::Scales { bits, group } => {
                out.iter_mut().zip(x.chunks_exact(group)).for_each(|(out, x)| *out = affine(x, bits).0);
            }
            Self::Biases { bits, group } => {
                out.iter_mut().zip(x.chunks_exact(group)).for_each(|(out, x)| *out = affine(x, bits).1);
            }
            Self::Integers { bits, group } => {
                let bytes = Shared(array.0.cast::<u8>());
                // SAFETY: the same place as bytes.
                let out = unsafe { bytes.slice(place * width * 4, width * 4) };
                for (out, x) in out.chunks_exact_mut(group * bits.count() / 8).zip(x.chunks_exact(group)) {
                    integers(x, bits, out);
                }
            }
        }
    }
}

/// The scale and the bias of a group, as MLX's `quantize` finds them: the end that is further from zero is exact, and zero
/// is. A group with an element that is not finite has no numbers.
fn affine(x: &[f32], bits: Bits) -> (f32, f32) {
    if !x.iter().all(|x| x.is_finite()) {
        return (f32::NAN, f32::NAN);
    }
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = ((high - low) / largest(bits)).max(SCALE_MIN);
    let (edge, scale) = if low.abs() > high.abs() { (low, scale) } else { (high, -scale) };
    let steps = (edge / scale).round_ties_even();
    if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) }
}

/// The integers of a group.
fn integers(x: &[f32], bits: Bits, out: &mut [u8]) {
    let (scale, bias) = affine(x, bits);
    let one = |x: f32| ((x - bias) / scale).round_ties_even().clamp(0.0, largest(bits)) as u8;
    match bits {
        Bits::Eight => out.iter_mut().zip(x).for_each(|(out, x)| *out = one(*x)),
        Bits::Four => {
            out.iter_mut().zip(x.chunks_exact(2)).for_each(|(out, x)| *out = one(x[0]) | one(x[1]) << 4);
        }
    }
}

/// The largest integer.
fn largest(bits: Bits) -> f32 {
    ((1_u32 << bits.count()) - 1) as f32
}

impl Kernel for Append {
    fn run(&self, inputs: &[View], output: &View) {
        let Self { heads: Heads { queries, keys, width }, span, table, part } = self;
        let projections = inputs[1].elements::<f32>();
        let (array, capacity) = (Shared(output.pointer::<f32>()), output.shape()[2].unsigned_abs() as usize);
        let one = |token: usize| {
            let row = &projections[(span.first + token) * row_width(self.heads)..][queries * width..];
            with_scratch(*width, |rotated| {
                for (head, x) in row.chunks_exact(*width).take(2 * keys).enumerate() {
                    let x = if head < *keys {
                        table.rotate(x, span.first + token, 1.0, rotated);
                        &*rotated
                    } else {
                        x
                    };
                    part.write(x, &array, head * capacity + span.offset - span.first_kept + token);
                }
            });
        };
        let part = |part: usize| (part * TOKENS..((part + 1) * TOKENS).min(span.count)).for_each(one);
        pool().run(span.count.div_ceil(TOKENS), &part);
    }
}
