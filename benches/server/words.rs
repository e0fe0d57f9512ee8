//! Conversations of an exact number of tokens, no two of which begin alike unless they are told to: otherwise the server's
//! prefix cache would do the work that is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sanctum_mlx::text::Text;
use serde_json::{Map, Value, json};

/// Words that are one token each in the default model's vocabulary, with the space before them.
const WORDS: [&str; 32] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "number", "night", "point", "home",
];
/// Words of the system message: what the template puts before the user's words must be unique too.
const SYSTEM_WORDS: usize = 6;
/// Larger than all conversations here.
const TOKENS_MAX: u32 = 8_192;

/// Where conversations come from.
pub struct Words {
    text: Arc<Text>,
    /// Tokens that the template adds.
    around: usize,
}

impl Words {
    pub fn new(text: Arc<Text>) -> Self {
        let mut words = Self { text, around: 0 };
        let some = 64;
        words.around = words.encode(&conversation(fresh(), some, 0, 0)).len() - some;
        words
    }

    /// A conversation of `tokens` tokens that was never seen before.
    pub fn unique(&self, tokens: usize) -> Vec<Value> {
        self.known(fresh(), tokens, 0)
    }

    /// A conversation that begins with `tokens` tokens which are those of all others with this `seed`, and ends with `own`
    /// tokens that no other has.
    pub fn known(&self, seed: u64, tokens: usize, own: usize) -> Vec<Value> {
        let words = tokens.checked_sub(self.around).expect("more than the template");
        let messages = conversation(seed, words, fresh(), own);
        assert_eq!(self.encode(&messages).len(), tokens + own, "each word is a token");
        messages
    }

    /// The tokens of a conversation.
    pub fn encode(&self, messages: &[Value]) -> Vec<u32> {
        self.text.prompt(messages, None, &Map::new(), TOKENS_MAX).expect("the template renders it").tokens
    }
}

/// A number that no call before has had.
pub fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// So many words by one seed and then some by another.
fn conversation(seed: u64, count: usize, own_seed: u64, own_count: usize) -> Vec<Value> {
    let mut words = drawn(seed, count);
    let asked = words.split_off(SYSTEM_WORDS.min(count));
    let asked = [asked, drawn(own_seed, own_count)].concat().join(" ");
    vec![json!({"role": "system", "content": words.join(" ")}), json!({"role": "user", "content": asked})]
}

fn drawn(seed: u64, count: usize) -> Vec<&'static str> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        WORDS[(state >> 32) as usize % WORDS.len()]
    };
    (0..count).map(|_| draw()).collect()
}
