//! The inner loops of the matrix product: a few rows of activations times one panel of weights.
//!
//! **One order of additions.** An output is `Σ_groups scale · (Σ integer · x) + bias · (Σ x)`, every sum from the first
//! input to the last by fused multiply-adds in one accumulator, whatever the number of rows and whatever the vectors'
//! width (outputs are lanes, so lanes never meet). The bits of an output therefore depend on its own row alone.
//!
//! Integers are taken out of their word by a mask only, without the shift: the integer at bit b then counts 2^b times too
//! much, and the activations that meet it come scaled by 2^−b ([`scaling`]), which is exact. The topmost is shifted,
//! because a masked one would be negative. An integer so costs one `and`, one conversion and one multiply-add for each
//! vector; with several rows the first two run in the shadow of the multiply-adds.

use crate::kernels::cpu::Isa;
use crate::kernels::cpu::packed::{Coding, PANEL, Real, group_bytes};
use crate::kernels::cpu::simd::{Portable, Simd};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::{Avx2, Avx512};

/// Most rows that one call takes.
pub(super) const ROWS_MAX: usize = 6;
/// How far ahead of the multiplication memory is asked for, in bytes.
const PREFETCH: usize = 2048;

/// A product of `rows` rows with a panel.
pub(super) struct Tile {
    /// The panel.
    pub(super) panel: *const u8,
    pub(super) coding: Coding,
    /// Length of a row.
    pub(super) inputs: usize,
    /// Scaled activations, `[rows, inputs]`.
    pub(super) x: *const f32,
    /// Sums of the unscaled activations of each group, `[rows, inputs / group]`; unused for dense weights.
    pub(super) sums: *const f32,
    /// 1, 2, 4 or [`ROWS_MAX`].
    pub(super) rows: usize,
    /// `[rows, PANEL]`.
    pub(super) out: *mut f32,
}

/// By what the activation at each place of eight is scaled for weights of this coding.
pub(super) fn scaling(coding: Coding) -> [f32; 8] {
    let bits = match coding {
        Coding::Dense(_) => return [1.0; 8],
        Coding::Affine { bits, .. } => bits,
    };
    let in_word = 32 / bits;
    std::array::from_fn(|place| match place % in_word {
        last if last == in_word - 1 => 1.0,
        place => 0.5_f32.powi((place * bits) as i32),
    })
}

/// The next number of rows to take of those that are left.
pub(super) fn rows_at_once(left: usize) -> usize {
    match left {
        8 => 4, // Twice four is quicker than six and two.
        6.. => ROWS_MAX,
        4 | 5 => 4,
        2 | 3 => 2,
        _ => 1,
    }
}

