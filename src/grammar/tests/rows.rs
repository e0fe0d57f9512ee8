//! Rows on the worker: one at a time on one side, each failing alone.

use serde_json::json;

use super::{END, compiled, tokens_of, vocabulary};
use crate::grammar::{Compiled, Vocabulary, Wanted, Worker};
use crate::job::allows;

fn shared<T: Send + Sync>() {}

fn integer() -> Compiled {
    compiled(Wanted::JsonSchema(json!({"type": "integer"})))
}

#[test]
fn what_rows_have_in_common_is_shared_by_threads() {
    shared::<Compiled>();
    shared::<Vocabulary>();
    shared::<crate::grammar::Pool>();
    shared::<Worker>();
}

#[test]
fn a_token_that_is_not_allowed_fails_its_row_and_no_other() {
    let (worker, grammar) = (Worker::start().unwrap(), integer());
    let (mut bad, mut good) = (worker.constraint(&grammar), worker.constraint(&grammar));
    bad.accept(tokens_of("x")[0]);
    good.accept(tokens_of("1")[0]);
    let reason = bad.mask().expect_err("it failed");
    assert!(reason.contains("is not what the grammar allows"), "{reason}");
    bad.accept(tokens_of("1")[0]);
    assert!(bad.mask().is_err(), "it stays failed");
    assert!(allows(&good.mask().unwrap().unwrap(), END));
    for token in [2, 351, 352, u32::MAX] {
        let mut row = worker.constraint(&grammar);
        row.accept(token);
        assert!(row.mask().is_err(), "{token}");
    }
}

#[test]
fn behind_an_end_there_are_only_ends() {
    let (worker, grammar) = (Worker::start().unwrap(), integer());
    for end in [END, 1] {
        let mut row = worker.constraint(&grammar);
        row.accept(tokens_of("1")[0]);
        row.accept(end);
        assert_eq!(row.mask(), Ok(Some(vocabulary().ends().clone())));
        row.accept(end);
        assert_eq!(row.mask(), Ok(Some(vocabulary().ends().clone())));
    }
}

#[test]
fn tokens_may_be_taken_without_asking_in_between() {
    let (worker, grammar) = (Worker::start().unwrap(), integer());
    let mut row = worker.constraint(&grammar);
    for token in tokens_of("-12345") {
        row.accept(token);
    }
    assert!(allows(&row.mask().unwrap().unwrap(), END));
}

#[test]
fn equal_masks_in_a_row_are_the_same_one() {
    let (worker, grammar) = (Worker::start().unwrap(), compiled(Wanted::Regex("[a-z]+".to_owned())));
    let mut row = worker.constraint(&grammar);
    let mut next = || {
        row.accept(tokens_of("x")[0]);
        row.mask().unwrap().unwrap()
    };
    let (first, second) = (next(), next());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
}

#[test]
fn rows_of_one_grammar_do_not_disturb_each_other() {
    let worker = Worker::start().unwrap();
    let grammar = compiled(Wanted::Choice(vec!["abc".to_owned(), "xyz".to_owned()]));
    let mut rows = [(worker.constraint(&grammar), "abc"), (worker.constraint(&grammar), "xyz")];
    for at in 0..3 {
        for (row, text) in &mut rows {
            let token = tokens_of(&text[at..=at])[0];
            assert!(allows(&row.mask().unwrap().unwrap(), token));
            row.accept(token);
        }
    }
    for (row, _) in &mut rows {
        assert_eq!(row.mask(), Ok(Some(vocabulary().ends().clone())));
    }
}

#[test]
fn a_row_outlives_its_worker_as_a_failure() {
    let (worker, grammar) = (Worker::start().unwrap(), integer());
    let mut row = worker.constraint(&grammar);
    drop(worker);
    row.accept(tokens_of("1")[0]);
    assert_eq!(row.mask(), Err("the grammar's worker has no room or is gone".to_owned()));
}

#[test]
fn a_row_may_be_dropped_at_any_time() {
    let (worker, grammar) = (Worker::start().unwrap(), integer());
    drop(worker.constraint(&grammar));
    let mut away = worker.constraint(&grammar);
    away.accept(tokens_of("1")[0]);
    drop(away);
    let mut row = worker.constraint(&grammar);
    row.accept(tokens_of("1")[0]);
    assert!(row.mask().is_ok(), "the worker goes on");
}
