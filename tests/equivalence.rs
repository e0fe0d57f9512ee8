//! Fast paths against the slow one: whatever the engine does to serve many at once, each row answers what it answers alone,
//! in one chunk, from nothing. Greedy and drawn, on the default model and on tiny random ones, with every form of cache; it
//! prints a table, and one token that differs anywhere fails it. (On a GPU, whose kernels choose their order of additions by
//! the shape, cells may differ at near-ties; there it only prints.) The README holds the table, and an old one there fails it
//! too.

#[path = "it/support/models.rs"]
mod models;
#[path = "equivalence/table.rs"]
mod table;

use std::path::Path;
use std::sync::Arc;

use sanctum_mlx::cache::{Bits, Coding};
use sanctum_mlx::engine::backend::{Ask, Backend, Decoded, RowId};
use sanctum_mlx::job::Sampling;
use sanctum_mlx::mlx::{Device, device};
use sanctum_mlx::model::registry::check;
use sanctum_mlx::model::weights::Checkpoint;
use sanctum_mlx::runner::{Gate, Guesses, MemoryLimit, Runner, RunnerSettings};
use sanctum_mlx::telemetry::metrics::DraftCounters;

use table::Table;

/// Rows that are compared; they run together where a way of serving is about that.
const ROWS: usize = 8;
/// Tokens that each answers.
const TOKENS: usize = 16;
/// Larger than every prompt.
const WHOLE: u32 = 4_096;

/// Tokens that a row may guess in a step, where rows guess.
const GUESSED_TOKENS_MAX: u32 = 5;

/// Token ids of a row's answer.
type Answer = Vec<u32>;

/// One way of serving the same rows.
type Way = fn(&mut Runner, &[Vec<u32>], &dyn Fn(usize) -> Sampling) -> Vec<Answer>;

/// All ways but the plain one, with their names in the table.
const WAYS: [(&str, Way); 8] = [
    ("batch of 8, ragged", |runner, prompts, sampling| together(runner, prompts, sampling, None)),
    ("neighbours cancelled", |runner, prompts, sampling| together(runner, prompts, sampling, Some(TOKENS / 2))),
    ("joining one by one", joining),
    ("chunks of 1", |runner, prompts, sampling| one_by_one(runner, prompts, sampling, 1)),
    ("chunks of 7", |runner, prompts, sampling| one_by_one(runner, prompts, sampling, 7)),
    ("chunks of 512", |runner, prompts, sampling| one_by_one(runner, prompts, sampling, 512)),
    ("prefix hit, trimmed", prefix_hit),
    ("after KV trim", trimmed),
];

/// Ways of serving rows that guess, for the same comparison with rows that do not.
const GUESSING_WAYS: [(&str, Way); 4] = [
    ("prompt lookup, alone", |runner, prompts, sampling| one_by_one(runner, prompts, sampling, WHOLE)),
    ("prompt lookup, batch of 8", |runner, prompts, sampling| together(runner, prompts, sampling, None)),
    ("prompt lookup, neighbours cancelled", |runner, prompts, sampling| {
        together(runner, prompts, sampling, Some(TOKENS / 2))
    }),
    ("prompt lookup, prefix hit", prefix_hit),
];

fn open(runner: &mut Runner, row: usize, prompt: &[u32], scope: &str, sampling: &Sampling, chunk: u32) -> u32 {
    let id = RowId(row as u64);
    runner.open(id, Ask::new(prompt, &Arc::from(scope), sampling));
    let cached = runner.begin(id).expect("memory");
    while runner.prefill(id, chunk).expect("runs") > 0 {}
    cached
}

/// One step of each of these rows, its tokens to the end of their answers as far as they are compared.
fn step(runner: &mut Runner, rows: &[usize], answers: &mut [Answer]) {
    let ids: Vec<RowId> = rows.iter().map(|row| RowId(*row as u64)).collect();
    for (row, decoded) in rows.iter().zip(runner.decode(&ids).expect("runs")) {
        match decoded {
            Decoded::Tokens(tokens) => {
                answers[*row].extend(tokens.iter().map(|token| token.id));
                answers[*row].truncate(TOKENS);
            }
            Decoded::Failed(why) => panic!("row {row}: {why}"),
        }
    }
}

