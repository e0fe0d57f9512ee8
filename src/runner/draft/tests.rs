//! Rows that guess beside rows that do not: the same answers, the same log probabilities and the same states left behind,
//! whatever part of a draft is right.

use std::sync::Arc;

use crate::cache::Coding;
use crate::engine::backend::{Ask, Backend, Decoded, RowId};
use crate::job::{Constraint, Mask, Sampling, Token};
use crate::model::registry::check;
use crate::model::testing::{CONTEXT, Shape, Tiny, VOCABULARY};
use crate::runner::{Gate, Guesses, MemoryLimit, Runner, RunnerSettings};
use crate::telemetry::metrics::DraftCounters;

/// Tokens of an answer.
const TOKENS: usize = 60;

/// Allows every token.
#[derive(Debug)]
struct Anything;

impl Constraint for Anything {
    fn accept(&mut self, _: u32) {}

    fn mask(&mut self) -> Result<Option<Mask>, String> {
        Ok(None)
    }
}

/// A runner whose rows guess whenever they can, so many tokens at most, and its counters.
fn guessing(tiny: &Tiny, tokens_max: u32) -> (Runner, DraftCounters) {
    let counters = DraftCounters::default();
    let guesses = Guesses { tokens_max, gate: Gate::Open, counters: counters.clone() };
    let settings = RunnerSettings {
        rows_max: 8,
        memory: MemoryLimit::Bytes(u64::MAX),
        prefix_bytes_max: 64 << 20,
        coding: Coding::Plain,
        guesses,
    };
    let plan = check(tiny).expect("a sound model");
    (Runner::load(tiny, &plan, settings, &|_| {}).expect("loads"), counters)
}

/// A runner whose rows do not guess.
fn plain(tiny: &Tiny) -> Runner {
    Runner { drafting: None, ..guessing(tiny, 1).0 }
}

fn counted(counters: &DraftCounters) -> (u64, u64) {
    (counters.drafted.get(), counters.accepted.get())
}

/// Repeats a part of itself, with a change here and there.
fn repetitive(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|at| if at % 41 == 40 { 95 } else { (at % 13 * 7 % 89) as u32 }).collect()
}

fn open(runner: &mut Runner, row: u64, scope: &str, ask: Ask<'_>) {
    let scope = Arc::from(scope);
    runner.open(RowId(row), Ask { bucket: Some(&scope), ..ask });
    runner.begin(RowId(row)).expect("memory");
    while runner.prefill(RowId(row), 16).expect("runs") > 0 {}
}

/// The tokens that one step gives a row.
fn tokens(decoded: Decoded) -> Vec<Token> {
    match decoded {
        Decoded::Tokens(tokens) => tokens,
        Decoded::Failed(why) => panic!("{why}"),
    }
}

/// The first tokens that a row alone answers, in a scope of its own.
fn alone(runner: &mut Runner, prompt: &[u32], sampling: &Sampling) -> Vec<Token> {
    let mut answer = Vec::new();
    open(runner, 1000, &format!("{prompt:?}{sampling:?}"), Ask::new(prompt, &Arc::from(""), sampling));
    while answer.len() < TOKENS {
        answer.extend(tokens(runner.decode(&[RowId(1000)]).expect("runs").remove(0)));
    }
    runner.close(RowId(1000));
    answer.truncate(TOKENS);
    answer
}

fn cool(seed: u64) -> Sampling {
    Sampling { temperature: 0.5, top_p: 0.95, seed, logprobs: Some(2), ..Sampling::greedy() }
}

#[test]
fn answers_and_their_log_probabilities_are_those_without_guesses() {
    let tiny = Tiny::new(Shape::PLAIN, 3);
    let mut plain = plain(&tiny);
    for tokens_max in [1, 2, 5, 9] {
        let (mut runner, counters) = guessing(&tiny, tokens_max);
        for sampling in [Sampling { logprobs: Some(3), ..Sampling::greedy() }, cool(7), cool(8)] {
            for length in [20, 100] {
                let prompt = repetitive(length);
                let expected = alone(&mut plain, &prompt, &sampling);
                assert_eq!(alone(&mut runner, &prompt, &sampling), expected, "{tokens_max} {sampling:?}");
            }
        }
        let (drafted, accepted) = counted(&counters);
        assert!(0 < accepted && accepted < drafted, "{accepted} of {drafted} were right");
    }
}

