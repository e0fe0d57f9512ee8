//! Harmony, which GPT-OSS speaks: an answer is a row of messages,
//! `<|start|>assistant<|channel|>analysis<|message|>…<|end|>`, each with a header that says what it is for. The prompt
//! ends within the first header, behind `assistant`. This file owns what a header means and the shape of a call; reading
//! messages one after the other is `channel`'s, because everything a model says is in one.
//!
//! Reasoning goes to the channel `analysis`; the answer to `final`; to `commentary` what the user is told before calls.
//! A message with a recipient `functions.f` is a call of `f` with its text as arguments, whichever the channel; the
//! recipient stands behind the role or behind the channel.

use crate::text::shape::Shape;
use crate::text::tools::{Tool, json_call, offers, optional, sequence, text};

/// Begins a message.
pub(crate) const START: &str = "<|start|>";

/// Before the channel in a header.
pub(crate) const CHANNEL: &str = "<|channel|>";

/// Between header and text.
pub(crate) const MESSAGE: &str = "<|message|>";

/// Before the type of the text in a header.
const CONSTRAIN: &str = "<|constrain|>";

/// Any of these ends a message: its end, the answer's, a call.
pub(crate) const ENDS: [&str; 3] = ["<|end|>", "<|return|>", "<|call|>"];

pub(super) const MARKERS: [&str; 7] = [START, CHANNEL, MESSAGE, CONSTRAIN, ENDS[0], ENDS[1], ENDS[2]];

/// Who speaks.
const ROLE: &str = "assistant";

/// Before a recipient.
const TO: &str = "to=";

/// Where the tools of a request live.
const NAMESPACE: &str = "functions.";

/// What closes a block of reasoning and opens the answer.
pub(crate) const CLOSING: &str = "<|end|><|start|>assistant<|channel|>final<|message|>";

/// Behind this the answer begins, whether or not a block of reasoning came before.
pub(crate) const FINAL: &str = "<|channel|>final<|message|>";

/// What opens a block of reasoning.
pub(crate) const OPENING: &str = "<|channel|>analysis<|message|>";

/// What a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The user reads it.
    Content,
    /// The model thinks.
    Reasoning,
    /// A call of this tool.
    Call(String),
}

/// What a header, up to `<|message|>`, says that the message is for; `None` when it is no header, or addresses a tool
/// that is not among `tools`.
pub(crate) fn purpose(header: &str, tools: &[Tool]) -> Option<Purpose> {
    let header = header.strip_suffix(MESSAGE)?.trim_ascii_start();
    let header = ENDS.iter().find_map(|end| header.strip_prefix(end)).unwrap_or(header).trim_ascii_start();
    let header = header.strip_prefix(START).unwrap_or(header);
    let (role, channel) = header.split_once(CHANNEL).unwrap_or((header, ""));
    let mut recipient = None;
    for word in role.split_ascii_whitespace().filter(|word| *word != ROLE) {
        recipient = Some(word.strip_prefix(TO)?);
    }
    let channel = channel.replace(CONSTRAIN, " ");
    let mut words = channel.split_ascii_whitespace();
    let name = words.next();
    // What else stands behind the channel is the type of the text, which says nothing that its text does not.
    recipient = words.find_map(|word| word.strip_prefix(TO)).or(recipient);
    match (recipient, name) {
        (Some(recipient), _) => {
            let name = recipient.strip_prefix(NAMESPACE).unwrap_or(recipient);
            offers(tools, name).then(|| Purpose::Call(name.to_owned()))
        }
        (None, Some("analysis")) => Some(Purpose::Reasoning),
        (None, Some("final" | "commentary") | None) => Some(Purpose::Content),
        (None, Some(_)) => None,
    }
}

/// Whether a text may still become a header. What ends a message may stand before it, when that message's text ends by
/// itself.
pub(crate) fn may_become_a_header(text: &str) -> bool {
    let mut rest = text.trim_ascii_start();
    let leading = [ENDS[0], ENDS[1], ENDS[2], START, ROLE];
    for word in leading {
        if word.starts_with(rest) {
            return true;
        }
        rest = rest.strip_prefix(word).unwrap_or(rest).trim_ascii_start();
    }
    if rest.contains('\n') {
        return false;
    }
    [TO, CHANNEL, MESSAGE].iter().any(|word| word.starts_with(rest) || rest.starts_with(word))
}

/// Whether a header that was cut off says nothing that a reader of the answer would miss.
pub(crate) fn is_idle(cut: &str) -> bool {
    cut.trim_ascii_start().starts_with("<|") && !cut.contains(TO)
}

/// The shape of an answer that is a call: perhaps a block of reasoning, and then it. A model ends its turn with a call,
/// so there is never a second one.
pub(super) fn shape(call: Shape) -> Shape {
    let thought = [text(OPENING), Shape::Until(ENDS[0].to_owned()), text(format!("{START}{ROLE}"))];
    sequence([optional(sequence(thought)), call])
}

/// The shape of a call, behind the role.
pub(super) fn call(tool: &Tool) -> Shape {
    json_call(format!("{CHANNEL}commentary {TO}{NAMESPACE}{} {CONSTRAIN}json{MESSAGE}", tool.name), tool, "")
}
