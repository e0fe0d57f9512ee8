//! The product of activations with one or several packed matrices, with what comes before and after it in a block of a
//! model: the norm of its input, a bias, the residual that it is added to, the gate of the feed-forward block. One
//! operation of the graph in place of four or five, and the activations stay in the cache between them.

use crate::kernels::cpu::packed::{Coding, Layout, PANEL, Packed};
use crate::kernels::cpu::pool::pool;
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::product::{ROWS_MAX, Tile, rows_at_once, scaling};
use crate::kernels::cpu::rows::{gated, group_sums, rms_norm, scale};
use crate::kernels::cpu::simd::{Eight, Portable};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::Avx2;
use crate::kernels::cpu::{Isa, Shared, isa, with_scratch};
use crate::mlx::{Array, MlxError, Result};

/// Rows of activations that stay near while all panels pass.
const ROWS_NEAR: usize = 96;
/// Rows below which one thread prepares them all.
const ROWS_SHARED_MIN: usize = 12;
/// Parts for each thread: the smaller a part, the less the last one keeps everybody waiting.
const PARTS_EACH: usize = 8;

/// What happens to the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum After {
    /// Nothing.
    Plain,
    /// They are added to the last input.
    Add,
    /// The first matrix' are the gate, the second's what passes it.
    SwiGlu,
}

/// Inputs: the activations, the matrices, then the norm's weight, the bias and the residual where there are.
struct Project {
    layouts: Vec<Layout>,
    /// The norm's `eps`.
    norm: Option<f32>,
    biased: bool,
    after: After,
    isa: Isa,
}

/// The activations as the weights of one coding want them.
struct Prepared<'a> {
    coding: Coding,
    /// `[M, inputs]`.
    x: &'a mut [f32],
    /// `[M, groups]`.
    sums: &'a mut [f32],
}

/// One call's operands.
struct Call<'a> {
    rows: usize,
    bases: Vec<Shared<u8>>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    out: Shared<f32>,
}

/// A buffer for the products of a tile with up to two panels.
#[repr(align(64))]
struct Products([f32; 2 * ROWS_MAX * PANEL]);

/// What is multiplied by what; see [`Project`].
pub(in crate::kernels) struct Operands<'a> {
    pub(in crate::kernels) matrices: Vec<&'a Packed>,
    /// The weight and `eps` of the norm that comes before.
    pub(in crate::kernels) norm: Option<(&'a Array, f32)>,
    pub(in crate::kernels) bias: Option<&'a Array>,
    pub(in crate::kernels) residual: Option<&'a Array>,
    pub(in crate::kernels) after: After,
}

/// `[…, inputs]` → `[…, outputs]`.
pub(in crate::kernels) fn project(x: &Array, operands: &Operands<'_>) -> Result<Array> {
    let kernel = Project {
        layouts: operands.matrices.iter().map(|matrix| matrix.layout).collect(),
        norm: operands.norm.map(|(_, eps)| eps),
        biased: operands.bias.is_some(),
        after: operands.after,
        isa: isa(),
    };
    let mut shape: Vec<usize> = x.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
    let width = shape.pop().unwrap_or_default();
    if kernel.layouts.iter().any(|layout| layout.inputs != width) {
        return Err(MlxError::refused(format!("a projection of {} inputs with {width}", kernel.layouts[0].inputs)));
    }
    shape.push(kernel.outputs());
    let mut inputs = vec![x];
    inputs.extend(operands.matrices.iter().map(|matrix| &matrix.data));
    inputs.extend(operands.norm.map(|(weight, _)| weight));
    inputs.extend(operands.bias);
    inputs.extend(operands.residual);
    apply(kernel, &inputs, Made::Floats, None, &shape)
}

impl Kernel for Project {
    fn run(&self, inputs: &[View], output: &View) {
        let width = self.layouts[0].inputs;
        let x = inputs[0].elements::<f32>();
        let rows = x.len() / width;
        let mut rest = inputs[1 + self.layouts.len()..].iter();
        let mut next = |wanted: bool| wanted.then(|| rest.next().expect("an input for each part").elements::<f32>());
        let (norm, bias, residual) = (next(self.norm.is_some()), next(self.biased), next(self.after == After::Add));
        // SAFETY: these inputs are the data of packed matrices.
        let base = |view: &View| Shared(unsafe { Layout::base(view.pointer()) });
        let call = Call {
            rows,
            bases: inputs[1..=self.layouts.len()].iter().map(base).collect(),
            bias: bias.as_deref(),
            residual: residual.as_deref(),
            out: Shared(output.pointer()),
        };
        let codings = self.codings();
        let room = codings.iter().map(|coding| rows * (width + groups(*coding, width))).sum();
        with_scratch(room, |mut scratch| {
            let prepared = codings.iter().map(|&coding| {
                let (x, others) = std::mem::take(&mut scratch).split_at_mut(rows * width);
                let (sums, others) = others.split_at_mut(rows * groups(coding, width));
                scratch = others;
                Prepared { coding, x, sums }
            });
            let prepared: Vec<Prepared<'_>> = prepared.collect();
            self.prepare(&x, norm.as_deref(), rows, &prepared);
            self.multiply(&call, &prepared);
        });
    }
}

