//! Row S11: logits and greedy tokens of the default model against Python `mlx_lm`, whose results `scripts/goldens`
//! recorded in `tests/data/goldens` (the format is described there).

#[path = "it/support/models.rs"]
mod models;

use std::path::Path;
use std::sync::Arc;

use sanctum_mlx::cache::Coding;
use sanctum_mlx::engine::backend::{Ask, Backend, Decoded, RowId};
use sanctum_mlx::job::Sampling;
use sanctum_mlx::mlx::{from_tokens, to_f32_vec};
use sanctum_mlx::model::registry::{Plan, check};
use sanctum_mlx::model::weights::Checkpoint;
use sanctum_mlx::model::{Model, Sequence};
use sanctum_mlx::runner::{Guesses, MemoryLimit, Runner, RunnerSettings};
use serde_json::Value;

/// Prompts that must agree in all their tokens, of those recorded.
const EQUAL_PROMPTS_MIN: usize = 9;
/// Largest difference of a logit, relative to the range of all logits at that step.
const DIFFERENCE_MAX: f64 = 1e-3;
/// A step whose two best logits are closer than this, relative to the range, may go either way.
const NEAR_TIE: f64 = 2.0 * DIFFERENCE_MAX;

/// One prompt and what `mlx_lm` made of it.
struct Golden {
    name: String,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    steps: Vec<Step>,
}

/// What is known of one step's logits.
struct Step {
    /// Ids and logits: the largest eight, most likely first, then samples where they were recorded.
    known: Vec<(usize, f64)>,
    min: f64,
    max: f64,
}

/// How one prompt came out.
struct Outcome {
    /// Largest difference over all recorded logits, relative to the range of their step.
    difference: f64,
    /// Steps at which another token was best, with the gap of the two that `mlx_lm` found best, relative to the range.
    other: Vec<(usize, f64)>,
}

fn goldens() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |path: &Path| -> Value {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).expect("JSON")
    };
    let prompts = read(&folder.join("prompts.json"));
    let names = prompts.as_array().expect("a list").iter().map(|prompt| prompt["name"].as_str().expect("a name"));
    names.map(|name| golden(&read(&folder.join(format!("goldens/{name}.json"))))).collect()
}

fn golden(value: &Value) -> Golden {
    let vocabulary = 49_152;
    let number = |value: &Value| value.as_f64().expect("a number");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let ids = |value: &Value| list(value).iter().map(|id| number(id) as u32).collect::<Vec<_>>();
    let mut steps: Vec<Step> = list(&value["steps"])
        .iter()
        .map(|step| Step {
            known: list(&step["top"]).iter().map(|pair| (number(&pair[0]) as usize, number(&pair[1]))).collect(),
            min: number(&step["min"]),
            max: number(&step["max"]),
        })
        .collect();
    for sample in list(&value["samples"]) {
        let logits = list(&sample["logits"]);
        let known = logits.iter().enumerate().map(|(k, logit)| (k * vocabulary / logits.len(), number(logit)));
        steps[number(&sample["step"]) as usize].known.extend(known);
    }
    let name = value["name"].as_str().expect("a name").to_owned();
    Golden { name, prompt: ids(&value["prompt_ids"]), tokens: ids(&value["tokens"]), steps }
}

/// Feeds the recorded tokens, whatever ours would be, so that every step is compared.
fn compare(model: &dyn Model, golden: &Golden) -> Outcome {
    let mut caches = model.caches(Coding::Plain, 0);
    let mut outcome = Outcome { difference: 0.0, other: Vec::new() };
    let mut input = golden.prompt.clone();
    for (at, (step, token)) in golden.steps.iter().zip(&golden.tokens).enumerate() {
        let sequence = Sequence { caches: &mut caches, count: input.len() };
        let logits = model.forward(&from_tokens(&input), &mut [sequence]).expect("runs");
        let logits = to_f32_vec(&logits).expect("runs");
        let range = step.max - step.min;
        let best = logits.iter().enumerate().fold(0, |best, (id, logit)| if *logit > logits[best] { id } else { best });
        let ends =
            [(f64::from(logits[best]), step.max), (logits.iter().copied().fold(f32::MAX, f32::min).into(), step.min)];
        let known = step.known.iter().map(|(id, logit)| (f64::from(logits[*id]), *logit));
        let differences = known.chain(ends).map(|(ours, theirs)| (ours - theirs).abs() / range);
        outcome.difference = differences.fold(outcome.difference, f64::max);
        if best != *token as usize {
            outcome.other.push((at, (step.known[0].1 - step.known[1].1) / range));
        }
        input = vec![*token];
    }
    outcome
}

