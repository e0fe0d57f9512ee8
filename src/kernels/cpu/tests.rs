//! The product against plain arithmetic in 64 bits, and the bits of its rows whatever surrounds them.

use proptest::prelude::*;

use crate::kernels::cpu::packed::{Packed, Real, Rows};
use crate::kernels::cpu::project::{After, Operands, project};
use crate::kernels::cpu::{Isa, with_isa};
use crate::mlx::{Array, from_f32, from_tokens, to_f32_vec};

/// A matrix as a file has it.
#[derive(Debug, Clone)]
struct Matrix {
    outputs: usize,
    inputs: usize,
    bits: Option<usize>,
    group: usize,
    real: Real,
    integers: Vec<u8>,
    first: Vec<u8>,
    second: Vec<u8>,
}

/// Numbers between −1 and 1 that depend on the seed only.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(real: Real, numbers: &[f32]) -> Vec<u8> {
    let one = |number: &f32| match real {
        Real::F32 => number.to_le_bytes().to_vec(),
        Real::F16 => half::f16::from_f32(*number).to_le_bytes().to_vec(),
        Real::Bf16 => half::bf16::from_f32(*number).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(one).collect()
}

fn floats(real: Real, bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(real.width())
        .map(|b| match real {
            Real::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Real::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Real::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        })
        .collect()
}

impl Matrix {
    fn dense(outputs: usize, inputs: usize, real: Real, seed: u64) -> Self {
        let first = bytes(real, &numbers(seed, outputs * inputs));
        Self { outputs, inputs, bits: None, group: 0, real, integers: vec![], first, second: vec![] }
    }

    fn affine(outputs: usize, inputs: usize, (bits, group, real): (usize, usize, Real), seed: u64) -> Self {
        let packed = numbers(seed, outputs * inputs * bits / 8).iter().map(|x| (x * 1e6) as i32 as u8).collect();
        let coefficients = |seed| bytes(real, &numbers(seed, outputs * inputs / group));
        let (first, second) = (coefficients(seed + 1), coefficients(seed + 2));
        Self { outputs, inputs, bits: Some(bits), group, real, integers: packed, first, second }
    }

    fn pack(&self) -> Packed {
        let rows = match self.bits {
            None => Rows::Dense { real: self.real, bytes: &self.first },
            Some(bits) => Rows::Affine {
                bits,
                group: self.group,
                packed: &self.integers,
                scales: &self.first,
                biases: &self.second,
                real: self.real,
            },
        };
        Packed::new(self.outputs, self.inputs, &rows).expect("memory")
    }

    /// Every weight, `[outputs, inputs]`.
    fn weights(&self) -> Vec<f64> {
        let first = floats(self.real, &self.first);
        let Some(bits) = self.bits else { return first.into_iter().map(f64::from).collect() };
        let second = floats(self.real, &self.second);
        let integer = |index: usize| {
            let bit = |at: usize| u32::from(self.integers[at / 8] >> (at % 8) & 1);
            (0..bits).map(|place| bit(index * bits + place) << place).sum::<u32>()
        };
        (0..self.outputs * self.inputs)
            .map(|at| f64::from(integer(at)) * f64::from(first[at / self.group]) + f64::from(second[at / self.group]))
            .collect()
    }
}

fn run(x: &[f32], matrices: &[&Packed], after: After) -> Vec<f32> {
    let inputs = matrices[0].inputs();
    let x = from_f32(x, &[1, x.len() / inputs, inputs]);
    let operands = Operands { matrices: matrices.to_vec(), norm: None, bias: None, residual: None, after };
    to_f32_vec(&project(&x, &operands).expect("fits")).expect("cpu")
}

fn check(matrix: &Matrix, rows: usize) {
    let x = numbers(7, rows * matrix.inputs);
    let (packed, weights) = (matrix.pack(), matrix.weights());
    let found = run(&x, &[&packed], After::Plain);
    for (row, found) in found.chunks_exact(matrix.outputs).enumerate() {
        let x = &x[row * matrix.inputs..][..matrix.inputs];
        for (output, found) in found.iter().enumerate() {
            let weights = &weights[output * matrix.inputs..][..matrix.inputs];
            let products = || weights.iter().zip(x).map(|(w, x)| w * f64::from(*x));
            let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            // Half a unit in the last place for each of the additions would be 2^-24 · inputs · size; sums of integers
            // that are not centred are some times larger than what is left of them.
            let allowed = 1e-5 * (size + 256.0);
            assert!((f64::from(*found) - expected).abs() < allowed, "{matrix:?} row {row} output {output}");
        }
    }
}

fn codings() -> impl Strategy<Value = (Option<usize>, usize, Real)> {
    let bits = prop_oneof![Just(None), prop::sample::select(vec![2_usize, 3, 4, 5, 6, 8]).prop_map(Some)];
    let real = prop_oneof![Just(Real::F32), Just(Real::F16), Just(Real::Bf16)];
    (bits, prop::sample::select(vec![32_usize, 64, 128]), real)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_product_is_that_of_plain_arithmetic(
        (bits, group, real) in codings(),
        outputs in 1_usize..80,
        groups in 1_usize..4,
        rows in 1_usize..9,
        seed in any::<u64>(),
    ) {
        let inputs = group * groups;
        let seed = seed >> 1;
        let matrix = match bits {
            None => Matrix::dense(outputs, inputs - seed as usize % 5, real, seed),
            Some(bits) => Matrix::affine(outputs, inputs, (bits, group, real), seed),
        };
        for isa in Isa::available() {
            with_isa(isa, || check(&matrix, rows));
        }
    }
}

