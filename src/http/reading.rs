//! One answer's tokens read as what they say: text, taken apart into content, thoughts and calls; content up to a stop
//! string; log probabilities beside the text that their tokens complete. It refuses to know the engine's events and how
//! the outcome is delivered, so a streamed and a whole answer cannot differ.
//!
//! Stop strings are looked for in the content: one that occurs in a thought or in a call's arguments ends nothing, and one
//! that a thought or a call interrupts is none.

use std::sync::Arc;

use crate::api::answer::TokenLogprob;
use crate::http::logprobs::Withheld;
use crate::http::prepare::Layout;
use crate::job::Token;
use crate::text::Text;
use crate::text::answer::{CallPiece, Piece};
use crate::text::channel::Channel;
use crate::text::channel::format::{Format, Opening};
use crate::text::detokenizer::Detokenizer;
use crate::text::stop::StopStrings;

/// What a token, or the end, has made known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Said {
    /// What goes out now.
    pub(crate) pieces: Vec<Piece>,
    /// Log probabilities of the tokens that are out with it, if they were asked for.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// The token itself, if ids were asked for; its text may be out later.
    pub(crate) tokens: Vec<u32>,
    /// The answer is over with this: a stop string is complete, or a call that was not wanted begins.
    pub(crate) ended: bool,
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct Reading {
    detokenizer: Detokenizer,
    channel: Channel,
    cut: Cut,
    /// Log probabilities whose tokens' text is not out, if they were asked for.
    logprobs: Option<Withheld>,
    /// The ids of tokens are told.
    tells_tokens: bool,
    tally: Tally,
}

/// Where an answer ends before the model ends it.
#[derive(Debug)]
struct Cut {
    stops: StopStrings,
    /// Bytes that stop strings hold back, or that come behind the end.
    held: usize,
    /// A second call ends the answer.
    single_call: bool,
}

/// What an answer has held so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tokens of thoughts, with what closes them.
    pub(crate) reasoning_tokens: u32,
    /// Something was said or thought or called.
    pub(crate) anything: bool,
    /// A tool was called.
    pub(crate) calls: bool,
}

impl Said {
    /// Whether there is something to tell.
    pub(crate) fn is_something(&self) -> bool {
        !self.pieces.is_empty() || !self.logprobs.is_empty() || !self.tokens.is_empty()
    }

    /// The content in it.
    pub(crate) fn content(&self) -> String {
        let content = |piece: &Piece| match piece {
            Piece::Content(text) => Some(text.clone()),
            Piece::Reasoning(_) | Piece::Call(_) => None,
        };
        self.pieces.iter().filter_map(content).collect()
    }
}

impl Tally {
    fn note(&mut self, said: &Said) {
        self.anything |= !said.pieces.is_empty();
        self.calls |= said.pieces.iter().any(|piece| matches!(piece, Piece::Call(_)));
    }
}

impl Reading {
    /// An answer that is laid out like this, up to one of the stop strings.
    pub(crate) fn new(text: &Arc<Text>, layout: &Layout, stop: &[String], logprobs: bool) -> Self {
        // What goes on with a text is that text's: nothing is told apart in it.
        let (detokenizer, format, opening) = match layout.opening {
            Some(opening) => (text.detokenizer(), text.format(), opening),
            None => (text.continuation(), Format::PLAIN, Opening::Content),
        };
        Self {
            detokenizer,
            channel: Channel::new(format, Arc::clone(&layout.tools), opening),
            cut: Cut { stops: StopStrings::new(stop.to_vec()), held: 0, single_call: layout.single_call },
            logprobs: logprobs.then(|| Withheld::new(Arc::clone(text))),
            tells_tokens: layout.tells_tokens,
            tally: Tally::default(),
        }
    }

