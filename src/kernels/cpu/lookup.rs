//! Rows of a packed matrix as floats: the embeddings of tokens, in models whose head is the same matrix.

use half::{bf16, f16};

use crate::kernels::cpu::Shared;
use crate::kernels::cpu::packed::{Coding, Layout, PANEL, Packed, Real, group_bytes};
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::mlx::{Array, Result};

/// Inputs: tokens `[…]` of 32 bits, the matrix.
struct Lookup {
    layout: Layout,
}

/// Rows `tokens` of `matrix`: `[…]` → `[…, inputs]`.
pub(in crate::kernels) fn lookup(tokens: &Array, matrix: &Packed) -> Result<Array> {
    let mut shape: Vec<usize> = tokens.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
    shape.push(matrix.layout.inputs);
    apply(Lookup { layout: matrix.layout }, &[tokens, &matrix.data], Made::Floats, None, &shape)
}

impl Kernel for Lookup {
    fn run(&self, inputs: &[View], output: &View) {
        let width = self.layout.inputs;
        // SAFETY: the second input is the data of the packed matrix.
        let base = unsafe { Layout::base(inputs[1].pointer()) };
        let out = Shared(output.pointer::<f32>());
        for (row, token) in inputs[0].elements::<u32>().iter().enumerate() {
            let token = *token as usize;
            assert!(token < self.layout.outputs, "token {token} is below the vocabulary's {}", self.layout.outputs);
            let bytes = self.layout.panel_bytes();
            // SAFETY: the token's panel, and the row's own place in the output.
            let (panel, out) = unsafe {
                (std::slice::from_raw_parts(base.add(token / PANEL * bytes), bytes), out.slice(row * width, width))
            };
            self.row(panel, token % PANEL, out);
        }
    }
}

impl Lookup {
    fn row(&self, panel: &[u8], lane: usize, out: &mut [f32]) {
        match self.layout.coding {
            Coding::Dense(real) => {
                for (input, out) in out.iter_mut().enumerate() {
                    *out = read(real, panel, input * PANEL + lane);
                }
            }
            Coding::Affine { bits, group, real } => {
                let chunks = panel.chunks_exact(group_bytes(bits, group, real));
                for (out, bytes) in out.chunks_exact_mut(group).zip(chunks) {
                    let (scale, bias) = (read(real, bytes, lane), read(real, bytes, PANEL + lane));
                    let words = &bytes[2 * PANEL * real.width()..];
                    let in_word = 32 / bits;
                    for (word, out) in out.chunks_exact_mut(in_word).enumerate() {
                        let at = (word * PANEL + lane) * 4;
                        let word = u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
                        for (place, out) in out.iter_mut().enumerate() {
                            let integer = word >> (place * bits) & ((1 << bits) - 1);
                            *out = integer as f32 * scale + bias;
                        }
                    }
                }
            }
        }
    }
}

fn read(real: Real, bytes: &[u8], index: usize) -> f32 {
    let at = index * real.width();
    match real {
        Real::F32 => f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
        Real::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        Real::Bf16 => bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
    }
}
