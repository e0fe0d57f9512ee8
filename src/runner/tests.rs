//! The runner behind its trait, with tiny random models: what a row answers depends on that row alone.

use std::sync::Arc;

use crate::cache::{Bits, Coding, KvCache};
use crate::engine::backend::{Ask, Backend, Decoded, RowId};
use crate::job::Sampling;
use crate::model::registry::check;
use crate::model::testing::{CONTEXT, Shape, Tiny, VOCABULARY};
use crate::runner::{Guesses, MemoryLimit, Progress, Runner, RunnerSettings, warmup};
use crate::telemetry::misses::{MissReason, Misses};

const PROMPT: [u32; 9] = [5, 17, 3, 88, 42, 9, 61, 0, 95];

/// Settings for few rows and all the memory there is.
fn settings() -> RunnerSettings {
    RunnerSettings {
        rows_max: 8,
        memory: MemoryLimit::Bytes(u64::MAX),
        prefix_bytes_max: 0,
        coding: Coding::Plain,
        guesses: Guesses::none(),
    }
}

fn runner(tiny: &Tiny) -> Runner {
    with_settings(tiny, settings())
}

fn with_settings(tiny: &Tiny, settings: RunnerSettings) -> Runner {
    let plan = check(tiny).expect("a sound model");
    Runner::load(tiny, &plan, settings, &|_| {}).expect("loads")
}

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 0.9, top_p: 0.95, top_k: 40, repetition_penalty: 1.1, seed, ..Sampling::greedy() }
}

fn open(runner: &mut Runner, row: u64, prompt: &[u32], sampling: &Sampling, chunk: u32) {
    runner.open(RowId(row), Ask::new(prompt, &Arc::from(""), sampling));
    runner.begin(RowId(row)).expect("memory");
    while runner.prefill(RowId(row), chunk).expect("runs") > 0 {}
}

fn step(runner: &mut Runner, rows: &[u64]) -> Vec<Decoded> {
    let rows: Vec<RowId> = rows.iter().copied().map(RowId).collect();
    runner.decode(&rows).expect("runs")
}

/// What a row alone answers.
fn alone(runner: &mut Runner, prompt: &[u32], sampling: &Sampling, tokens: usize) -> Vec<Decoded> {
    open(runner, 1000, prompt, sampling, 64);
    let answer = (0..tokens).flat_map(|_| step(runner, &[1000])).collect();
    runner.close(RowId(1000));
    answer
}

#[test]
fn a_start_tells_of_each_tensor_and_of_the_warm_up_and_sizes_a_chunk() {
    let tiny = Tiny::new(Shape::PLAIN, 1);
    let plan = check(&tiny).expect("a sound model");
    let told = std::cell::RefCell::new((Vec::new(), 0));
    let hear = |progress: Progress<'_>| match progress {
        Progress::Tensor { name, of } => {
            assert_eq!(of, tiny.tensors.len());
            told.borrow_mut().0.push(name.to_owned());
        }
        Progress::WarmUp => told.borrow_mut().1 += 1,
    };
    let runner = Runner::load(&tiny, &plan, RunnerSettings { rows_max: 3, ..settings() }, &hear).expect("loads");
    let (mut names, warm_ups) = told.into_inner();
    names.sort();
    assert_eq!(names, tiny.tensors.keys().cloned().collect::<Vec<_>>());
    assert!(warm_ups >= 2);
    let capacity = runner.capacity();
    assert_eq!((capacity.context_tokens, capacity.logit_width, capacity.rows_max), (CONTEXT, VOCABULARY as u32, 3));
    assert!((12..=2048).contains(&capacity.prefill_chunk_tokens));
}

