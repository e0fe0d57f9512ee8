//! The kernels of the CPU device, in the shapes of the default model, beside MLX's own operations for the same: bytes a
//! second for one row, where memory is the limit, and floating-point operations a second for many, where arithmetic is.
//! What the machine can do at best is measured and printed first.
//!
//! `cargo bench --bench kernels`, or `cargo bench --bench kernels -- down` for some. Foreign load moves every figure.

use criterion::{BenchmarkId, Criterion, Throughput};
use sanctum_mlx::cache::KvCache;
use sanctum_mlx::kernels::{
    Heads, Packed, Projection, Real, Rope, RopeScaling, Rows, Sequence, Weight, attention, machine, rms_norm,
};
use sanctum_mlx::mlx::{Array, Dtype, MlxError, eval, filled, from_f32};

/// Name, outputs, inputs and bits of the default model's products.
const PRODUCTS: [(&str, usize, usize, usize); 5] = [
    ("qkv", 960, 576, 4),
    ("output", 576, 576, 4),
    ("gate_up", 3072, 576, 4),
    ("down", 576, 1536, 4),
    ("head", 49152, 576, 8),
];
/// Weights that share a scale.
const GROUP: usize = 32;
/// Heads of the default model.
const HEADS: Heads = Heads { queries: 9, keys: 3, width: 64 };

fn main() {
    println!("kernels           {}", machine::describe());
    println!("memory bandwidth  {:.1} GB/s", machine::read_bandwidth() / 1e9);
    println!("peak arithmetic   {:.1} GFLOP/s", machine::peak_flops() / 1e9);
    let mut criterion = Criterion::default().configure_from_args();
    products(&mut criterion);
    norms(&mut criterion);
    attentions(&mut criterion);
    criterion.final_summary();
}

/// Some numbers that are not all alike.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at * 7919 % 1009) as f32 / 504.0 - 1.0).collect()
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 7919 % 251) as u8).collect()
}

/// Half-precision numbers near 0.01.
fn halves(count: usize) -> Vec<u8> {
    (0..count).flat_map(|at| (0x2000_u16 + (at % 512) as u16).to_le_bytes()).collect()
}

fn array(shape: &[usize], dtype: Dtype, bytes: &[u8]) -> Array {
    filled(shape, dtype, |out| {
        out.copy_from_slice(bytes);
        Ok::<_, MlxError>(())
    })
    .expect("memory")
}

/// The same matrix for our kernels and for MLX's.
fn weights(outputs: usize, inputs: usize, bits: usize) -> [Weight; 2] {
    let (integers, groups) = (bytes(outputs * inputs * bits / 8), outputs * inputs / GROUP);
    let coefficients = halves(groups);
    let rows = Rows::Affine {
        bits,
        group: GROUP,
        packed: &integers,
        scales: &coefficients,
        biases: &coefficients,
        real: Real::F16,
    };
    let ours = Weight::Packed(Packed::new(outputs, inputs, &rows).expect("memory"));
    let scales = from_f32(&numbers(groups), &[outputs, inputs / GROUP]);
    let packed = array(&[outputs, inputs * bits / 32], Dtype::Uint32, &integers);
    [ours, Weight::Affine { packed, biases: scales.clone(), scales, bits, group: GROUP }]
}

fn products(criterion: &mut Criterion) {
    for (name, outputs, inputs, bits) in PRODUCTS {
        let [ours, stock] = weights(outputs, inputs, bits);
        let stored = ours.arrays().map(|array| array.nbytes() as u64).sum::<u64>();
        let mut group = criterion.benchmark_group(format!("product, {name}"));
        for rows in [1, 4, 8, 128] {
            let x = from_f32(&numbers(rows * inputs), &[1, rows, inputs]);
            let product = |weight: &Weight| {
                let weights = std::slice::from_ref(weight);
                let product = Projection { weights, bias: None, norm: None }.forward(&x).expect("fits");
                eval([&product]).expect("runs");
            };
            let operations = 2 * (outputs * inputs * rows) as u64;
            group.throughput(if rows == 1 { Throughput::Bytes(stored) } else { Throughput::Elements(operations) });
            group.bench_function(BenchmarkId::new("ours", rows), |b| b.iter(|| product(&ours)));
            if rows <= 4 {
                group.sample_size(10);
                group.bench_function(BenchmarkId::new("MLX", rows), |b| b.iter(|| product(&stock)));
            }
        }
    }
}

fn norms(criterion: &mut Criterion) {
    let weight = from_f32(&numbers(576), &[576]);
    let mut group = criterion.benchmark_group("rms_norm");
    for rows in [1, 128] {
        let x = from_f32(&numbers(rows * 576), &[1, rows, 576]);
        group.throughput(Throughput::Bytes((rows * 576 * 4) as u64));
        group.bench_function(BenchmarkId::new("ours", rows), |b| {
            b.iter(|| eval([&rms_norm(&x, &weight, 1e-5).expect("fits")]).expect("runs"));
        });
        group.bench_function(BenchmarkId::new("MLX", rows), |b| {
            b.iter(|| eval([&mlx_rs::fast::rms_norm(&x, Some(&weight), 1e-5).expect("fits")]).expect("runs"));
        });
    }
}

/// Rotation, cache and attention together: one token after a context, and a chunk of a prompt.
fn attentions(criterion: &mut Criterion) {
    let rope = Rope::new(HEADS.width, 100_000.0, RopeScaling::None, false);
    let row = (HEADS.queries + 2 * HEADS.keys) * HEADS.width;
    let mut group = criterion.benchmark_group("attention");
    for (before, count) in [(128, 1), (1024, 1), (8192, 1), (0, 128), (896, 128)] {
        let mut cache = KvCache::default();
        let mut pass = |offset: usize, count: usize, keep: bool| {
            let x = from_f32(&numbers(count * row), &[1, count, row]);
            let angles = rope.angles(&[(offset, count)]);
            let mut sequence = [Sequence { cache: &mut cache, count }];
            let mixed = attention(&x, HEADS, (&rope, &angles), &mut sequence).expect("fits");
            eval(std::iter::once(&mixed).chain(cache.arrays())).expect("runs");
            if !keep {
                cache.trim(count);
            }
        };
        if before > 0 {
            pass(0, before, true);
        }
        // Two products of each query with each key and value that it sees.
        let pairs = count * before + count * (count + 1) / 2;
        group.throughput(Throughput::Elements((4 * pairs * HEADS.queries * HEADS.width) as u64));
        group.bench_function(BenchmarkId::new(format!("{count} after"), before), |b| {
            b.iter(|| pass(before, count, false));
        });
    }
}