/// Each row alone, in a scope of its own so that nothing is used again.
fn one_by_one(
    runner: &mut Runner,
    prompts: &[Vec<u32>],
    sampling: &dyn Fn(usize) -> Sampling,
    chunk: u32,
) -> Vec<Answer> {
    let mut answers = vec![Answer::new(); prompts.len()];
    for (row, prompt) in prompts.iter().enumerate() {
        let cached = open(runner, row, prompt, &format!("alone {row} {chunk} {}", fresh()), &sampling(row), chunk);
        assert_eq!(cached, 0);
        (0..TOKENS).for_each(|_| step(runner, &[row], &mut answers));
        runner.close(RowId(row as u64));
    }
    answers
}

/// All rows at once; every other one leaves after so many steps, and is then left out of the comparison.
fn together(
    runner: &mut Runner,
    prompts: &[Vec<u32>],
    sampling: &dyn Fn(usize) -> Sampling,
    cancel_at: Option<usize>,
) -> Vec<Answer> {
    let mut answers = vec![Answer::new(); prompts.len()];
    for (row, prompt) in prompts.iter().enumerate() {
        open(runner, row, prompt, &format!("together {row} {}", fresh()), &sampling(row), WHOLE);
    }
    let mut rows: Vec<usize> = (0..prompts.len()).collect();
    for at in 0..TOKENS {
        if cancel_at == Some(at) {
            rows.iter().filter(|row| *row % 2 == 1).for_each(|row| runner.close(RowId(*row as u64)));
            rows.retain(|row| row % 2 == 0);
        }
        step(runner, &rows, &mut answers);
    }
    rows.iter().for_each(|row| runner.close(RowId(*row as u64)));
    answers
}

/// Each row joins those that already run, and leaves when it is done.
fn joining(runner: &mut Runner, prompts: &[Vec<u32>], sampling: &dyn Fn(usize) -> Sampling) -> Vec<Answer> {
    let mut answers = vec![Answer::new(); prompts.len()];
    let (mut rows, mut next) = (Vec::new(), 0);
    while next < prompts.len() || !rows.is_empty() {
        if next < prompts.len() {
            open(runner, next, &prompts[next], &format!("joining {next} {}", fresh()), &sampling(next), WHOLE);
            rows.push(next);
            next += 1;
        }
        step(runner, &rows, &mut answers);
        let done = |row: &usize, answers: &[Answer]| answers[*row].len() == TOKENS;
        rows.iter().filter(|row| done(row, &answers)).for_each(|row| runner.close(RowId(*row as u64)));
        rows.retain(|row| !done(row, &answers));
    }
    answers
}

/// Each row after one with a prompt that leaves its own three tokens before the end, from what that one left.
fn prefix_hit(runner: &mut Runner, prompts: &[Vec<u32>], sampling: &dyn Fn(usize) -> Sampling) -> Vec<Answer> {
    let mut answers = vec![Answer::new(); prompts.len()];
    for (row, prompt) in prompts.iter().enumerate() {
        let scope = format!("prefix {row} {}", fresh());
        let shared = prompt.len() - 3;
        let mut other = prompt[..shared].to_vec();
        other.extend(prompt[shared..].iter().map(|token| token + 1));
        open(runner, row, &other, &scope, &sampling(row), WHOLE);
        let mut theirs = vec![Answer::new(); prompts.len()];
        (0..5).for_each(|_| step(runner, &[row], &mut theirs));
        runner.close(RowId(row as u64));
        assert_eq!(open(runner, row, prompt, &scope, &sampling(row), WHOLE) as usize, shared, "the prefix is used");
        (0..TOKENS).for_each(|_| step(runner, &[row], &mut answers));
        runner.close(RowId(row as u64));
    }
    answers
}