    /// What the answer has held so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes the next token.
    pub(crate) fn push(&mut self, token: &Token) -> Said {
        self.tally.reasoning_tokens += u32::from(self.channel.is_reasoning());
        let text = self.detokenizer.push(token.id);
        if let (Some(withheld), Some(logprobs)) = (&mut self.logprobs, &token.logprobs) {
            withheld.push(token.id, logprobs, &text);
        }
        let mut said = self.cut.sort(self.channel.push(&text));
        if !said.pieces.is_empty()
            && let Some(withheld) = &mut self.logprobs
        {
            said.logprobs = withheld.settle(self.channel.held_bytes() + self.cut.held);
        }
        if self.tells_tokens {
            said.tokens.push(token.id);
        }
        self.tally.note(&said);
        said
    }

    /// There are no more tokens: what was held back comes out. Gives back what the answer has held in all, too.
    pub(crate) fn finish(self) -> (Said, Tally) {
        let Self { detokenizer, mut channel, mut cut, logprobs, mut tally, .. } = self;
        let mut pieces = channel.push(&detokenizer.finish());
        pieces.extend(channel.finish());
        let mut said = cut.sort(pieces);
        if !said.ended {
            cut.release(&mut said);
        }
        if let Some(mut withheld) = logprobs {
            // Tokens without text at the end, or with bytes that never became any, are out too.
            said.logprobs = if said.ended { withheld.settle(cut.held) } else { withheld.finish() };
        }
        tally.note(&said);
        (said, tally)
    }
}

impl Cut {
    /// What of these pieces goes out.
    fn sort(&mut self, pieces: Vec<Piece>) -> Said {
        let mut said = Said::default();
        for piece in pieces {
            match piece {
                // What comes behind the end only has a length.
                piece if said.ended => self.held += length(&piece),
                Piece::Content(text) => {
                    let emit = self.stops.push(&text);
                    self.held = self.held + text.len() - emit.text.len();
                    said.ended = emit.stopped;
                    add(&mut said, emit.text);
                }
                Piece::Call(CallPiece::Begin { index: 1.., .. }) if self.single_call => {
                    self.release(&mut said);
                    said.ended = true;
                }
                Piece::Reasoning(_) | Piece::Call(_) => {
                    self.release(&mut said);
                    said.pieces.push(piece);
                }
            }
        }
        said
    }

    /// What stop strings hold back is content after all.
    fn release(&mut self, said: &mut Said) {
        let text = self.stops.interrupt();
        self.held -= text.len();
        add(said, text);
    }
}

