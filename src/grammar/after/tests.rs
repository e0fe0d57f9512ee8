//! Thinking and what follows it, with an answer that is a script.

use super::*;
use crate::grammar::tests::{END, TokenText, byte_token, tokens_of, vocabulary};

const MARKER: &str = "</think>";

/// Allows one text, token by token, and then the end; notes what it is given.
#[derive(Debug)]
struct Script {
    left: Vec<u32>,
}

impl Constraint for Script {
    fn accept(&mut self, token: u32) {
        assert_eq!(self.left.first(), Some(&token), "only what was allowed arrives");
        self.left.remove(0);
    }

    fn mask(&mut self) -> Result<Option<Mask>, String> {
        let next = self.left.first().copied().unwrap_or(END);
        Ok(Some(vocabulary().mask_of(std::iter::once(next))))
    }
}

/// A text in tokens of one byte.
fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(byte_token).collect()
}

fn answer(text: &str) -> Box<dyn Constraint> {
    Box::new(Script { left: tokens_of(text) })
}

fn marker() -> Arc<Marker> {
    Arc::new(Marker::new(vocabulary(), MARKER))
}

fn budget(tokens: u32) -> ThinkingBudget {
    ThinkingBudget::new(vocabulary(), tokens, &tokens_of("\n</think>"))
}

fn thinking(budget: Option<ThinkingBudget>, inner: Option<Box<dyn Constraint>>) -> After {
    After::new(marker(), Beginning::Thinking, budget, inner)
}

/// Takes tokens as long as they are allowed; the text of the ones that are left.
fn feed(row: &mut After, tokens: &[u32]) -> String {
    for (index, &token) in tokens.iter().enumerate() {
        let mask = row.mask().expect("the row goes on");
        if mask.is_some_and(|mask| !allows(&mask, token)) {
            return tokens[index..].iter().map(TokenText::text).collect();
        }
        row.accept(token);
    }
    String::new()
}

/// What the mask allows, as texts; `None` when everything.
fn allowed(row: &mut After) -> Option<Vec<String>> {
    let mask = row.mask().expect("the row goes on")?;
    Some((0..vocabulary().width()).filter(|&token| allows(&mask, token)).map(|token| token.text()).collect())
}

#[test]
fn an_answer_is_restricted_behind_the_marker_wherever_it_is_cut() {
    for cut in [tokens_of, bytes_of] {
        for thought in ["hm", "", "a < b </ </th", "\u{e9}\n"] {
            for gap in ["", "\n\n", " \n", "        "] {
                let text = format!("{thought}{MARKER}{gap}{{\"a");
                let mut row = thinking(None, Some(Box::new(Script { left: cut("{\"a") })));
                assert_eq!(feed(&mut row, &cut(&text)), "", "{text:?}");
                assert_eq!(allowed(&mut row), Some(vec!["<|end|>".to_owned()]), "{text:?}");
            }
        }
    }
}

#[test]
fn thinking_may_hold_anything_but_an_end() {
    let mut row = thinking(None, Some(answer("x")));
    let free = allowed(&mut row).expect("a mask");
    assert!(!free.contains(&"<|end|>".to_owned()) && !free.contains(&"<|stop|>".to_owned()));
    assert!(free.contains(&"<|tool|>".to_owned()), "control tokens are free while it thinks");
    row.accept(END);
    assert!(row.mask().is_err(), "an answer is due");
}

#[test]
fn white_space_before_the_answer_has_a_bound() {
    let mut row = thinking(None, Some(answer("x")));
    let text = format!("{MARKER}{}x", " ".repeat(GAP_BYTES_MAX + 1));
    assert_eq!(feed(&mut row, &bytes_of(&text)), " x", "the ninth space is not allowed");
    assert_eq!(allowed(&mut row), Some(vec!["x".to_owned()]));
}

#[test]
fn white_space_that_the_answer_wants_belongs_to_it() {
    let mut row = thinking(None, Some(answer("\n\nx")));
    assert_eq!(feed(&mut row, &[tokens_of(MARKER), tokens_of("\n\nx")].concat()), "");
    assert_eq!(allowed(&mut row), Some(vec!["<|end|>".to_owned()]));
}

#[test]
fn a_spent_budget_closes_the_thinking_token_by_token() {
    let mut row = thinking(Some(budget(3)), Some(answer("x")));
    assert_eq!(feed(&mut row, &tokens_of("abc")), "");
    for &token in &tokens_of("\n</think>") {
        assert_eq!(allowed(&mut row), Some(vec![token.text()]));
        row.accept(token);
    }
    assert_eq!(feed(&mut row, &tokens_of("\n\nx")), "");
    assert_eq!(allowed(&mut row), Some(vec!["<|end|>".to_owned()]));
}

#[test]
fn no_budget_at_all_closes_at_once() {
    let mut row = thinking(Some(budget(0)), None);
    assert_eq!(allowed(&mut row), Some(vec!["\n".to_owned()]));
    assert_eq!(feed(&mut row, &tokens_of("\n</think>")), "");
    assert_eq!(allowed(&mut row), None, "a free answer");
}

#[test]
fn a_model_that_may_think_or_not_says_so_with_its_first_token() {
    let open = tokens_of("<")[0];
    let either = |budget, inner| After::new(marker(), Beginning::Either(open), budget, inner);
    let mut answers = either(None, Some(answer("x")));
    assert_eq!(allowed(&mut answers), Some(vec!["<".to_owned(), "x".to_owned()]));
    assert_eq!(feed(&mut answers, &tokens_of("x")), "");
    assert_eq!(allowed(&mut answers), Some(vec!["<|end|>".to_owned()]), "it did not think");
    let mut thinks = either(None, Some(answer("x")));
    assert_eq!(feed(&mut thinks, &[vec![open], tokens_of("hm</think>x")].concat()), "");
    assert_eq!(allowed(&mut thinks), Some(vec!["<|end|>".to_owned()]));
    let mut cut_short = either(Some(budget(1)), None);
    assert_eq!(feed(&mut cut_short, &[open, tokens_of("a")[0]]), "");
    assert_eq!(allowed(&mut cut_short), Some(vec!["\n".to_owned()]), "the budget counts thoughts only");
    let mut free = either(Some(budget(0)), None);
    assert_eq!(allowed(&mut free), None);
    assert_eq!(feed(&mut free, &tokens_of("abc")), "");
    assert_eq!(allowed(&mut free), None, "an answer spends no budget");
}

#[test]
fn thinking_that_ends_by_itself_is_not_closed_again() {
    let mut row = thinking(Some(budget(100)), None);
    assert_eq!(allowed(&mut row), None, "nothing is due behind it");
    assert_eq!(feed(&mut row, &tokens_of("hm</think>{")), "");
    assert_eq!(feed(&mut row, &[END; 200]), "");
}

#[test]
fn a_token_that_is_not_allowed_fails_the_row_and_stays_failed() {
    let mut forced = thinking(Some(budget(0)), None);
    forced.accept(END);
    assert_eq!(forced.mask(), Err("token 0 is not allowed here".to_owned()));
    let mut gap = thinking(None, Some(answer("x")));
    assert_eq!(feed(&mut gap, &tokens_of(MARKER)), "");
    gap.accept(tokens_of("y")[0]);
    gap.accept(tokens_of("x")[0]);
    assert!(gap.mask().is_err());
}
