//! One answer put together from what it says, for those who send it whole. It owns what a call is named by.

use uuid::Uuid;

use crate::api::answer::{Function, TokenLogprob, ToolCall};
use crate::http::reading::Said;
use crate::text::answer::{CallPiece, Piece};

/// Letters and digits of a call's name: Mistral's templates take this many and no others.
const CALL_ID_LETTERS: usize = 9;

/// An answer as far as it was said.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// The ids of its tokens, if they were asked for.
    pub(crate) tokens: Vec<u32>,
}

impl Collected {
    /// It says more.
    pub(crate) fn add(&mut self, said: Said) {
        self.logprobs.extend(said.logprobs);
        self.tokens.extend(said.tokens);
        for piece in said.pieces {
            match piece {
                Piece::Content(text) => self.content.push_str(&text),
                Piece::Reasoning(text) => self.reasoning.push_str(&text),
                Piece::Call(CallPiece::Begin { name, .. }) => {
                    let function = Function { name, arguments: String::new() };
                    self.calls.push(ToolCall { id: call_id(), kind: "function", function });
                }
                Piece::Call(CallPiece::Arguments { text, .. }) => {
                    let call = self.calls.last_mut().expect("the arguments of a call follow its beginning");
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }
}

/// A name for a call, which the message with its result repeats.
pub(crate) fn call_id() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut left = Uuid::new_v4().as_u128();
    (0..CALL_ID_LETTERS)
        .map(|_| {
            let letter = LETTERS[(left % 36) as usize];
            left /= 36;
            char::from(letter)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_nine_letters_and_digits_and_no_other_by_the_same() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| call_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    }
}