/// Groups of a row.
fn groups(coding: Coding, width: usize) -> usize {
    match coding {
        Coding::Dense(_) => 0,
        Coding::Affine { group, .. } => width / group,
    }
}

/// Whether two codings want the activations alike.
fn alike(a: Coding, b: Coding) -> bool {
    match (a, b) {
        (Coding::Dense(_), Coding::Dense(_)) => true,
        (Coding::Affine { bits, group, .. }, Coding::Affine { bits: bits_, group: group_, .. }) => {
            (bits, group) == (bits_, group_)
        }
        (Coding::Dense(_), Coding::Affine { .. }) | (Coding::Affine { .. }, Coding::Dense(_)) => false,
    }
}

impl Project {
    /// Outputs of a row.
    fn outputs(&self) -> usize {
        match self.after {
            After::SwiGlu => self.layouts[0].outputs,
            After::Plain | After::Add => self.layouts.iter().map(|layout| layout.outputs).sum(),
        }
    }

    /// One of each kind that wants the activations its own way.
    fn codings(&self) -> Vec<Coding> {
        let mut codings: Vec<Coding> = Vec::new();
        for layout in &self.layouts {
            if !codings.iter().any(|coding| alike(*coding, layout.coding)) {
                codings.push(layout.coding);
            }
        }
        codings
    }

    fn prepare(&self, x: &[f32], norm: Option<&[f32]>, rows: usize, prepared: &[Prepared<'_>]) {
        let width = self.layouts[0].inputs;
        let places: Vec<(Shared<f32>, Shared<f32>)> = prepared
            .iter()
            .map(|prepared| (Shared(prepared.x.as_ptr().cast_mut()), Shared(prepared.sums.as_ptr().cast_mut())))
            .collect();
        let one = |row: usize| {
            let x = &x[row * width..][..width];
            for (prepared, (scaled_out, sums_out)) in prepared.iter().zip(&places) {
                let groups = groups(prepared.coding, width);
                // SAFETY: the row's own part of each buffer.
                let (scaled, sums) =
                    unsafe { (scaled_out.slice(row * width, width), sums_out.slice(row * groups, groups)) };
                let row = Row { x, norm: norm.zip(self.norm), coding: prepared.coding };
                // SAFETY: the instruction set was detected.
                unsafe { row.prepare(self.isa, scaled, sums) }
            }
        };
        if rows < ROWS_SHARED_MIN {
            (0..rows).for_each(one);
        } else {
            let each = rows.div_ceil(pool().threads() * PARTS_EACH);
            pool().run(rows.div_ceil(each), &|part| (part * each..((part + 1) * each).min(rows)).for_each(one));
        }
    }

    fn multiply(&self, call: &Call<'_>, prepared: &[Prepared<'_>]) {
        let units: usize = match self.after {
            After::SwiGlu => self.layouts[0].panels(),
            After::Plain | After::Add => self.layouts.iter().map(Layout::panels).sum(),
        };
        let blocks = call.rows.div_ceil(ROWS_NEAR);
        let each = (units / (pool().threads() * PARTS_EACH)).max(1);
        let chunks = units.div_ceil(each);
        let which: Vec<&Prepared<'_>> = self
            .layouts
            .iter()
            .map(|layout| prepared.iter().find(|prepared| alike(prepared.coding, layout.coding)).expect("one for each"))
            .collect();
        pool().run(blocks * chunks, &|part| {
            let (block, chunk) = (part / chunks, part % chunks);
            let rows = block * ROWS_NEAR..((block + 1) * ROWS_NEAR).min(call.rows);
            for unit in chunk * each..((chunk + 1) * each).min(units) {
                let (matrix, panel) = self.panel(unit);
                let mut row = rows.start;
                while row < rows.end {
                    let count = rows_at_once(rows.end - row);
                    self.tile(call, &which, Spot { matrix, panel, row, rows: count });
                    row += count;
                }
            }
        });
    }

    /// The matrix and the panel in it of a unit of work; of the gate, for a gated product.
    fn panel(&self, unit: usize) -> (usize, usize) {
        let mut panel = unit;
        for (matrix, layout) in self.layouts.iter().enumerate() {
            if panel < layout.panels() {
                return (matrix, panel);
            }
            panel -= layout.panels();
        }
        unreachable!("units are panels")
    }

