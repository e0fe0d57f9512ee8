//! An answer in the making: content, reasoning and tool calls in the order in which they were told apart. It owns how
//! whitespace is laid out between them, and it refuses to know any format.
//!
//! The rule: a reasoning block or a call is cut out of the text, and whitespace that it leaves at the edge of what
//! remains goes with it. So nothing stands before the answer that follows `</think>`, nothing after the text that
//! precedes a call, and where text stands on both sides of a block, the whitespace between is the model's own. Text
//! without blocks stays exactly as it came; so does whitespace at the end of an answer or of a reasoning that was cut
//! off there.
//!
//! Invariants: a piece is never empty; neighbours of one kind are one piece; the arguments of a call follow its
//! beginning, and only the last call gets any.

/// Whitespace that is held because a block may follow. A longer run is text like any other, so that a model that writes
/// nothing else is seen to do so.
const BLANK_BYTES_MAX: usize = 4096;

/// A part of an answer, as soon as it is known to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What the user reads.
    Content(String),
    /// What the model thought before.
    Reasoning(String),
    /// A tool call, or more of it.
    Call(CallPiece),
}

/// A part of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallPiece {
    /// The call with this index begins; the first has index 0.
    Begin {
        /// Its place among the answer's calls.
        index: usize,
        /// The tool that is called.
        name: String,
    },
    /// More of its arguments. Joined they are the JSON text of an object, unless the answer was cut off.
    Arguments {
        /// The call that they belong to.
        index: usize,
        /// Never empty.
        text: String,
    },
}

/// The pieces that nobody has taken yet, and what may still become one.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Not taken yet.
    pieces: Vec<Piece>,
    /// The text for the user.
    content: Flow,
    /// The text that is not.
    reasoning: Flow,
    /// Calls that have begun.
    calls: usize,
}

/// Whether a block may follow text, so that whitespace behind it must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Before the text only.
    Before,
    /// Anywhere.
    Anywhere,
}

impl Answer {
    /// An answer with nothing in it, where `blocks` may stand beside the content.
    pub fn new(blocks: Blocks) -> Self {
        let content = Flow { blank: String::new(), seen: false, edge: false, blocks };
        let reasoning = Flow { blank: String::new(), seen: false, edge: true, blocks: Blocks::Anywhere };
        Self { pieces: Vec::new(), content, reasoning, calls: 0 }
    }

    /// More content.
    pub fn content(&mut self, text: &str) {
        let pieces = &mut self.pieces;
        self.content.take(text, |text| match pieces.last_mut() {
            Some(Piece::Content(last)) => last.push_str(text),
            _ => pieces.push(Piece::Content(text.to_owned())),
        });
    }

    /// More of what the model thinks.
    pub fn reasoning(&mut self, text: &str) {
        let pieces = &mut self.pieces;
        self.reasoning.take(text, |text| match pieces.last_mut() {
            Some(Piece::Reasoning(last)) => last.push_str(text),
            _ => pieces.push(Piece::Reasoning(text.to_owned())),
        });
    }

    /// A reasoning block begins.
    pub fn open_reasoning(&mut self) {
        self.reasoning.separate();
        self.content.edge = true;
    }

    /// The reasoning block is over.
    pub fn close_reasoning(&mut self) {
        self.reasoning.edge = true;
    }

    /// A message of its own begins, of which the user reads all.
    pub fn open_message(&mut self) {
        self.content.separate();
    }

    /// Whether a block of reasoning has text.
    pub fn is_thinking(&self) -> bool {
        !self.reasoning.edge
    }

    /// Whether nothing but whitespace came since the answer or the last block began.
    pub fn is_at_edge(&self) -> bool {
        self.content.edge || !self.content.seen
    }

    /// A call of `name` begins.
    pub fn begin(&mut self, name: &str) {
        self.content.edge = true;
        self.pieces.push(Piece::Call(CallPiece::Begin { index: self.calls, name: name.to_owned() }));
        self.calls += 1;
    }

    /// More arguments of the call that began last.
    pub fn arguments(&mut self, more: &str) {
        assert!(self.calls > 0, "arguments follow a beginning");
        if more.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Call(CallPiece::Arguments { text, .. })) => text.push_str(more),
            _ => {
                let arguments = CallPiece::Arguments { index: self.calls - 1, text: more.to_owned() };
                self.pieces.push(Piece::Call(arguments));
            }
        }
    }

    /// Bytes of whitespace at the end of the text that may still be dropped.
    pub fn held_bytes(&self) -> usize {
        self.content.blank.len() + self.reasoning.blank.len()
    }

    /// What came since the last time.
    pub fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// The answer is over: whitespace at its end is part of it, unless it stands beside a block.
    pub fn finish(mut self) -> Vec<Piece> {
        let (reasoning, content) = (self.reasoning.rest(), self.content.rest());
        let ends = [(reasoning, Piece::Reasoning as fn(String) -> Piece), (content, Piece::Content)];
        self.pieces.extend(ends.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, piece)| piece(text)));
        self.pieces
    }
}

