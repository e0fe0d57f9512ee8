//! The bare engine loop: what the runner does without a server around it, with the default model. It prints the memory
//! bandwidth measured in the same run, so that tokens per second can be read as a share η of what the machine could do.
//!
//! `cargo bench --bench decode`. Foreign load moves every figure; the calibration line is printed before and after.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sanctum_mlx::cache::{Bits, Coding, GROWTH_TOKENS, KvCache};
use sanctum_mlx::engine::backend::{Ask, Backend, Decoded, RowId};
use sanctum_mlx::job::Sampling;
use sanctum_mlx::kernels::machine;
use sanctum_mlx::mlx::{self, eval, from_tokens};
use sanctum_mlx::model::registry::check;
use sanctum_mlx::model::weights::Checkpoint;
use sanctum_mlx::model::{Model, Sequence};
use sanctum_mlx::runner::{Guesses, MemoryLimit, Runner, RunnerSettings};

/// Tokens decoded per sample.
const DECODE_TOKENS: usize = 48;
/// Tokens before those that are decoded with keys and values of several kinds.
const CONTEXT_TOKENS: usize = 1_000;
/// Most rows that decode together here.
const ROWS_MAX: u32 = 8;
/// Samples of each figure; the median is told, and the best.
const SAMPLES: usize = 5;

fn main() {
    let folder = std::env::var_os("SANCTUM_MLX_HOME").map(PathBuf::from);
    let home = folder.or_else(|| std::env::home_dir().map(|home| home.join(".sanctum-mlx"))).expect("a home folder");
    let checkpoint = Checkpoint::open(&home.join("models/default")).expect("the default model; run scripts/setup");
    println!("kernels                    {}", machine::describe());

    let plan = check(&checkpoint).expect("supported");
    let begun = Instant::now();
    let mut runner = Runner::load(
        &checkpoint,
        &plan,
        RunnerSettings {
            rows_max: ROWS_MAX,
            memory: MemoryLimit::Bytes(u64::MAX),
            prefix_bytes_max: 0,
            coding: Coding::Plain,
            guesses: Guesses::none(),
        },
        &|_| {},
    )
    .expect("loads");
    let weights = mlx::gauges().expect("gauges").active_bytes as f64;
    println!("load and warm-up           {:8.2} s", begun.elapsed().as_secs_f64());
    println!("weights in memory          {:8.1} MB, as {:?} computes", weights / 1e6, mlx::device());
    let limit = 1.3 * weights / 1e6 + 150.0;
    println!("peak of the process        {:8.1} MB, of {limit:.1} allowed", peak_process_bytes() / 1e6);
    // Now that the peak is read: the buffer of this measurement is larger than all of it.
    let bandwidth = machine::read_bandwidth() / 1e9;
    println!("memory bandwidth           {bandwidth:8.1} GB/s, all threads reading 256 MB");
    println!("prefill chunk              {:8} tokens", runner.capacity().prefill_chunk_tokens);

    for tokens in [128, 512] {
        let rates = samples(|| tokens as f64 / prefill(&mut runner, tokens).as_secs_f64());
        println!("prefill {tokens:4}               {:8.1} tokens/s, best {:.1}", rates.0, rates.1);
    }
    for (name, sampling) in [("greedy", Sampling::greedy()), ("drawn ", drawn())] {
        let rates = samples(|| DECODE_TOKENS as f64 / decode(&mut runner, 1, &sampling).as_secs_f64());
        let eta = rates.0 * weights / (bandwidth * 1e9);
        println!("decode, {name}             {:8.2} tokens/s, best {:.2}, η {eta:.2}", rates.0, rates.1);
    }
    several_rows(&mut runner);
    drop(runner);
    let model = plan.load(&checkpoint, &|_| {}).expect("loads");
    let mut caches = model.caches(Coding::Plain, 0);
    let sequence = Sequence { caches: &mut caches, count: 16 };
    eval([&model.forward(&from_tokens(&[1; 16]), &mut [sequence]).expect("runs")]).expect("runs");
    let host = samples(|| {
        let mut caches = model.caches(Coding::Plain, 0);
        let begun = Instant::now();
        let sequence = Sequence { caches: &mut caches, count: 1 };
        black_box(model.forward(&from_tokens(&[1]), &mut [sequence]).expect("builds"));
        begun.elapsed().as_secs_f64() * 1e6
    });
    println!("graph of one step, host    {:8.0} µs", host.0);
    key_value_bits(model.as_ref(), plan.head_width);
    println!("memory bandwidth, after    {:8.1} GB/s", machine::read_bandwidth() / 1e9);
}

