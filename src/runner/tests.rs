//! The runner behind its trait, with tiny random models: what a row answers depends on that row alone.

use crate::engine::backend::{Backend, Decoded, RowId};
use crate::job::Sampling;
use crate::model::registry::check;
use crate::model::testing::{CONTEXT, Shape, Tiny, VOCABULARY};
use crate::runner::{Progress, Runner, RunnerSettings};

const PROMPT: [u32; 9] = [5, 17, 3, 88, 42, 9, 61, 0, 95];

fn runner(tiny: &Tiny) -> Runner {
    let plan = check(tiny).expect("a sound model");
    Runner::load(tiny, &plan, RunnerSettings { rows_max: 8 }, &|_| {}).expect("loads")
}

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 0.9, top_p: 0.95, top_k: 40, repetition_penalty: 1.1, seed, ..Sampling::greedy() }
}

fn open(runner: &mut Runner, row: u64, prompt: &[u32], sampling: &Sampling, chunk: u32) {
    runner.open(RowId(row), prompt, sampling);
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
    let runner = Runner::load(&tiny, &plan, RunnerSettings { rows_max: 3 }, &hear).expect("loads");
    let (mut names, warm_ups) = told.into_inner();
    names.sort();
    assert_eq!(names, tiny.tensors.keys().cloned().collect::<Vec<_>>());
    assert!(warm_ups >= 2);
    let capacity = runner.capacity();
    assert_eq!((capacity.context_tokens, capacity.logit_width, capacity.rows_max), (CONTEXT, VOCABULARY as u32, 3));
    assert!((16..=2048).contains(&capacity.prefill_chunk_tokens));
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
        runner.open(RowId(100 + at), &PROMPT, &warm(at));
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
    assert!(seen.iter().flatten().all(|decoded| matches!(decoded, Decoded::Token(_))));
    println!("E5, 1 trials run, 1 trials promised");
}

#[test]
fn an_answer_may_fill_the_context() {
    let mut runner = runner(&Tiny::new(Shape { heads: 2, kv_heads: 1, ..Shape::PLAIN }, 2));
    let prompt: Vec<u32> = (0..CONTEXT - 3).map(|i| i % VOCABULARY as u32).collect();
    let answer = alone(&mut runner, &prompt, &Sampling::greedy(), 3);
    assert!(answer.iter().all(|decoded| matches!(decoded, Decoded::Token(_))), "{answer:?}");
}
