//! A backend that answers from a script: bytes are tokens, and what it says follows from the prompt, so wrong content
//! fails a test and not only wrong length. A gate holds its steps, so no test has to guess a moment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, Memory, RowId};

/// Ends an answer.
pub(super) const END: u32 = 256;
/// One above the highest token.
pub(super) const WIDTH: u32 = 260;
/// Tokens of prompt and answer.
pub(super) const CONTEXT: u32 = 4096;

/// What the answer to `prompt` is, unless the prompt is one of the words below.
pub(super) fn reply_to(prompt: &str) -> String {
    format!("You said: {prompt} \u{2713}")
}

/// Answers what stands behind it, up to the character U+0003.
pub(super) const ECHO: &str = "echo:";
/// Answers `abc…xyzabc…` until something else ends it.
pub(super) const FOREVER: &str = "forever";
/// Answers nothing.
pub(super) const SILENCE: &str = "silence";
/// Fails its own row after one token.
pub(super) const FAULTY: &str = "faulty";
/// Ends the device after one token.
pub(super) const FATAL: &str = "fatal";

/// A token and the step that gave it, counted from the row's first.
pub(super) type Said = Vec<(u64, u32)>;

/// How many more steps may run, and which rows were seen.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    permits: u64,
    opened: Vec<String>,
    closed: usize,
    decoded: u64,
    /// Decode calls so far.
    steps: u64,
    /// Chunks of prompts that were not their last.
    chunks: u64,
    /// What each closed row was asked, and its tokens.
    said: Vec<(String, Said)>,
}

impl Gate {
    /// Steps wait from now on.
    pub(super) fn shut(&self) {
        self.state.lock().shut = true;
    }

    /// Steps run freely from now on.
    pub(super) fn open(&self) {
        self.state.lock().shut = false;
        self.moved.notify_all();
    }

    /// This many more steps may run.
    pub(super) fn let_pass(&self, steps: u64) {
        self.state.lock().permits += steps;
        self.moved.notify_all();
    }

    /// Prompts of the rows that were opened, without the engine's own first token.
    pub(super) fn opened(&self) -> Vec<String> {
        self.state.lock().opened[1..].to_vec()
    }

    /// Rows open now.
    pub(super) fn open_rows(&self) -> usize {
        let state = self.state.lock();
        state.opened.len() - state.closed
    }

    /// Tokens decoded so far.
    pub(super) fn decoded(&self) -> u64 {
        self.state.lock().decoded
    }

    /// Chunks of prompts evaluated so far, without the last of each.
    pub(super) fn chunks(&self) -> u64 {
        self.state.lock().chunks
    }

    /// The tokens of each closed row that was asked this.
    pub(super) fn said(&self, prompt: &str) -> Vec<Said> {
        let state = self.state.lock();
        state.said.iter().filter(|(asked, _)| asked == prompt).map(|(_, said)| said.clone()).collect()
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        while state.shut && state.permits == 0 {
            self.moved.wait(&mut state);
        }
        state.permits = state.permits.saturating_sub(1);
    }
}

#[derive(Debug)]
pub(super) struct Script {
    gate: Arc<Gate>,
    rows: BTreeMap<RowId, Row>,
    rows_max: u32,
}

#[derive(Debug)]
struct Row {
    prompt: String,
    left: u32,
    answer: VecDeque<u32>,
    position: usize,
    /// Its tokens, with the decode calls that gave them.
    said: Said,
}

impl Script {
    pub(super) fn new(gate: Arc<Gate>, rows_max: u32) -> Self {
        Self { gate, rows: BTreeMap::new(), rows_max }
    }
}

impl Backend for Script {
    fn capacity(&self) -> Capacity {
        Capacity {
            context_tokens: CONTEXT,
            logit_width: WIDTH,
            rows_max: self.rows_max,
            prefill_chunk_tokens: 512,
            memory: Memory::UNCOUNTED,
        }
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        let bytes = ask.prompt.iter().map(|token| u8::try_from(*token).expect("a prompt of bytes")).collect();
        let text = String::from_utf8(bytes).expect("a prompt of UTF-8");
        let answer = match text.as_str() {
            FOREVER | SILENCE => VecDeque::new(),
            FAULTY | FATAL => VecDeque::from([u32::from(b'x')]),
            text if text.contains(ECHO) => {
                let (_, said) = text.split_once(ECHO).expect("it is there");
                said.split('\u{3}').next().unwrap_or_default().bytes().map(u32::from).collect()
            }
            text => reply_to(text).bytes().map(u32::from).collect(),
        };
        self.gate.state.lock().opened.push(text.clone());
        let left = u32::try_from(ask.prompt.len()).expect("a short prompt");
        self.rows.insert(row, Row { prompt: text, left, answer, position: 0, said: Vec::new() });
    }

    fn begin(&mut self, _: RowId) -> Result<u32, DeviceFault> {
        Ok(0)
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        let row = self.rows.get_mut(&row).expect("the row is open");
        row.left = row.left.saturating_sub(tokens);
        if row.left > 0 {
            self.gate.pass();
            self.gate.state.lock().chunks += 1;
        }
        Ok(row.left)
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        self.gate.pass();
        let mut state = self.gate.state.lock();
        state.decoded += rows.len() as u64;
        state.steps += 1;
        rows.iter()
            .map(|row| {
                let row = self.rows.get_mut(row).expect("the row is open");
                row.position += 1;
                let token = match (row.answer.pop_front(), row.prompt.as_str()) {
                    (Some(token), _) => token,
                    (None, FOREVER) => {
                        let letter = u8::try_from((row.position - 1) % 26).expect("below 26");
                        u32::from(b'a' + letter)
                    }
                    (None, FAULTY) => return Ok(Decoded::Failed("NaN logits".to_owned())),
                    (None, FATAL) => return Err(DeviceFault("the device is gone".to_owned())),
                    (None, _) => END,
                };
                row.said.push((state.steps, token));
                Ok(Decoded::token(token))
            })
            .collect()
    }

    fn close(&mut self, row: RowId) {
        let mut row = self.rows.remove(&row).expect("the row is open");
        let first = row.said.first().map_or(0, |(step, _)| *step);
        row.said.iter_mut().for_each(|(step, _)| *step -= first);
        let mut state = self.gate.state.lock();
        state.said.push((row.prompt, row.said));
        state.closed += 1;
    }

    fn kept_bytes(&self) -> u64 {
        0
    }

    fn shed(&mut self, _: u64) {}

    fn idle(&mut self) {}
}