/// Each row once more from its own cache, which is cut back by its answer and the end of its prompt, and goes on.
fn trimmed(runner: &mut Runner, prompts: &[Vec<u32>], sampling: &dyn Fn(usize) -> Sampling) -> Vec<Answer> {
    let mut answers = vec![Answer::new(); prompts.len()];
    for (row, prompt) in prompts.iter().enumerate() {
        let scope = format!("trimmed {row} {}", fresh());
        for known in [0, prompt.len() - 2] {
            answers[row].clear();
            assert_eq!(open(runner, row, prompt, &scope, &sampling(row), WHOLE) as usize, known);
            (0..TOKENS).for_each(|_| step(runner, &[row], &mut answers));
            runner.close(RowId(row as u64));
        }
    }
    answers
}

/// A number that no call before has had.
fn fresh() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Ragged prompts, from 19 tokens to 110, around the blocks of attention and the kernels' numbers of rows; or so many times as
/// long.
fn prompts(vocabulary: u32, times: u32) -> Vec<Vec<u32>> {
    let lengths: [u32; ROWS] = [19, 63, 64, 65, 24, 110, 37, 82].map(|length| length * times);
    let tokens =
        |row: u32, length: u32| (0..length).map(|at| (at * at * 31 + row * 977 + 5) % (vocabulary - 1)).collect();
    (0..).zip(lengths).map(|(row, length)| tokens(row, length)).collect()
}

/// A model, and how it is served.
struct Case<'a> {
    name: &'a str,
    path: &'a Path,
    /// Of the integers that keys and values are stored as.
    bits: Option<Bits>,
    /// How much longer its prompts are than usual.
    times: u32,
    /// How tokens are chosen.
    choices: &'a [Choices],
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choices {
    Greedy,
    Drawn,
}

/// Prompts that say nine tokens again and again, now and then with one of them changed.
fn repetitive(prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let one = |prompt: &Vec<u32>| {
        let mut repeated: Vec<u32> = (0..prompt.len()).map(|at| prompt[at % 9]).collect();
        repeated.iter_mut().skip(9).step_by(17).for_each(|token| *token += 1);
        repeated
    };
    prompts.iter().map(one).collect()
}

fn load(case: &Case<'_>, guesses: Guesses) -> (Runner, u32) {
    let Case { path, bits, .. } = *case;
    let checkpoint = Checkpoint::open(path).expect("a sound model");
    let plan = check(&checkpoint).expect("supported");
    let settings = RunnerSettings {
        rows_max: ROWS as u32,
        memory: MemoryLimit::Bytes(u64::MAX),
        prefix_bytes_max: 256 << 20,
        coding: bits.map_or(Coding::Plain, |bits| Coding::affine(bits, plan.head_width).expect("its heads fit")),
        guesses,
    };
    (Runner::load(&checkpoint, &plan, settings, &|_| {}).expect("loads"), plan.logit_width)
}

/// Rows whose answers are the same, as far as a row got that was cancelled.
fn equal(expected: &[Answer], found: &[Answer]) -> usize {
    let rows = expected.iter().zip(found);
    rows.filter(|(expected, found)| expected.starts_with(found) && found.len() >= expected.len() / 2).count()
}

/// Rows that guess against rows that do not. Guesses are made wherever they can be, right ones and wrong ones.
fn compare_guessing(case: &Case<'_>, table: &mut Table) {
    let counters = DraftCounters::default();
    let guesses = Guesses { tokens_max: GUESSED_TOKENS_MAX, gate: Gate::Open, counters: counters.clone() };
    let ((mut plain, vocabulary), (mut guessing, _)) = (load(case, Guesses::none()), load(case, guesses));
    let prompts = repetitive(&prompts(vocabulary, case.times));
    let greedy: &dyn Fn(usize) -> Sampling = &|_| Sampling::greedy();
    let drawn: &dyn Fn(usize) -> Sampling =
        &|row| Sampling { temperature: 0.1, top_p: 0.9, seed: row as u64, ..Sampling::greedy() };
    for (how, sampling) in [("greedy", greedy), ("drawn", drawn)] {
        let expected = one_by_one(&mut plain, &prompts, sampling, WHOLE);
        for (way, serve) in GUESSING_WAYS {
            let before = (counters.drafted.get(), counters.accepted.get());
            let equal = equal(&expected, &serve(&mut guessing, &prompts, sampling));
            let (drafted, right) = (counters.drafted.get() - before.0, counters.accepted.get() - before.1);
            println!("{}, {how}, {way}: {right} of {drafted} guesses right", case.name);
            table.add(format!("{}, {how}", case.name), way, equal, ROWS);
        }
    }
    // What a tiny model draws is hardly ever guessed, so it is the sum that tells.
    let (drafted, right) = (counters.drafted.get(), counters.accepted.get());
    assert!(0 < right && right < drafted, "{}: guesses were made, right ones and wrong ones", case.name);
}