/// What a pass of several rows gives, against one row in the same moment.
fn several_rows(runner: &mut Runner) {
    for rows in [2, 4, u64::from(ROWS_MAX)] {
        let greedy = Sampling::greedy();
        let tokens = (DECODE_TOKENS * rows as usize) as f64;
        // The machine is not the same in the next moment.
        let mut ratios = Vec::new();
        let rates = samples(|| {
            let alone = DECODE_TOKENS as f64 / decode(runner, 1, &greedy).as_secs_f64();
            let together = tokens / decode(runner, rows, &greedy).as_secs_f64();
            ratios.push(together / alone);
            together
        });
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[SAMPLES / 2];
        println!("decode, {rows} rows             {:8.2} tokens/s, best {:.2}, {ratio:.2} x one row", rates.0, rates.1);
    }
}

/// What storing keys and values as integers spares and costs, one token after [`CONTEXT_TOKENS`].
fn key_value_bits(model: &dyn Model, head_width: usize) {
    let affine = |bits| Coding::affine(bits, head_width).expect("the default model's heads fit");
    let codings = [Coding::Plain, affine(Bits::Eight), affine(Bits::Four)];
    let mut rows = codings.map(|coding| {
        let mut caches = model.caches(coding, CONTEXT_TOKENS + DECODE_TOKENS);
        let sequence = Sequence { caches: &mut caches, count: CONTEXT_TOKENS };
        model.remember(&from_tokens(&prompt(CONTEXT_TOKENS)), &mut [sequence]).expect("runs");
        eval(caches.iter().flat_map(KvCache::arrays)).expect("runs");
        caches
    });
    let positions = (CONTEXT_TOKENS + DECODE_TOKENS).next_multiple_of(GROWTH_TOKENS as usize) as u64;
    let bytes = rows.each_ref().map(|caches| caches.iter().map(KvCache::bytes).sum::<u64>() / positions);
    // One after the other in each sample, because the machine is not the same in the next.
    let mut ratios = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..SAMPLES {
        let took = rows.each_mut().map(|caches| {
            let begun = Instant::now();
            for _ in 0..DECODE_TOKENS {
                let sequence = Sequence { caches, count: 1 };
                let scores = model.forward(&from_tokens(&[1]), &mut [sequence]).expect("runs");
                eval(caches.iter().flat_map(KvCache::arrays).chain([&scores])).expect("runs");
            }
            let took = begun.elapsed().as_secs_f64();
            caches.iter_mut().for_each(|cache| cache.trim(DECODE_TOKENS));
            took
        });
        ratios.iter_mut().zip(took).for_each(|(ratios, took_coded)| ratios.push(took[0] / took_coded));
    }
    for ((name, bytes), mut ratios) in ["off", "8", "4"].into_iter().zip(bytes).zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let speed = ratios[SAMPLES / 2];
        println!(
            "kv_bits {name:<3}                {bytes:8} bytes a token, {speed:.2} x the speed after {CONTEXT_TOKENS} tokens"
        );
    }
}

/// Settings that use every part of sampling.
fn drawn() -> Sampling {
    Sampling { temperature: 0.8, top_p: 0.95, top_k: 40, repetition_penalty: 1.1, seed: 1, ..Sampling::greedy() }
}

/// Median and highest.
fn samples(mut sample: impl FnMut() -> f64) -> (f64, f64) {
    let mut all: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    all.sort_by(f64::total_cmp);
    (all[SAMPLES / 2], all[SAMPLES - 1])
}

fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|at| (at * 7919 % 40_000) as u32).collect()
}

fn prefill(runner: &mut Runner, tokens: usize) -> Duration {
    let row = RowId(1);
    runner.open(row, Ask::new(&prompt(tokens), &Arc::from("prefill"), &Sampling::greedy()));
    runner.begin(row).expect("memory");
    let chunk = runner.capacity().prefill_chunk_tokens;
    let begun = Instant::now();
    while runner.prefill(row, chunk).expect("runs") > 0 {}
    let took = begun.elapsed();
    runner.close(row);
    took
}

fn decode(runner: &mut Runner, rows: u64, sampling: &Sampling) -> Duration {
    let rows: Vec<RowId> = (1..=rows).map(RowId).collect();
    for row in &rows {
        runner.open(*row, Ask::new(&prompt(31 + row.0 as usize), &Arc::from(row.0.to_string()), sampling));
        runner.begin(*row).expect("memory");
        while runner.prefill(*row, 64).expect("runs") > 0 {}
    }
    runner.decode(&rows).expect("runs");
    let begun = Instant::now();
    for _ in 0..DECODE_TOKENS {
        let decoded = runner.decode(&rows).expect("runs");
        assert!(decoded.iter().all(|decoded| matches!(decoded, Decoded::Tokens(_))));
    }
    let took = begun.elapsed();
    rows.iter().for_each(|row| runner.close(*row));
    took
}

/// The most that the process ever had in memory; 0 where the system does not say so in a file.
fn peak_process_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}
