//! S6: what prompt lookup gains where an answer repeats its prompt, and what it costs where it does not. Two runners on the
//! default model, one that guesses and one that does not, answer the same requests in interleaved blocks; every token of
//! both is compared. It prints a table and a JSON line per row, and never judges a run by its figures.
//!
//! `cargo bench --bench lookup`. Needs the default model, which `scripts/setup` fetches, and Linux for `/proc`.

#[path = "../tests/it/support/default_text.rs"]
mod default_text;
#[path = "server/report.rs"]
mod report;
#[path = "server/stats.rs"]
#[allow(dead_code, reason = "the bench needs some of it")]
mod stats;
#[path = "server/system.rs"]
#[allow(dead_code, reason = "the bench needs some of it")]
mod system;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sanctum_mlx::cache::Coding;
use sanctum_mlx::engine::backend::{Ask, Backend, Decoded, RowId};
use sanctum_mlx::job::Sampling;
use sanctum_mlx::model::registry::check;
use sanctum_mlx::model::weights::Checkpoint;
use sanctum_mlx::runner::{Gate, Guesses, MemoryLimit, Runner, RunnerSettings};
use sanctum_mlx::telemetry::metrics::DraftCounters;
use serde_json::{Map, json};

use report::Row;
use stats::Conditions;

/// Tokens of an answer.
const TOKENS: usize = 96;
/// Tokens that an answer may guess in a step.
const LOOKUP_TOKENS: u32 = 8;
/// Blocks that must count.
const BLOCKS: usize = 7;
/// Blocks after which a noisy machine is given up.
const BLOCKS_MAX: usize = 2 * BLOCKS;
/// More than any prompt here has.
const PROMPT_TOKENS_MAX: u32 = 1_024;

/// Answers that are most of their prompt again.
const ECHO: [&str; 3] = [
    "Repeat this text word for word: The committee met on Tuesday to discuss the new library. Mrs. Alder said that the \
     reading room needs larger windows, and Mr. Brandt asked who would pay for them. After an hour they agreed to ask \
     three builders for their prices, and to meet again in the first week of May.",
    "Write this function again with the name `total` changed to `sum`:\n```python\ndef add_prices(items):\n    total = 0\n    \
     for item in items:\n        if item.price is not None:\n            total = total + item.price * item.count\n    \
     return total\n```",
    "Copy this list and add one more line at its end:\n- apples: 4 boxes, cold store\n- pears: 2 boxes, cold store\n- \
     potatoes: 11 sacks, dry store\n- onions: 7 sacks, dry store\n- carrots: 3 sacks, cold store\n- rice: 20 bags, dry store",
];
/// Answers that nothing of the prompt foretells.
const FREE: [&str; 3] = [
    "Explain in a few sentences why the sky is blue and why sunsets are red.",
    "Tell me a short story about a lighthouse keeper and a lost sailor.",
    "What should somebody think about before buying a second-hand bicycle?",
];

/// A set of requests, and how its tokens are chosen.
struct Set {
    name: &'static str,
    prompts: Vec<Vec<u32>>,
    sampling: Sampling,
    target: f64,
    target_text: &'static str,
}

/// Both runners.
struct Arms {
    plain: Runner,
    guessing: Runner,
    counters: DraftCounters,
    /// Answers that differed.
    different: usize,
    /// Answers that were compared.
    compared: usize,
}

fn main() {
    let text = default_text::text(&default_text::source());
    let prompts = |questions: [&str; 3]| {
        let prompt = |question| {
            let messages = [json!({"role": "user", "content": question})];
            text.prompt(&messages, None, &Map::new(), PROMPT_TOKENS_MAX).expect("the template renders it").tokens
        };
        questions.map(prompt).to_vec()
    };
    // Greedy answers of so small a model soon repeat themselves, which would be no free text.
    let drawn = Sampling { temperature: 0.8, top_p: 0.95, seed: 6, ..Sampling::greedy() };
    let sets = [
        Set {
            name: "echo, greedy",
            prompts: prompts(ECHO),
            sampling: Sampling::greedy(),
            target: 1.3,
            target_text: "≥ 1.3, all identical",
        },
        Set {
            name: "free text, drawn",
            prompts: prompts(FREE),
            sampling: drawn,
            target: 0.98,
            target_text: "≥ 0.98, all identical",
        },
    ];
    let mut arms = Arms::load();
    report::print(sets.iter().map(|set| arms.row(set)).collect());
}

impl Arms {
    fn load() -> Self {
        let counters = DraftCounters::default();
        let guesses = Guesses { tokens_max: LOOKUP_TOKENS, gate: Gate::Measured, counters: counters.clone() };
        Self { plain: load(Guesses::none()), guessing: load(guesses), counters, different: 0, compared: 0 }
    }