#[test]
fn rows_guess_beside_each_other_what_they_guess_alone() {
    let tiny = Tiny::new(Shape { tied: true, ..Shape::PLAIN }, 4);
    let (mut runner, counters) = guessing(&tiny, 4);
    let samplings: Vec<Sampling> = (0..6)
        .map(|row| match row {
            0 | 3 => Sampling::greedy(),
            // It cannot guess, because each of its tokens depends on those before it.
            4 => Sampling { frequency_penalty: 0.7, ..cool(4) },
            _ => cool(row),
        })
        .collect();
    let prompts: Vec<Vec<u32>> = (0..6).map(|row| repetitive(30 + 9 * row)).collect();
    let mut plain = plain(&tiny);
    let asked = || prompts.iter().zip(&samplings);
    let expected: Vec<_> = asked().map(|(prompt, sampling)| alone(&mut plain, prompt, sampling)).collect();
    for (row, (prompt, sampling)) in (0..).zip(asked()) {
        open(&mut runner, row, &row.to_string(), Ask::new(prompt, &Arc::from(""), sampling));
    }
    let mut seen = vec![Vec::new(); 6];
    let mut widths = Vec::new();
    for step in 0..TOKENS {
        // Some leave while their drafts are under way.
        let rows: Vec<u64> = (0..6).filter(|row| row % 2 == 0 || step < TOKENS / 3).collect();
        if step == TOKENS / 3 {
            [1, 3, 5].into_iter().for_each(|row| runner.close(RowId(row)));
        }
        let decoded = runner.decode(&rows.iter().copied().map(RowId).collect::<Vec<_>>()).expect("runs");
        for (row, decoded) in rows.into_iter().zip(decoded) {
            let tokens = tokens(decoded);
            widths.push((row, tokens.len()));
            seen[row as usize].extend(tokens);
        }
    }
    for (row, (mut seen, mut expected)) in seen.into_iter().zip(expected).enumerate() {
        let both = seen.len().min(expected.len());
        assert!(both >= TOKENS / 3);
        seen.truncate(both);
        expected.truncate(both);
        assert_eq!(seen, expected, "row {row}");
    }
    let (drafted, accepted) = counted(&counters);
    assert!(0 < accepted && accepted < drafted, "{accepted} of {drafted} were right");
    assert!(widths.iter().any(|(_, width)| *width > 1));
    assert!(widths.iter().all(|(row, width)| *row != 4 || *width == 1));
}

/// Invariant 7, looked at from outside: a row that is closed after any step leaves caches of exactly the tokens that the
/// index then finds, and a prompt that goes on from them gets the tokens of a cold start.
#[test]
fn a_row_that_ends_with_a_draft_under_way_or_checked_leaves_only_tokens_that_are_right() {
    let tiny = Tiny::new(Shape::PLAIN, 3);
    let mut runner = plain(&tiny);
    let (prompt, greedy) = (repetitive(50), Sampling::greedy());
    let whole: Vec<u32> = alone(&mut runner, &prompt, &greedy).iter().map(|token| token.id).collect();
    for (right, checked) in (0..=3).flat_map(|right| [(right, false), (right, true)]) {
        let scope: Arc<str> = Arc::from(format!("{right} {checked}"));
        open(&mut runner, 1, &scope, Ask::new(&prompt, &scope, &greedy));
        (0..4).for_each(|_| drop(runner.decode(&[RowId(1)]).expect("runs")));
        let mut draft = whole[4..7].to_vec();
        draft[right..].iter_mut().for_each(|token| *token = (*token + 1) % VOCABULARY as u32);
        redraft(&mut runner, draft);
        let mut said = [&prompt[..], &whole[..4]].concat();
        if checked {
            let step = tokens(runner.decode(&[RowId(1)]).expect("runs").remove(0));
            said.extend(step.iter().map(|token| token.id));
            assert_eq!(said[prompt.len()..], whole[..=4 + right], "what was right, and the token behind it");
        }
        runner.close(RowId(1));
        let (found, caches) = runner.known.kept.longest(&scope, &said).expect("it left something");
        assert!(caches.iter().all(|cache| cache.tokens() == found), "caches of what is found, and no more");
        assert!((said.len() - 1..=said.len()).contains(&found), "{found} of {}", said.len());
        said.extend([3, 1, 4]);
        let [warm, cold] = [&scope, &Arc::from(format!("{scope} cold"))].map(|scope| {
            open(&mut runner, 2, scope, Ask::new(&said, scope, &greedy));
            let answer: Vec<Decoded> = (0..8).flat_map(|_| runner.decode(&[RowId(2)]).expect("runs")).collect();
            runner.close(RowId(2));
            answer
        });
        assert_eq!(warm, cold, "{right} right, {checked}");
    }
}

