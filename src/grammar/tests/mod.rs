//! What grammars are tested with: a small vocabulary with every oddity of real ones, texts cut into its tokens, and rows
//! that walk at random. A walk prints its seed.

#![allow(clippy::unwrap_used)]

mod documents;
mod judge;
mod rows;
mod texts;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::grammar::{Budget, Compiled, GrammarError, Pool, Vocabulary, Wanted, Worker, compile};
use crate::job::allows;

/// The first of two tokens that end an answer.
pub(crate) const END: u32 = 0;
/// Control tokens: two ends, and one that is none.
const CONTROL: [&str; 3] = ["<|end|>", "<|stop|>", "<|tool|>"];
/// Tokens of several bytes, besides one for each byte: pieces of JSON, words, halves of characters, white space.
const MERGED: [&[u8]; 44] = [
    b"{\"",
    b"\":",
    b"\": \"",
    b"\", \"",
    b"\"}",
    b"\"]",
    b"\"}}",
    b" \"",
    b"\",",
    b"{}",
    b"[]",
    b"[{",
    b"}]",
    b"},",
    b"true",
    b"false",
    b"null",
    b"name",
    b"kind",
    b" the",
    b"value",
    b"12",
    b"123",
    b"0.",
    b"e+",
    b"-1",
    b"\n",
    b"\n\n",
    b"\n  ",
    b"\n    ",
    b"  ",
    b"    ",
    b"\t",
    "\u{e9}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"\xf0\x9f",
    b"\x98\x80",
    b"\xc3",
    b"\\\"",
    b"\\u00",
    b"\\n",
    b"</",
    b"think",
    b">\n",
];
/// How many logits there are: more than tokens.
const WIDTH: u32 = 352;

/// Longer than any test runs, so that no test is about time.
const PLENTY: Budget = Budget { wall: Duration::from_mins(10), ..Budget::REQUEST };

/// Most tokens of a walk before it looks for the end, and after that.
const STEPS_FREE: u32 = 60;
const STEPS_MAX: u32 = 4_000;

fn all_tokens() -> Vec<Vec<u8>> {
    let control = CONTROL.iter().map(|text| text.as_bytes().to_vec());
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    control.chain(bytes).chain(MERGED.iter().map(|bytes| bytes.to_vec())).collect()
}

/// The token of one byte.
pub(crate) fn byte_token(byte: u8) -> u32 {
    CONTROL.len() as u32 + u32::from(byte)
}

/// The vocabulary.
pub(crate) fn vocabulary() -> &'static Arc<Vocabulary> {
    static VOCABULARY: LazyLock<Arc<Vocabulary>> = LazyLock::new(|| {
        let tokens = all_tokens();
        let is_control = |id| id < CONTROL.len() as u32;
        let made = Vocabulary::new(WIDTH, |id| tokens.get(id as usize).cloned(), is_control, &[END, 1]);
        Arc::new(made.unwrap())
    });
    &VOCABULARY
}

/// A text in the longest tokens it can be cut into, from its beginning.
pub(crate) fn tokens_of(text: &str) -> Vec<u32> {
    let tokens = all_tokens();
    let mut rest = text.as_bytes();
    let mut cut = Vec::new();
    while !rest.is_empty() {
        let fits = (CONTROL.len()..tokens.len()).filter(|&id| rest.starts_with(&tokens[id]));
        let longest = fits.max_by_key(|&id| tokens[id].len()).unwrap();
        cut.push(longest as u32);
        rest = &rest[tokens[longest].len()..];
    }
    cut
}

/// A token as a text, for messages.
pub(crate) trait TokenText {
    /// The text, damaged where it is no UTF-8.
    fn text(&self) -> String;
}

impl TokenText for u32 {
    fn text(&self) -> String {
        String::from_utf8_lossy(vocabulary().bytes(*self)).into_owned()
    }
}

fn worker() -> &'static Worker {
    static WORKER: LazyLock<Worker> = LazyLock::new(|| Worker::start().unwrap());
    &WORKER
}

fn try_compile(wanted: Wanted) -> Result<Compiled, GrammarError> {
    compile(&Pool::start().unwrap(), vocabulary(), wanted, PLENTY)
}

fn compiled(wanted: Wanted) -> Compiled {
    try_compile(wanted.clone()).unwrap_or_else(|error| panic!("{wanted:?}: {error}"))
}

fn message(wanted: Wanted) -> String {
    try_compile(wanted.clone()).map_or_else(|error| error.to_string(), |_| panic!("{wanted:?} compiles"))
}

/// Follows a text; the byte at which it is refused, and whether it may end behind it.
fn follow(compiled: &Compiled, text: &str) -> Result<bool, usize> {
    let mut row = worker().constraint(compiled);
    let mut at = 0;
    for token in tokens_of(text) {
        let mask = row.mask().unwrap().unwrap();
        if !allows(&mask, token) {
            return Err(at);
        }
        row.accept(token);
        at += vocabulary().bytes(token).len();
    }
    Ok(allows(&row.mask().unwrap().unwrap(), END))
}

fn accepts(compiled: &Compiled, text: &str) -> bool {
    follow(compiled, text) == Ok(true)
}

/// Numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Chooses allowed tokens at random until an end, for which it hurries after a while; the text, or why the row failed.
/// `None` when no end was found in time.
fn walk(compiled: &Compiled, seed: u64) -> Option<Result<String, String>> {
    let closing: Vec<u32> = ["\"}}", "\"}", "\"]", "}]", "\"", "}", "]", "0", ":", ",", "e"]
        .iter()
        .flat_map(|text| tokens_of(text))
        .collect();
    let (mut row, mut dice) = (worker().constraint(compiled), Dice::new(seed));
    let mut text = Vec::new();
    for step in 0..STEPS_MAX {
        let mask = match row.mask() {
            Ok(mask) => mask.expect("a grammar always restricts"),
            Err(reason) => return Some(Err(reason)),
        };
        let allowed: Vec<u32> = (0..WIDTH).filter(|&token| allows(&mask, token)).collect();
        assert!(!allowed.is_empty(), "seed {seed}: an empty mask");
        assert!(allowed.iter().all(|&token| token < 2 || is_word(token)), "seed {seed}: a token that is no text");
        if allowed.contains(&END) && (step > STEPS_FREE || allowed.len() == 2 || dice.below(8) == 0) {
            return Some(Ok(String::from_utf8(text).unwrap_or_else(|_| panic!("seed {seed}: not UTF-8"))));
        }
        let words: Vec<u32> = allowed.into_iter().filter(|&token| is_word(token)).collect();
        let hurry =
            (step > STEPS_FREE && dice.below(4) > 0).then(|| closing.iter().find(|token| words.contains(token)));
        let token = hurry.flatten().copied().unwrap_or_else(|| words[dice.below(words.len())]);
        text.extend_from_slice(vocabulary().bytes(token));
        row.accept(token);
    }
    None
}

fn is_word(token: u32) -> bool {
    (CONTROL.len()..CONTROL.len() + 256 + MERGED.len()).contains(&(token as usize))
}