    fn row(&mut self, set: &Set) -> Row {
        // What is answered first pays for its buffers.
        self.block(set);
        (self.different, self.compared) = (0, 0);
        let before = (self.counters.drafted.get(), self.counters.accepted.get());
        let mut blocks: Vec<(f64, Conditions)> = Vec::new();
        while blocks.len() < BLOCKS_MAX && counted(&blocks).len() < BLOCKS {
            let (ratio, conditions) = Conditions::around(|| self.block(set));
            eprintln!("S6: {}, block {}, ratio {ratio:.3}, {conditions:?}", set.name, blocks.len() + 1);
            blocks.push((ratio, conditions));
        }
        let drafted = self.counters.drafted.get() - before.0;
        let accepted = self.counters.accepted.get() - before.1;
        let mut counted = counted(&blocks);
        let mut all: Vec<f64> = blocks.iter().map(|(ratio, _)| *ratio).collect();
        let (discarded, every) = (blocks.len() - counted.len(), stats::median(&mut all));
        let (found, met) = if counted.len() >= BLOCKS {
            let (low, high) = stats::interval(&counted);
            let middle = stats::median(&mut counted);
            let text = format!("{middle:.3}, 95 % in {low:.3} to {high:.3}; {discarded} discarded");
            (text, Some(middle >= set.target && self.different == 0))
        } else {
            (format!("noisy: {discarded} of {} discarded; {every:.3} over all of them", blocks.len()), None)
        };
        let identical = format!("{} of {} answers identical", self.compared - self.different, self.compared);
        Row {
            id: "S6",
            what: format!("tokens/s with prompt lookup {LOOKUP_TOKENS} ÷ without; {}, A-B-B-A", set.name),
            measured: format!("{found}; {identical}; {accepted} of {drafted} guesses right"),
            target: set.target_text,
            met,
            figures: json!({
                "blocks": all, "counted": counted, "median_of_all": every, "drafted": drafted, "accepted": accepted,
                "answers": self.compared, "different": self.different,
            }),
        }
    }

    /// Without, with, with, without; the ratio of the rates over both runs of each.
    fn block(&mut self, set: &Set) -> f64 {
        let (mut plain, mut guessing) = (Duration::ZERO, Duration::ZERO);
        for prompt in &set.prompts {
            let runs = [&mut self.plain, &mut self.guessing].map(|runner| run(runner, prompt, &set.sampling));
            let again = [&mut self.guessing, &mut self.plain].map(|runner| run(runner, prompt, &set.sampling));
            plain += runs[0].1 + again[1].1;
            guessing += runs[1].1 + again[0].1;
            self.compared += 2;
            self.different += usize::from(runs[0].0 != runs[1].0) + usize::from(again[0].0 != again[1].0);
        }
        plain.as_secs_f64() / guessing.as_secs_f64()
    }
}

/// The ratios of the blocks in which the machine was quiet.
fn counted(blocks: &[(f64, Conditions)]) -> Vec<f64> {
    let fastest = blocks.iter().map(|(_, conditions)| conditions.calibration).fold(f64::INFINITY, f64::min);
    let quiet = blocks.iter().filter(|(_, conditions)| !conditions.slowed(fastest) && !conditions.disturbed());
    quiet.map(|(ratio, _)| *ratio).collect()
}

fn load(guesses: Guesses) -> Runner {
    let home = std::env::var_os("SANCTUM_MLX_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".sanctum-mlx"))).expect("a home folder");
    let checkpoint = Checkpoint::open(&home.join("models/default")).expect("the default model; run scripts/setup");
    let plan = check(&checkpoint).expect("supported");
    let settings = RunnerSettings {
        rows_max: 1,
        memory: MemoryLimit::Bytes(u64::MAX),
        prefix_bytes_max: 0,
        coding: Coding::Plain,
        guesses,
    };
    Runner::load(&checkpoint, &plan, settings, &|_| {}).expect("loads")
}

/// One answer, and how long its tokens took after the prompt.
fn run(runner: &mut Runner, prompt: &[u32], sampling: &Sampling) -> (Vec<u32>, Duration) {
    let (row, scope) = (RowId(1), Arc::from(""));
    runner.open(row, Ask { tokens_max: TOKENS as u32, ..Ask::new(prompt, &scope, sampling) });
    runner.begin(row).expect("memory");
    let chunk = runner.capacity().prefill_chunk_tokens;
    while runner.prefill(row, chunk).expect("runs") > 0 {}
    let mut answer = Vec::with_capacity(TOKENS);
    let begun = Instant::now();
    while answer.len() < TOKENS {
        match runner.decode(&[row]).expect("runs").remove(0) {
            Decoded::Tokens(tokens) => answer.extend(tokens.iter().map(|token| token.id)),
            Decoded::Failed(why) => panic!("{why}"),
        }
    }
    let took = begun.elapsed();
    runner.close(row);
    (answer, took)
}