fn open() -> (Checkpoint, Plan) {
    let checkpoint = Checkpoint::open(&models::default_model()).expect("the default model is sound");
    let plan = check(&checkpoint).expect("the default model is supported");
    (checkpoint, plan)
}

#[test]
fn s11_logits_and_greedy_tokens_are_those_of_mlx_lm() {
    let (checkpoint, plan) = open();
    let model = plan.load(&checkpoint, &|_| {}).expect("loads");
    let goldens = goldens();
    println!("{:<12} {:>7} {:>6} {:>16} {:>12}", "prompt", "tokens", "steps", "max |Δ| / range", "other tokens");
    let (mut equal, mut worst) = (0, 0.0_f64);
    for golden in &goldens {
        let Outcome { difference, other } = compare(model.as_ref(), golden);
        let gaps: Vec<String> = other.iter().map(|(step, gap)| format!("step {step}, gap {gap:.1e}")).collect();
        let (prompt, steps) = (golden.prompt.len(), golden.steps.len());
        println!(
            "{:<12} {prompt:>7} {steps:>6} {difference:>16.2e} {:>12} {}",
            golden.name,
            other.len(),
            gaps.join("; ")
        );
        assert!(other.iter().all(|(_, gap)| *gap < NEAR_TIE), "{}: {gaps:?} is more than a near-tie", golden.name);
        equal += usize::from(other.is_empty());
        worst = worst.max(difference);
    }
    println!("S11: {equal} of {} prompts equal over all tokens, max |Δ| {worst:.2e} of the range", goldens.len());
    assert!(worst <= DIFFERENCE_MAX, "{worst:.2e}");
    assert!(equal >= EQUAL_PROMPTS_MIN.min(goldens.len()), "{equal} of {}", goldens.len());
}

#[test]
fn the_default_model_answers_greedily_with_the_recorded_capital_of_france() {
    let (checkpoint, plan) = open();
    let mut runner = Runner::load(
        &checkpoint,
        &plan,
        RunnerSettings {
            rows_max: 1,
            memory: MemoryLimit::Bytes(u64::MAX),
            prefix_bytes_max: 0,
            coding: Coding::Plain,
            guesses: Guesses::none(),
        },
        &|_| {},
    )
    .expect("loads");
    let golden = goldens().into_iter().find(|golden| golden.name == "capital").expect("it is recorded");
    let stop = checkpoint.stop_tokens();
    let answer: Vec<u32> = golden.tokens.iter().copied().take_while(|token| !stop.contains(token)).collect();

    let row = RowId(1);
    runner.open(row, Ask::new(&golden.prompt, &Arc::from(""), &Sampling::greedy()));
    assert_eq!(runner.begin(row), Ok(0));
    let chunk = runner.capacity().prefill_chunk_tokens;
    while runner.prefill(row, chunk).expect("runs") > 0 {}
    let mut seen = Vec::new();
    while seen.len() <= answer.len() {
        match runner.decode(&[row]).expect("runs").remove(0) {
            Decoded::Tokens(tokens) if stop.contains(&tokens[0].id) => break,
            Decoded::Tokens(tokens) => seen.push(tokens[0].id),
            Decoded::Failed(why) => panic!("{why}"),
        }
    }
    runner.close(row);
    assert_eq!(seen, answer, "\"The capital of France is Paris.\", in token ids");
}