/// Every coding that is stored, with shapes that fill no panel.
fn matrices() -> Vec<Matrix> {
    let mut matrices: Vec<Matrix> =
        [Real::F32, Real::F16, Real::Bf16].into_iter().map(|real| Matrix::dense(75, 100, real, 3)).collect();
    for (bits, group) in [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)] {
        for real in [Real::F32, Real::F16, Real::Bf16] {
            matrices.push(Matrix::affine(75, 384, (bits, group, real), 5));
        }
    }
    matrices
}

#[test]
fn a_row_has_the_same_bits_however_many_rows_there_are_and_on_every_instruction_set() {
    for matrix in matrices() {
        let packed = matrix.pack();
        let x = numbers(11, 64 * matrix.inputs);
        let whole = run(&x, &[&packed], After::Plain);
        for isa in Isa::available() {
            for rows in [1, 2, 3, 5, 7, 8, 64] {
                let mut found = Vec::new();
                for x in x.chunks(rows * matrix.inputs) {
                    found.extend(with_isa(isa, || run(x, &[&packed], After::Plain)));
                }
                assert_eq!(found, whole, "{isa:?}, {rows} rows at a time: {matrix:?}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_with_one_thread_and_with_many() {
    let matrix = Matrix::affine(320, 256, (4, 32, Real::F16), 5);
    let packed = matrix.pack();
    let x = numbers(13, 40 * 256);
    let many = run(&x, &[&packed], After::Plain);
    let alone = crate::kernels::cpu::pool::alone(|| run(&x, &[&packed], After::Plain));
    assert_eq!(alone, many);
}

#[test]
fn norm_bias_residual_and_gate_are_those_of_separate_operations() {
    for (outputs, inputs) in [(96, 64), (75, 128)] {
        let (gate, up) = (
            Matrix::affine(outputs, inputs, (4, 32, Real::F16), 1),
            Matrix::affine(outputs, inputs, (8, 64, Real::F32), 9),
        );
        let (gate, up) = (gate.pack(), up.pack());
        for rows in [1, 3, 13] {
            let x = from_f32(&numbers(3, rows * inputs), &[1, rows, inputs]);
            let weight = from_f32(&numbers(4, inputs), &[inputs]);
            let bias = from_f32(&numbers(5, 2 * outputs), &[2 * outputs]);
            let residual = from_f32(&numbers(6, rows * 2 * outputs), &[1, rows, 2 * outputs]);
            let parts =
                |norm, bias, residual, after| Operands { matrices: vec![&gate, &up], norm, bias, residual, after };
            let values = |array: Array| to_f32_vec(&array).expect("cpu");

            let normed = mlx_rs::fast::rms_norm(&x, Some(&weight), 1e-5).expect("fits");
            let plain = project(&normed, &parts(None, None, None, After::Plain)).expect("fits");
            let biased = plain.add(&bias).expect("fits");
            let added = biased.add(&residual).expect("fits");
            let halves = biased.split_equal(2, -1).expect("fits");
            let gated = mlx_rs::ops::sigmoid(&halves[0]).expect("fits").multiply(&halves[0]).expect("fits");
            let gated = gated.multiply(&halves[1]).expect("fits");

            let norm = Some((&weight, 1e-5));
            let found = values(project(&x, &parts(norm, Some(&bias), Some(&residual), After::Add)).expect("fits"));
            close(&found, &values(added));
            let found = values(project(&x, &parts(norm, Some(&bias), None, After::SwiGlu)).expect("fits"));
            close(&found, &values(gated));
        }
    }
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(1.0_f32, |size, value| size.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-5 * size, "{found} and {expected}, of {size}");
    }
}

#[test]
fn activations_may_lie_anywhere_in_memory() {
    let matrix = Matrix::affine(40, 64, (4, 32, Real::F16), 2);
    let packed = matrix.pack();
    let x = numbers(17, 6 * 64);
    let expected = run(&x, &[&packed], After::Plain);
    let transposed: Vec<f32> = (0..64 * 6).map(|at| x[at % 6 * 64 + at / 6]).collect();
    let strided = from_f32(&transposed, &[64, 6]).t();
    let operands = Operands { matrices: vec![&packed], norm: None, bias: None, residual: None, after: After::Plain };
    let found = project(&strided, &operands).expect("fits");
    assert_eq!(to_f32_vec(&found).expect("cpu"), expected);
    let padded = from_f32(&[vec![9.0; 64], x].concat(), &[7, 64]);
    let offset = crate::mlx::slice(&padded, &[1, 0], &[7, 64]).expect("fits");
    assert_eq!(to_f32_vec(&project(&offset, &operands).expect("fits")).expect("cpu"), expected);
}

#[test]
fn a_token_beyond_the_vocabulary_is_an_error_and_not_an_end() {
    let packed = Matrix::affine(40, 64, (4, 32, Real::F16), 2).pack();
    let rows = crate::kernels::cpu::lookup(&from_tokens(&[39, 40]), &packed).expect("lazy");
    assert!(to_f32_vec(&rows).is_err());
    assert!(to_f32_vec(&crate::kernels::cpu::lookup(&from_tokens(&[39]), &packed).expect("lazy")).is_ok());
}
