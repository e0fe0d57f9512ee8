//! Log probabilities on their way to the client: those of a token go out with the text that it completes, so that a stop
//! string which is held back holds back its tokens' too. It owns the spelling of tokens on the wire.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::api::answer::{LOGPROB_MIN, Likely, TokenLogprob};
use crate::job::Logprobs;
use crate::text::Text;

/// What is known of tokens whose text is not let out yet.
#[derive(Debug)]
pub(crate) struct Withheld {
    text: Arc<Text>,
    /// Each with the bytes of the answer's text at its end.
    entries: VecDeque<(TokenLogprob, usize)>,
    /// Bytes of text that the tokens so far have made.
    made: usize,
    /// Characters of it.
    characters: usize,
}

impl Withheld {
    pub(crate) fn new(text: Arc<Text>) -> Self {
        Self { text, entries: VecDeque::new(), made: 0, characters: 0 }
    }

    /// The next token, which has completed this text.
    pub(crate) fn push(&mut self, token: u32, logprobs: &Logprobs, text: &str) {
        let offset = self.characters;
        self.made += text.len();
        self.characters += text.chars().count();
        let likely = |(id, logprob): (u32, f32)| likely(&self.text, id, logprob);
        let entry = TokenLogprob {
            token: likely((token, logprobs.chosen)),
            top_logprobs: logprobs.top.iter().copied().map(likely).collect(),
            offset,
        };
        self.entries.push_back((entry, self.made));
    }

    /// All text but the last so many bytes is out, or was left out for good: the tokens that end with it.
    pub(crate) fn settle(&mut self, held: usize) -> Vec<TokenLogprob> {
        let out = self.made - held;
        let complete = self.entries.iter().take_while(|(_, end)| *end <= out).count();
        self.entries.drain(..complete).map(|(entry, _)| entry).collect()
    }

    /// All text is out: the tokens that are left.
    pub(crate) fn finish(self) -> Vec<TokenLogprob> {
        self.entries.into_iter().map(|(entry, _)| entry).collect()
    }
}

fn likely(text: &Text, id: u32, logprob: f32) -> Likely {
    let bytes = text.tokenizer().token_bytes(id).unwrap_or_default().to_vec();
    Likely { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: logprob.max(LOGPROB_MIN), bytes }
}