    fn tile(&self, call: &Call<'_>, prepared: &[&Prepared<'_>], spot: Spot) {
        let mut products = Products([0.0; 2 * ROWS_MAX * PANEL]);
        let (first, second) = products.0.split_at_mut(ROWS_MAX * PANEL);
        let compute = |matrix: usize, out: &mut [f32]| {
            let layout = &self.layouts[matrix];
            let groups = groups(layout.coding, layout.inputs);
            let tile = Tile {
                // SAFETY: the panel is one of the matrix.
                panel: unsafe { call.bases[matrix].0.add(spot.panel * layout.panel_bytes()) },
                coding: layout.coding,
                inputs: layout.inputs,
                x: prepared[matrix].x[spot.row * layout.inputs..].as_ptr(),
                sums: prepared[matrix].sums[spot.row * groups..].as_ptr(),
                rows: spot.rows,
                out: out.as_mut_ptr(),
            };
            // SAFETY: the slices above hold `rows` rows, the buffer `ROWS_MAX`.
            unsafe { tile.compute(self.isa) }
            if let Some(bias) = call.bias {
                let bias = &bias[self.column(matrix, spot.panel)..][..self.width(matrix, spot.panel)];
                for row in out.chunks_exact_mut(PANEL).take(spot.rows) {
                    row.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
                }
            }
        };
        compute(spot.matrix, first);
        if self.after == After::SwiGlu {
            compute(1, second);
            let (gate, up) = (&mut first[..spot.rows * PANEL], &second[..spot.rows * PANEL]);
            // SAFETY: the instruction set was detected.
            unsafe { gate_rows(self.isa, gate, up) }
        }
        self.finish(call, spot, first);
    }

    /// Adds the residual and writes the rows to their place.
    fn finish(&self, call: &Call<'_>, spot: Spot, products: &mut [f32]) {
        let (column, count) = (self.column(spot.matrix, spot.panel), self.width(spot.matrix, spot.panel));
        let outputs = self.outputs();
        for (row, products) in (spot.row..spot.row + spot.rows).zip(products.chunks_exact_mut(PANEL)) {
            let (products, at) = (&mut products[..count], row * outputs + column);
            if let Some(residual) = call.residual {
                products.iter_mut().zip(&residual[at..]).for_each(|(product, residual)| *product += residual);
            }
            // SAFETY: this part's own place in the output.
            unsafe { call.out.slice(at, count) }.copy_from_slice(products);
        }
    }

    /// The first output of a panel, all matrices' outputs counted one after the other.
    fn column(&self, matrix: usize, panel: usize) -> usize {
        self.layouts[..matrix].iter().map(|layout| layout.outputs).sum::<usize>() + panel * PANEL
    }

    /// Outputs of a panel: fewer than `PANEL` in the last.
    fn width(&self, matrix: usize, panel: usize) -> usize {
        PANEL.min(self.layouts[matrix].outputs - panel * PANEL)
    }
}

/// Which rows meet which panel.
#[derive(Clone, Copy)]
struct Spot {
    matrix: usize,
    panel: usize,
    row: usize,
    rows: usize,
}

/// A row of activations that is to be prepared.
struct Row<'a> {
    x: &'a [f32],
    /// The norm's weight and `eps`.
    norm: Option<(&'a [f32], f32)>,
    coding: Coding,
}

impl Row<'_> {
    unsafe fn prepare(&self, isa: Isa, scaled: &mut [f32], sums: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(row: &Row<'_>, scaled: &mut [f32], sums: &mut [f32]) {
            unsafe { row.prepare_with::<Avx2>(scaled, sums) }
        }
        // SAFETY: the instruction set was detected; AVX-512 includes AVX2.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => avx2(self, scaled, sums),
                Isa::Portable => self.prepare_with::<Portable>(scaled, sums),
            }
        }
    }

    #[inline(always)]
    unsafe fn prepare_with<S: Eight>(&self, out: &mut [f32], sums: &mut [f32]) {
        // SAFETY: the caller's.
        unsafe {
            match self.norm {
                Some((weight, eps)) => rms_norm::<S>(self.x, weight, eps, out),
                None => out.copy_from_slice(self.x),
            }
            if let Coding::Affine { group, .. } = self.coding {
                group_sums::<S>(out, group, sums);
                scale::<S>(out, &scaling(self.coding));
            }
        }
    }
}

unsafe fn gate_rows(isa: Isa, gate: &mut [f32], up: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(gate: &mut [f32], up: &[f32]) {
        unsafe { gated::<Avx2>(gate, up) }
    }
    // SAFETY: the instruction set was detected; AVX-512 includes AVX2.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => avx2(gate, up),
            Isa::Portable => gated::<Portable>(gate, up),
        }
    }
}