/// More content, as one piece with what is there.
fn add(said: &mut Said, text: String) {
    match said.pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Content(last)) => last.push_str(&text),
        Some(Piece::Reasoning(_) | Piece::Call(_)) | None => said.pieces.push(Piece::Content(text)),
    }
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Content(text) | Piece::Reasoning(text) => text.len(),
        Piece::Call(CallPiece::Begin { .. }) => 0,
        Piece::Call(CallPiece::Arguments { text, .. }) => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::http::tests::site;
    use crate::job::Logprobs;
    use crate::text::tools::Tool;

    /// Each byte is a token; the template has no tools and ends a prompt with nothing.
    static TEXT: LazyLock<Arc<Text>> = LazyLock::new(|| Arc::new(site::text(site::TEMPLATE)));

    fn layout(opening: Opening) -> Layout {
        let tool = Tool { name: "f".to_owned(), parameters: serde_json::json!({ "type": "object" }) };
        Layout { opening: Some(opening), tools: Arc::new([tool]), single_call: false, tells_tokens: false }
    }

    /// Everything that is said of a text, in JSON so that it reads well; and whether it ended before the text did.
    fn read(text: &str, layout: &Layout, stop: &[&str]) -> (Vec<Piece>, Vec<u8>, bool) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut reading = Reading::new(&TEXT, layout, &stop, true);
        let (mut pieces, mut tokens) = (Vec::new(), Vec::new());
        let mut take = |said: Said| {
            pieces.extend(said.pieces);
            tokens.extend(said.logprobs.iter().flat_map(|entry| entry.token.bytes.clone()));
            said.ended
        };
        for byte in text.bytes() {
            let logprobs = Some(Box::new(Logprobs { chosen: -0.5, top: Vec::new() }));
            if take(reading.push(&Token { id: u32::from(byte), logprobs })) {
                return (joined(pieces), tokens, true);
            }
        }
        let (said, tally) = reading.finish();
        assert_eq!(
            tally.calls,
            said.pieces.iter().chain(&pieces_of(text, layout)).any(|piece| matches!(piece, Piece::Call(_)))
        );
        let ended = take(said);
        (joined(pieces), tokens, ended)
    }

    fn pieces_of(text: &str, layout: &Layout) -> Vec<Piece> {
        let mut channel = Channel::new(TEXT.format(), Arc::clone(&layout.tools), Opening::Content);
        let mut pieces = channel.push(text);
        pieces.extend(channel.finish());
        joined(pieces)
    }

    /// Neighbours of one kind as one.
    fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            match (joined.last_mut(), piece) {
                (Some(Piece::Content(last)), Piece::Content(text)) => last.push_str(&text),
                (Some(Piece::Reasoning(last)), Piece::Reasoning(text)) => last.push_str(&text),
                (
                    Some(Piece::Call(CallPiece::Arguments { text: last, .. })),
                    Piece::Call(CallPiece::Arguments { text, .. }),
                ) => last.push_str(&text),
                (_, piece) => joined.push(piece),
            }
        }
        joined
    }

    fn content(text: &str) -> Piece {
        Piece::Content(text.to_owned())
    }

    fn call(index: usize, arguments: &str) -> [Piece; 2] {
        let begin = CallPiece::Begin { index, name: "f".to_owned() };
        [Piece::Call(begin), Piece::Call(CallPiece::Arguments { index, text: arguments.to_owned() })]
    }

    const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"STOP\"}}\n</tool_call>";

    #[test]
    fn a_stop_string_counts_in_content_only() {
        let calls = call(0, "{\"a\": \"STOP\"}");
        let text = format!("see {CALL} and STOP here");
        let (pieces, _, ended) = read(&text, &layout(Opening::Content), &["STOP"]);
        assert!(ended);
        assert_eq!(pieces, [vec![content("see")], calls.to_vec(), vec![content("  and ")]].concat());
        let broken = format!("ST{CALL}OP");
        let (pieces, _, ended) = read(&broken, &layout(Opening::Content), &["STOP"]);
        assert!(!ended, "a call interrupts it");
        assert_eq!(pieces.first(), Some(&content("ST")));
        assert_eq!(pieces.last(), Some(&content("OP")));
    }

    #[test]
    fn every_token_has_its_log_probability_out_but_those_of_a_stop_string() {
        for text in ["plain \u{e9}", &format!("see {CALL}  \n"), "<tool_call>\n{\"name\": \"g\"}", "a\n\n"] {
            let (_, tokens, ended) = read(text, &layout(Opening::Content), &["STOP"]);
            assert_eq!((String::from_utf8(tokens).as_deref(), ended), (Ok(text), false));
        }
        let (pieces, tokens, ended) = read("one STOP two", &layout(Opening::Content), &["STOP"]);
        assert_eq!((pieces, tokens.as_slice(), ended), (vec![content("one ")], &b"one "[..], true));
    }

    #[test]
    fn what_goes_on_with_a_text_is_not_taken_apart() {
        let plain = Layout { opening: None, tools: Arc::new([]), single_call: false, tells_tokens: false };
        let text = format!(" \n see {CALL} <think>x</think> \n");
        let (pieces, tokens, ended) = read(&text, &plain, &["NOWHERE"]);
        assert_eq!((pieces, ended), (vec![content(&text)], false));
        assert_eq!(String::from_utf8(tokens).as_deref(), Ok(text.as_str()));
    }

    #[test]
    fn where_one_call_is_wanted_a_second_one_ends_the_answer() {
        let text = format!("{CALL}\n{CALL}");
        let (pieces, _, ended) = read(&text, &Layout { single_call: true, ..layout(Opening::Content) }, &[]);
        assert!(ended);
        assert_eq!(pieces, call(0, "{\"a\": \"STOP\"}"));
        let (pieces, _, ended) = read(&text, &layout(Opening::Content), &[]);
        assert_eq!((pieces.len(), ended), (4, false));
    }
}