fn compare(case: &Case<'_>, table: &mut Table) {
    let (mut runner, vocabulary) = load(case, Guesses::none());
    let prompts = prompts(vocabulary, case.times);
    let greedy: &dyn Fn(usize) -> Sampling = &|_| Sampling::greedy();
    let drawn: &dyn Fn(usize) -> Sampling = &|row| Sampling {
        temperature: 0.9,
        top_p: if row % 2 == 0 { 0.95 } else { 1.0 },
        top_k: if row % 3 == 0 { 40 } else { 0 },
        repetition_penalty: 1.1,
        seed: row as u64,
        ..Sampling::greedy()
    };
    for choices in case.choices {
        let (how, sampling) = match choices {
            Choices::Greedy => ("greedy", greedy),
            Choices::Drawn => ("drawn", drawn),
        };
        let expected = one_by_one(&mut runner, &prompts, sampling, WHOLE);
        for (way, serve) in WAYS {
            let equal = equal(&expected, &serve(&mut runner, &prompts, sampling));
            table.add(format!("{}, {how}", case.name), way, equal, ROWS);
        }
    }
}

/// Makes a model one whose layers see few tokens, with heads that integers fit.
fn slide(config: &Path) {
    let text = std::fs::read_to_string(config).expect("it was written");
    let mut config_json: serde_json::Value = serde_json::from_str(&text).expect("it was written as JSON");
    config_json["model_type"] = "mistral".into();
    config_json["sliding_window"] = 40.into();
    for (key, size) in [("num_attention_heads", 2), ("num_key_value_heads", 1), ("head_dim", 32)] {
        config_json[key] = size.into();
    }
    std::fs::write(config, config_json.to_string()).expect("written");
}

#[test]
fn e6_every_way_of_serving_gives_the_tokens_of_the_plain_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = folder.path().join("tiny.gguf");
    std::fs::write(&tiny, models::tiny_gguf(1).0).expect("written");
    let mut table = Table::default();
    let (sliding, default) = (folder.path().join("sliding"), models::default_model());
    models::convert(&tiny, &sliding, models::Layout::F32);
    slide(&sliding.join("config.json"));
    let both = &[Choices::Greedy, Choices::Drawn][..];
    let case = |name, path, bits, times, choices| Case { name, path, bits, times, choices };
    for case in [
        case("tiny random", &tiny, None, 1, both),
        case("tiny sliding window", &sliding, None, 12, both),
        case("tiny sliding window, 4 KV bits", &sliding, Some(Bits::Four), 12, both),
        case("SmolLM2-135M-Instruct", &default, None, 1, both),
        // What is drawn has no other keys than what is likeliest.
        case("SmolLM2-135M, 8 KV bits", &default, Some(Bits::Eight), 1, &both[..1]),
    ] {
        compare(&case, &mut table);
        // With the default model once: what guesses add to integers the tiny ones show.
        if case.bits.is_none() || case.path != default {
            compare_guessing(&case, &mut table);
        }
    }
    println!("rows whose tokens are those of alone, in one chunk, from nothing\n{}", table.markdown());
    if device() == Device::Cpu {
        assert_eq!(table.different(), 0, "rows that differ");
        table.check_readme();
    }
}