#[test]
fn a_prompt_in_chunks_gives_the_same_tokens_as_a_whole_one() {
    let mut runner = runner(&Tiny::new(Shape::PLAIN, 1));
    let whole = alone(&mut runner, &PROMPT, &Sampling::greedy(), 24);
    for chunk in [1, 2, 4, 8] {
        open(&mut runner, 1, &PROMPT, &Sampling::greedy(), chunk);
        let chunked: Vec<Decoded> = (0..24).flat_map(|_| step(&mut runner, &[1])).collect();
        runner.close(RowId(1));
        assert_eq!(chunked, whole, "chunks of {chunk}");
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_whatever_else_runs() {
    let mut runner = runner(&Tiny::new(Shape { tied: true, ..Shape::PLAIN }, 4));
    let expected = alone(&mut runner, &PROMPT, &warm(7), 30);
    assert_eq!(alone(&mut runner, &PROMPT, &warm(7), 30), expected);
    assert_ne!(alone(&mut runner, &PROMPT, &warm(8), 30), expected);

    open(&mut runner, 1, &PROMPT[..4], &warm(99), 3);
    open(&mut runner, 2, &PROMPT, &warm(7), 4);
    open(&mut runner, 3, &PROMPT, &Sampling::greedy(), 5);
    let shared: Vec<Decoded> = (0..30).map(|_| step(&mut runner, &[3, 2, 1]).remove(1)).collect();
    assert_eq!(shared, expected);
}

#[test]
fn rows_that_leave_at_any_moment_change_nothing_for_those_that_stay() {
    let mut runner = runner(&Tiny::new(Shape::PLAIN, 9));
    let expected = alone(&mut runner, &PROMPT, &Sampling::greedy(), 20);
    open(&mut runner, 1, &PROMPT, &Sampling::greedy(), 4);
    let mut seen = Vec::new();
    for at in 0..20 {
        // One neighbour is closed before its prompt is complete, one right after, one in the middle of its answer.
        runner.open(RowId(100 + at), Ask::new(&PROMPT, &Arc::from(""), &warm(at)));
        runner.begin(RowId(100 + at)).expect("memory");
        runner.prefill(RowId(100 + at), 3).expect("runs");
        open(&mut runner, 200 + at, &PROMPT[..5], &warm(at), 8);
        open(&mut runner, 300 + at, &PROMPT[..6], &warm(at), 8);
        seen.push(step(&mut runner, &[300 + at, 1]).remove(1));
        [100, 200, 300].into_iter().for_each(|from| runner.close(RowId(from + at)));
    }
    assert_eq!(seen, expected);
    runner.close(RowId(1));
    runner.idle();
}

#[test]
fn e5_a_row_with_nan_logits_fails_alone_and_its_neighbours_are_token_identical() {
    let mut tiny = Tiny::new(Shape::PLAIN, 6);
    tiny.poison(77);
    let mut runner = runner(&tiny);
    let (greedy, drawn) = (Sampling::greedy(), warm(3));
    // Nothing draws the poisoned token, because nobody is allowed to.
    let barred = |sampling: &Sampling| Sampling { logit_bias: vec![(77, -1e6)], ..sampling.clone() };
    let expected = [barred(&greedy), barred(&drawn)].map(|sampling| alone(&mut runner, &PROMPT, &sampling, 12));

    open(&mut runner, 1, &PROMPT, &barred(&greedy), 64);
    open(&mut runner, 2, &[5, 77, 3], &greedy, 64);
    open(&mut runner, 3, &PROMPT, &barred(&drawn), 64);
    open(&mut runner, 4, &[77], &drawn, 64);
    let first = step(&mut runner, &[1, 2, 3, 4]);
    assert!(matches!(&first[1], Decoded::Failed(why) if why.contains("not finite")), "{first:?}");
    assert!(matches!(first[3], Decoded::Failed(_)), "{first:?}");
    runner.close(RowId(2));
    runner.close(RowId(4));
    let mut seen = [vec![first[0].clone()], vec![first[2].clone()]];
    for _ in 1..12 {
        let tokens = step(&mut runner, &[1, 3]);
        seen.iter_mut().zip(tokens).for_each(|(seen, token)| seen.push(token));
    }
    assert_eq!(seen, expected);
    assert!(seen.iter().flatten().all(|decoded| matches!(decoded, Decoded::Tokens(_))));
    println!("E5, 1 trials run, 1 trials promised");
}

#[test]
fn an_answer_may_fill_the_context() {
    let mut runner = runner(&Tiny::new(Shape { heads: 2, kv_heads: 1, ..Shape::PLAIN }, 2));
    let prompt: Vec<u32> = (0..CONTEXT - 3).map(|i| i % VOCABULARY as u32).collect();
    let answer = alone(&mut runner, &prompt, &Sampling::greedy(), 3);
    assert!(answer.iter().all(|decoded| matches!(decoded, Decoded::Tokens(_))), "{answer:?}");
}

/// A runner that keeps what rows leave.
fn keeping(tiny: &Tiny) -> Runner {
    with_settings(tiny, RunnerSettings { prefix_bytes_max: 64 << 20, ..settings() })
}

/// The tokens that a row of this scope answers, and how many of its prompt's were known.
fn answer(runner: &mut Runner, scope: &str, prompt: &[u32], sampling: &Sampling) -> (Vec<Decoded>, u32) {
    runner.open(RowId(500), Ask::new(prompt, &Arc::from(scope), sampling));
    let cached = runner.begin(RowId(500)).expect("memory");
    while runner.prefill(RowId(500), 7).expect("runs") > 0 {}
    let tokens = (0..20).flat_map(|_| step(runner, &[500])).collect();
    runner.close(RowId(500));
    (tokens, cached)
}

fn long_prompt(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|at| (at * at % 89) as u32).collect()
}

#[test]
fn e6_a_prompt_that_begins_like_an_earlier_one_gives_the_tokens_of_a_cold_start() {
    let tiny = Tiny::new(Shape::PLAIN, 5);
    let (mut cold, mut warm_runner) = (runner(&tiny), keeping(&tiny));
    let first = long_prompt(90);
    let mut second = first.clone();
    second.truncate(60);
    second.extend([3, 1, 4, 1, 5]);
    for sampling in [Sampling::greedy(), warm(3)] {
        for prompt in [&first, &second, &first] {
            let (expected, none) = answer(&mut cold, "", prompt, &sampling);
            let (found, _) = answer(&mut warm_runner, "", prompt, &sampling);
            assert_eq!((none, &found), (0, &expected));
        }
    }
    let (_, cached) = answer(&mut warm_runner, "", &second, &Sampling::greedy());
    assert_eq!(cached as usize, second.len() - 2, "at least two tokens are evaluated");
}

#[test]
fn what_a_cancelled_row_has_evaluated_is_used_again() {
    let mut runner = keeping(&Tiny::new(Shape::PLAIN, 6));
    let prompt = long_prompt(80);
    runner.open(RowId(1), Ask::new(&prompt, &Arc::from("a"), &Sampling::greedy()));
    runner.begin(RowId(1)).expect("memory");
    assert_eq!(runner.prefill(RowId(1), 40), Ok(40));
    runner.close(RowId(1));
    let (_, cached) = answer(&mut runner, "a", &prompt, &Sampling::greedy());
    assert_eq!(cached, 40);
    let cold = alone(&mut self::runner(&Tiny::new(Shape::PLAIN, 6)), &prompt, &Sampling::greedy(), 20);
    assert_eq!(answer(&mut runner, "a", &prompt, &Sampling::greedy()).0, cold);
}

#[test]
fn e11_what_was_computed_for_one_scope_is_not_used_for_another() {
    let mut runner = keeping(&Tiny::new(Shape::PLAIN, 6));
    let prompt = long_prompt(80);
    let (first, cold) = answer(&mut runner, "tls:alice", &prompt, &Sampling::greedy());
    let (second, other) = answer(&mut runner, "tls:bob", &prompt, &Sampling::greedy());
    let (third, own) = answer(&mut runner, "tls:alice", &prompt, &Sampling::greedy());
    assert_eq!((cold, other, own), (0, 0, 78));
    assert!(first == second && second == third);
}

#[test]
fn rows_that_end_beside_others_leave_what_a_later_prompt_can_use() {
    let tiny = Tiny::new(Shape::PLAIN, 8);
    let (mut together, mut cold) = (keeping(&tiny), runner(&tiny));
    let prompts: Vec<Vec<u32>> = (0..4).map(|at| long_prompt(30 + 7 * at).into_iter().rev().collect()).collect();
    for (row, prompt) in prompts.iter().enumerate() {
        open(&mut together, row as u64, prompt, &Sampling::greedy(), 16);
    }
    let mut rows: Vec<u64> = (0..4).collect();
    while let Some(row) = rows.pop() {
        let mut stepping = rows.clone();
        stepping.push(row);
        step(&mut together, &stepping);
        together.close(RowId(row));
    }
    for prompt in &prompts {
        let (found, cached) = answer(&mut together, "", prompt, &Sampling::greedy());
        assert_eq!(cached as usize, prompt.len() - 2);
        assert_eq!(found, answer(&mut cold, "", prompt, &Sampling::greedy()).0);
    }
}

#[test]
fn rows_with_the_same_prompt_share_its_prefill_while_both_are_open() {
    let tiny = Tiny::new(Shape::PLAIN, 6);
    let mut runner = runner(&tiny);
    let prompt = long_prompt(70);
    let expected = [warm(1), warm(2)].map(|sampling| alone(&mut runner, &prompt, &sampling, 20));
    open(&mut runner, 1, &prompt, &warm(1), 16);
    let mut seen = [vec![step(&mut runner, &[1]).remove(0)], Vec::new()];
    runner.open(RowId(2), Ask::new(&prompt, &Arc::from(""), &warm(2)));
    assert_eq!(runner.begin(RowId(2)), Ok(68), "all but the two tokens that every row evaluates");
    assert_eq!(runner.prefill(RowId(2), 16), Ok(0));
    for _ in 0..20 {
        let tokens = step(&mut runner, &[1, 2]);
        seen.iter_mut().zip(tokens).for_each(|(seen, token)| seen.push(token));
    }
    seen[0].truncate(20);
    assert_eq!(seen, expected);
    runner.open(RowId(3), Ask::new(&prompt, &Arc::from("another"), &warm(2)));
    assert_eq!(runner.begin(RowId(3)), Ok(0), "another scope shares nothing");
}

/// A context that windows of some tokens are short in.
const LONG_CONTEXT: u32 = 4_096;

/// Heads that integers fit, and layers that see so many tokens.
fn sliding(window: usize) -> Tiny {
    let mut tiny = Tiny::new(Shape { heads: 2, kv_heads: 1, ..Shape::PLAIN }, 6);
    tiny.config["model_type"] = "mistral".into();
    tiny.config["sliding_window"] = window.into();
    tiny.config["max_position_embeddings"] = LONG_CONTEXT.into();
    tiny
}

fn codings() -> [Coding; 3] {
    let affine = |bits| Coding::affine(bits, 32).expect("it fits");
    [Coding::Plain, affine(Bits::Eight), affine(Bits::Four)]
}

#[test]
fn m1_a_row_never_takes_more_memory_than_it_was_admitted_with() {
    const TOKENS: u32 = 1_900;
    for (window, coding) in [(20, codings()[0]), (20, codings()[1]), (300, codings()[0]), (LONG_CONTEXT, codings()[2])]
    {
        let window = window as usize;
        let mut runner = with_settings(&sliding(window), RunnerSettings { coding, ..settings() });
        runner.capacity.prefill_chunk_tokens = 12;
        runner.capacity.memory.window_tokens = warmup::window_tokens(runner.model.as_ref(), 12);
        let memory = runner.capacity.memory;
        runner.open(RowId(1), Ask::new(&long_prompt(40), &Arc::from(""), &Sampling::greedy()));
        runner.begin(RowId(1)).expect("memory");
        while runner.prefill(RowId(1), 12).expect("runs") > 0 {}
        let bytes = |runner: &Runner| runner.rows[&RowId(1)].caches.iter().map(KvCache::bytes).sum::<u64>();
        for tokens in 41..TOKENS {
            step(&mut runner, &[1]);
            let (bytes, admitted) = (bytes(&runner), memory.row_bytes(tokens));
            assert!(bytes <= admitted, "{bytes} of {admitted} for {tokens} tokens");
        }
        // What it was admitted with is not far from what it takes, and a window spares the rest.
        assert!(4 * bytes(&runner) >= memory.row_bytes(TOKENS));
        let spares = memory.row_bytes(LONG_CONTEXT) < u64::from(LONG_CONTEXT) * memory.token_bytes;
        assert_eq!(spares, window < LONG_CONTEXT as usize);
    }
}

#[test]
fn e6_what_rows_of_every_form_leave_gives_a_later_prompt_the_tokens_of_a_cold_one() {
    for (window, coding) in [30, 600].into_iter().flat_map(|window| codings().map(|coding| (window, coding))) {
        let tiny = sliding(window);
        let mut warm_runner = with_settings(&tiny, RunnerSettings { coding, prefix_bytes_max: 64 << 20, ..settings() });
        let mut cold = with_settings(&tiny, RunnerSettings { coding, ..settings() });
        let first = long_prompt(1_300);
        // The next turn: the prompt, an answer that was told otherwise, and more.
        let mut second = first.clone();
        second.extend(long_prompt(30));
        for (prompt, known) in [(&first, 0), (&second, first.len()), (&first, first.len() - 2)] {
            let (expected, _) = answer(&mut cold, "", prompt, &Sampling::greedy());
            let (found, cached) = answer(&mut warm_runner, "", prompt, &Sampling::greedy());
            assert_eq!((found, cached as usize), (expected, known), "{coding:?}, window {window}");
        }
    }
}

#[test]
fn what_a_window_has_left_behind_is_not_used_and_the_miss_says_so() {
    let mut runner = with_settings(&sliding(20), RunnerSettings { prefix_bytes_max: 64 << 20, ..settings() });
    let misses = Misses::default();
    runner = runner.counting(misses.clone());
    let first = long_prompt(1_300);
    let mut second = first[..100].to_vec();
    second.extend(long_prompt(60));
    assert_eq!(answer(&mut runner, "", &first, &Sampling::greedy()).1, 0);
    assert_eq!(misses.last(), Some((MissReason::Cold, 0)));
    let (found, cached) = answer(&mut runner, "", &second, &Sampling::greedy());
    assert_eq!((cached, misses.last()), (0, Some((MissReason::Uncuttable, 100))));
    assert_eq!(found, answer(&mut self::runner(&sliding(20)), "", &second, &Sampling::greedy()).0);
    assert_eq!(answer(&mut runner, "", &second, &Sampling::greedy()).1, 158);
    assert_eq!(misses.counts().map(|(_, count)| count).sum::<u64>(), 2);
}

#[test]
fn e5_integers_do_not_hide_that_a_row_is_not_finite() {
    for coding in codings() {
        let mut tiny = sliding(9);
        tiny.poison(77);
        let mut runner = with_settings(&tiny, RunnerSettings { coding, ..settings() });
        open(&mut runner, 1, &[5, 77, 3], &Sampling::greedy(), 64);
        let decoded = step(&mut runner, &[1]);
        assert!(matches!(&decoded[0], Decoded::Failed(why) if why.contains("not finite")), "{coding:?}: {decoded:?}");
    }
}