impl Tile {
    /// # Safety
    /// The pointers are valid for what their fields say, and nobody else uses `out`.
    pub(super) unsafe fn compute(&self, isa: Isa) {
        // SAFETY: the caller's, and the instruction set was detected.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512(self),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2(self),
                Isa::Portable => any_rows::<Portable>(self),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512(tile: &Tile) {
    unsafe { any_rows::<Avx512>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(tile: &Tile) {
    unsafe { any_rows::<Avx2>(tile) }
}

/// Few rows take the whole panel at once, many take half of it, so that the accumulators fit the registers: sixteen of
/// eight lanes, or thirty-two of sixteen.
#[inline(always)]
unsafe fn any_rows<S: Simd>(tile: &Tile) {
    unsafe {
        match (tile.rows, S::LANES) {
            (1, 16) => any_coding::<S, 1, 2, 2>(tile),
            (2, 16) => any_coding::<S, 2, 2, 1>(tile),
            (4, 16) => any_coding::<S, 4, 2, 1>(tile),
            (ROWS_MAX, 16) => any_coding::<S, ROWS_MAX, 2, 1>(tile),
            (1, _) => any_coding::<S, 1, 4, 2>(tile),
            (2, _) => any_coding::<S, 2, 4, 1>(tile),
            (4, _) => any_coding::<S, 4, 2, 1>(tile),
            (ROWS_MAX, _) => any_coding::<S, ROWS_MAX, 2, 1>(tile),
            (rows, _) => unreachable!("{rows} rows are not taken at once"),
        }
    }
}

#[inline(always)]
unsafe fn any_coding<S: Simd, const ROWS: usize, const VECTORS: usize, const AHEAD: usize>(tile: &Tile) {
    for first in (0..PANEL).step_by(VECTORS * S::LANES) {
        unsafe {
            match tile.coding {
                Coding::Affine { bits: 4, .. } => affine::<S, 4, 28, ROWS, VECTORS, AHEAD>(tile, first),
                Coding::Affine { .. } => affine::<S, 8, 24, ROWS, VECTORS, AHEAD>(tile, first),
                Coding::Dense(real) => dense::<S, ROWS, VECTORS>(tile, real, first),
            }
        }
    }
}

/// Accumulators of some rows and vectors.
type Block<S, const ROWS: usize, const VECTORS: usize> = [[<S as Simd>::F; VECTORS]; ROWS];

#[inline(always)]
unsafe fn zeros<S: Simd, const ROWS: usize, const VECTORS: usize>() -> Block<S, ROWS, VECTORS> {
    unsafe { [[S::splat(0.0); VECTORS]; ROWS] }
}

#[inline(always)]
unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    first: usize,
    total: &Block<S, ROWS, VECTORS>,
) {
    for (row, vectors) in total.iter().enumerate() {
        for (vector, value) in vectors.iter().enumerate() {
            unsafe { S::store(tile.out.add(row * PANEL + first + vector * S::LANES), *value) }
        }
    }
}

/// Lanes `first…` of a panel of quantised weights. `AHEAD` groups are under way at a time, so that one row has enough
/// independent sums to keep the multipliers busy; the groups' sums are added up in their order all the same.
#[inline(always)]
unsafe fn affine<
    S: Simd,
    const BITS: usize,
    const TOP: i32,
    const ROWS: usize,
    const VECTORS: usize,
    const AHEAD: usize,
>(
    tile: &Tile,
    first: usize,
) {
    let Coding::Affine { group, real, .. } = tile.coding else { unreachable!("the caller looked") };
    let groups = tile.inputs / group;
    let mut at = GroupAt { tile, first, group, real, bytes: group_bytes(BITS, group, real), index: 0 };
    unsafe {
        let mut total = zeros::<S, ROWS, VECTORS>();
        while at.index + AHEAD <= groups {
            at.add::<S, BITS, TOP, ROWS, VECTORS, AHEAD>(&mut total);
            at.index += AHEAD;
        }
        while at.index < groups {
            at.add::<S, BITS, TOP, ROWS, VECTORS, 1>(&mut total);
            at.index += 1;
        }
        store::<S, ROWS, VECTORS>(tile, first, &total);
    }
}

/// A group of a panel.
struct GroupAt<'a> {
    tile: &'a Tile,
    first: usize,
    group: usize,
    real: Real,
    bytes: usize,
    index: usize,
}

impl GroupAt<'_> {
    #[inline(always)]
    unsafe fn add<
        S: Simd,
        const BITS: usize,
        const TOP: i32,
        const ROWS: usize,
        const VECTORS: usize,
        const AHEAD: usize,
    >(
        &self,
        total: &mut Block<S, ROWS, VECTORS>,
    ) {
        let (tile, width) = (self.tile, self.real.width());
        let groups = tile.inputs / self.group;
        unsafe {
            let here = tile.panel.add(self.index * self.bytes);
            let words = here.add(2 * PANEL * width).cast::<u32>().add(self.first);
            let mut sums = [zeros::<S, ROWS, VECTORS>(); AHEAD];
            for word in 0..self.group * BITS / 32 {
                for (ahead, sums) in sums.iter_mut().enumerate() {
                    let from = words.byte_add(ahead * self.bytes).add(word * PANEL);
                    S::prefetch(from.cast::<u8>().add(PREFETCH));
                    if VECTORS * S::LANES == PANEL {
                        S::prefetch(from.cast::<u8>().add(PREFETCH + 64));
                    }
                    let x = tile.x.add((self.index + ahead) * self.group + word * (32 / BITS));
                    one_word::<S, BITS, TOP, ROWS, VECTORS>(from, x, tile.inputs, sums);
                }
            }
            for (ahead, sums) in sums.iter().enumerate() {
                let scales = here.add(ahead * self.bytes).add(self.first * width);
                for vector in 0..VECTORS {
                    let scales = scales.add(vector * S::LANES * width);
                    let scale = load_real::<S>(scales, self.real);
                    let bias = load_real::<S>(scales.add(PANEL * width), self.real);
                    for (row, (sums, total)) in sums.iter().zip(&mut *total).enumerate() {
                        let sum = S::splat(*tile.sums.add(row * groups + self.index + ahead));
                        let scaled = S::fma(scale, sums[vector], total[vector]);
                        total[vector] = S::fma(bias, sum, scaled);
                    }
                }
            }
        }
    }
}

/// The integers of one word of each output.
#[inline(always)]
unsafe fn one_word<S: Simd, const BITS: usize, const TOP: i32, const ROWS: usize, const VECTORS: usize>(
    from: *const u32,
    x: *const f32,
    inputs: usize,
    sums: &mut Block<S, ROWS, VECTORS>,
) {
    // A macro, because the masks must be constants, and a loop of this size is not always unrolled.
    macro_rules! places {
        ($words:ident: $($place:literal)*) => { $(
            if $place < 32 / BITS {
                let mut weights = [S::splat(0.0); VECTORS];
                for vector in 0..VECTORS {
                    weights[vector] = if $place == 32 / BITS - 1 {
                        S::shifted::<TOP>($words[vector])
                    } else {
                        S::masked($words[vector], ((1_u32 << BITS) - 1).wrapping_shl($place * BITS as u32))
                    };
                }
                for row in 0..ROWS {
                    let x = S::splat(*x.add(row * inputs + $place));
                    for vector in 0..VECTORS {
                        sums[row][vector] = S::fma(x, weights[vector], sums[row][vector]);
                    }
                }
            }
        )* };
    }
    unsafe {
        let mut words = [S::load_words(from); VECTORS];
        for (vector, word) in words.iter_mut().enumerate().skip(1) {
            *word = S::load_words(from.add(vector * S::LANES));
        }
        places!(words: 0 1 2 3 4 5 6 7);
    }
}

/// Lanes `first…` of a panel of floats.
#[inline(always)]
unsafe fn dense<S: Simd, const ROWS: usize, const VECTORS: usize>(tile: &Tile, real: Real, first: usize) {
    let width = real.width();
    unsafe {
        let mut total = zeros::<S, ROWS, VECTORS>();
        for input in 0..tile.inputs {
            let from = tile.panel.add((input * PANEL + first) * width);
            let mut weights = [S::splat(0.0); VECTORS];
            for (vector, weight) in weights.iter_mut().enumerate() {
                *weight = load_real::<S>(from.add(vector * S::LANES * width), real);
            }
            S::prefetch(from.add(PREFETCH));
            for (row, total) in total.iter_mut().enumerate() {
                let x = S::splat(*tile.x.add(row * tile.inputs + input));
                for (total, weight) in total.iter_mut().zip(weights) {
                    *total = S::fma(x, weight, *total);
                }
            }
        }
        store::<S, ROWS, VECTORS>(tile, first, &total);
    }
}

#[inline(always)]
unsafe fn load_real<S: Simd>(from: *const u8, real: Real) -> S::F {
    unsafe {
        match real {
            Real::F32 => S::load(from.cast()),
            Real::F16 => S::load_f16(from.cast()),
            Real::Bf16 => S::load_bf16(from.cast()),
        }
    }
}
