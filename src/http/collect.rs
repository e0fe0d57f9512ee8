//! One answer put together from what it says: the message of a whole answer. It owns when content is null and what a call
//! is named by.

use uuid::Uuid;

use crate::api::answer::{Choice, FinishReason, Function, Logprobs, Message, Reasoning, TokenLogprob, ToolCall};
use crate::text::answer::{CallPiece, Piece};

/// Letters and digits of a call's name: Mistral's templates take this many and no others.
const CALL_ID_LETTERS: usize = 9;

/// An answer as far as it was said.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
}

impl Collected {
    /// It says more.
    pub(crate) fn add(&mut self, pieces: Vec<Piece>, logprobs: Vec<TokenLogprob>) {
        self.logprobs.extend(logprobs);
        for piece in pieces {
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

    /// The answer on the wire.
    pub(crate) fn choice(&self, index: usize, finish_reason: FinishReason, with_logprobs: bool) -> Choice<'_> {
        let is_something = !self.content.is_empty() || (self.calls.is_empty() && self.reasoning.is_empty());
        let message = Message {
            role: "assistant",
            content: is_something.then_some(self.content.as_str()),
            refusal: None,
            reasoning: Some(self.reasoning.as_str()).filter(|text| !text.is_empty()).map(Reasoning::of),
            tool_calls: &self.calls,
        };
        Choice { index, message, logprobs: with_logprobs.then(|| Logprobs::of(&self.logprobs)), finish_reason }
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