/// Has row 1 check this draft in its next step.
fn redraft(runner: &mut Runner, draft: Vec<u32>) {
    let row = runner.rows.get_mut(&RowId(1)).expect("open");
    crate::runner::batch::redraft(runner.model.as_ref(), row, draft).expect("builds");
}

#[test]
fn nothing_is_drafted_beyond_what_is_wanted_or_the_context() {
    let tiny = Tiny::new(Shape::PLAIN, 3);
    for tokens_max in 1..12 {
        let (mut runner, _) = guessing(&tiny, 8);
        let prompt = repetitive(60);
        open(&mut runner, 1, "", Ask { tokens_max, ..Ask::new(&prompt, &Arc::from(""), &Sampling::greedy()) });
        let mut answered = 0;
        while answered < tokens_max as usize {
            answered += tokens(runner.decode(&[RowId(1)]).expect("runs").remove(0)).len();
            let held = runner.rows[&RowId(1)].caches[0].tokens();
            assert!(answered <= tokens_max as usize && held <= prompt.len() + tokens_max as usize);
        }
    }
    let (mut runner, counters) = guessing(&tiny, 8);
    open(&mut runner, 1, "", Ask::new(&repetitive(CONTEXT as usize - 9), &Arc::from(""), &Sampling::greedy()));
    let mut answered = 0;
    while answered < 9 {
        answered += tokens(runner.decode(&[RowId(1)]).expect("runs").remove(0)).len();
    }
    assert_eq!(answered, 9, "prompt and answer fill the context, and no more");
    assert!(counted(&counters).0 > 0);
}

#[test]
fn e5_a_row_that_drafts_fails_at_the_token_at_which_it_fails_alone() {
    let mut tiny = Tiny::new(Shape::PLAIN, 3);
    let (prompt, greedy) = (repetitive(30), Sampling::greedy());
    let whole: Vec<u32> = alone(&mut plain(&tiny), &prompt, &greedy).iter().map(|token| token.id).collect();
    let is_new = |at: &usize| !prompt.contains(&whole[*at]) && !whole[..*at].contains(&whole[*at]);
    let last = (2..TOKENS).find(is_new).expect("it says something new");
    // Whatever sees this token computes NaN.
    tiny.poison(whole[last] as usize);
    let mut runner = plain(&tiny);
    open(&mut runner, 1, "", Ask::new(&prompt, &Arc::from(""), &greedy));
    (0..last - 1).for_each(|_| drop(runner.decode(&[RowId(1)]).expect("runs")));
    redraft(&mut runner, whole[last - 1..last + 2].to_vec());
    let step = tokens(runner.decode(&[RowId(1)]).expect("runs").remove(0));
    assert_eq!(step.iter().map(|token| token.id).collect::<Vec<_>>(), whole[last - 1..=last], "none behind NaN");
    let [Decoded::Failed(why)] = &runner.decode(&[RowId(1)]).expect("runs")[..] else { panic!("it fails now") };
    assert!(why.contains("not finite"), "{why}");
    runner.close(RowId(1));
}

#[test]
fn an_answer_too_short_to_end_guesses_under_the_masks_of_each_position() {
    let tiny = Tiny::new(Shape::PLAIN, 3);
    let (mut runner, counters) = guessing(&tiny, 7);
    let mut plain = plain(&tiny);
    let prompt = repetitive(60);
    let free = alone(&mut plain, &prompt, &Sampling::greedy());
    for tokens_min in [1, 5, 11, 12, 13, 30] {
        // Tokens that it would say, barred for a while.
        let ends = vec![free[2].id, free[20].id];
        let sampling = Sampling { tokens_min, ends, ..Sampling::greedy() };
        let expected = alone(&mut plain, &prompt, &sampling);
        assert_eq!(alone(&mut runner, &prompt, &sampling), expected, "at least {tokens_min} tokens");
    }
    assert!(counted(&counters).1 > 0);
}

#[test]
fn a_row_under_a_constraint_makes_no_guesses() {
    let (mut runner, counters) = guessing(&Tiny::new(Shape::PLAIN, 3), 4);
    let prompt = vec![7; VOCABULARY];
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(Anything));
    open(&mut runner, 1, "", Ask { constraint, ..Ask::new(&prompt, &Arc::from(""), &Sampling::greedy()) });
    for _ in 0..20 {
        assert_eq!(tokens(runner.decode(&[RowId(1)]).expect("runs").remove(0)).len(), 1);
    }
    assert_eq!(counted(&counters), (0, 0));
}