/// Text of one kind, with blocks cut out of it.
#[derive(Debug)]
struct Flow {
    /// The whitespace that came last.
    blank: String,
    /// Text has come that is no whitespace.
    seen: bool,
    /// A block stands behind the last text.
    edge: bool,
    /// Where blocks may stand.
    blocks: Blocks,
}

impl Flow {
    fn take(&mut self, text: &str, mut emit: impl FnMut(&str)) {
        let (words, blank) = text.split_at(text.trim_ascii_end().len());
        if !words.is_empty() {
            self.release(&mut emit);
            emit(if self.drops_blank() { words.trim_ascii_start() } else { words });
            (self.seen, self.edge) = (true, false);
        }
        self.blank.push_str(blank);
        let waits = self.edge || !self.seen || self.blocks == Blocks::Anywhere;
        if !waits || self.blank.len() > BLANK_BYTES_MAX {
            self.release(emit);
        }
    }

    /// Whether whitespace stands between a block and the first text.
    fn drops_blank(&self) -> bool {
        self.edge && !self.seen
    }

    fn release(&mut self, mut emit: impl FnMut(&str)) {
        let blank = std::mem::take(&mut self.blank);
        if !blank.is_empty() && !self.drops_blank() {
            emit(&blank);
        }
    }

    /// What follows is a text of its own; where nothing stands between the two, a line's end does.
    fn separate(&mut self) {
        if self.seen && self.blank.is_empty() {
            self.blank.push('\n');
        }
    }

    fn rest(&mut self) -> String {
        if self.edge { String::new() } else { std::mem::take(&mut self.blank) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fill: impl Fn(&mut Answer)) -> Vec<Piece> {
        let mut answer = Answer::new(Blocks::Anywhere);
        fill(&mut answer);
        let mut pieces = answer.take();
        pieces.extend(answer.finish());
        pieces
    }

    fn content(text: &str) -> Piece {
        Piece::Content(text.to_owned())
    }

    fn begin(index: usize) -> Piece {
        Piece::Call(CallPiece::Begin { index, name: "f".to_owned() })
    }

    #[test]
    fn text_without_blocks_stays_as_it_came() {
        let pieces = answer(|answer| [" ", "\n a", " ", "b \n"].into_iter().for_each(|text| answer.content(text)));
        assert_eq!(pieces, [content(" \n a b"), content(" \n")]);
    }

    #[test]
    fn whitespace_beside_a_call_goes_at_the_edges_and_stays_between_text() {
        let around = |before, after| {
            answer(|answer| {
                answer.content(before);
                answer.begin("f");
                answer.content(after);
            })
        };
        assert_eq!(around("a\n\n", "\n"), [content("a"), begin(0)]);
        assert_eq!(around("\n", "\n b"), [begin(0), content("b")]);
        assert_eq!(around("a\n\n", " b"), [content("a"), begin(0), content("\n\n b")]);
    }

    #[test]
    fn reasoning_loses_the_whitespace_at_its_edges_but_not_where_it_is_cut() {
        let thought = |closed: bool| {
            answer(|answer| {
                answer.open_reasoning();
                answer.reasoning("\n so \n");
                if closed {
                    answer.close_reasoning();
                    answer.content("\n\n");
                }
            })
        };
        assert_eq!(thought(true), [Piece::Reasoning("so".to_owned())]);
        assert_eq!(thought(false), [Piece::Reasoning("so".to_owned()), Piece::Reasoning(" \n".to_owned())]);
    }

    #[test]
    fn blocks_of_reasoning_that_touch_are_lines_of_their_own() {
        let pieces = answer(|answer| {
            for thought in ["a", "b"] {
                answer.open_reasoning();
                answer.reasoning(thought);
                answer.close_reasoning();
            }
        });
        assert_eq!(pieces, [Piece::Reasoning("a\nb".to_owned())]);
    }

    #[test]
    fn a_long_run_of_whitespace_is_text() {
        let mut answer = Answer::new(Blocks::Anywhere);
        for _ in 0..=BLANK_BYTES_MAX {
            answer.content(" ");
        }
        assert_eq!(answer.take(), [content(&" ".repeat(BLANK_BYTES_MAX + 1))]);
    }
}
