//! S5: what many clients get together, beside what one gets, and beside the bare loop of the runner on as many rows. The
//! bare loop runs on this thread, the server in a process of its own; one of them computes at a time.

use std::sync::Arc;
use std::time::Instant;

use sanctum_mlx::engine::backend::{Ask, Backend, Decoded, RowId};
use sanctum_mlx::job::Sampling;
use sanctum_mlx::runner::Runner;
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::effort::Effort;
use crate::report::Row;
use crate::served::{self, Served};
use crate::words::Words;
use crate::{site, stream, tax};

/// Rows that decode together.
const WIDTHS: [usize; 4] = [1, 2, 4, 8];
/// Sizes of each row.
const PROMPT_TOKENS: usize = 64;
const TOKENS: u32 = 96;
/// Eight clients by one.
const GAIN_MIN: f64 = 2.5;
/// Served by bare.
const SHARE_MIN: f64 = 0.9;
/// A width may fall behind the one before it by this much and still count as no dip: the noise of one block.
const DIP_MAX: f64 = 0.03;

/// Tokens a second of each width, both ways.
struct Block {
    bare: [f64; WIDTHS.len()],
    served: [f64; WIDTHS.len()],
}

/// Both ways to the same work.
struct Arms {
    runner: Runner,
    server: Served,
    words: Words,
}

pub fn rows(effort: Effort) -> Vec<Row> {
    let server = Served::start(["--prefix-cache-mb", "0"]);
    let mut arms = Arms { runner: tax::load().expect("it loads"), server, words: Words::new(site::text()) };
    let own = [arms.server.process()];
    let blocks = Blocks::measure("S5", effort, &own, || arms.block());
    let last = WIDTHS.len() - 1;
    let gain = blocks.middle(|block| block.served[last] / block.served[0]);
    let mut rows = vec![Row {
        id: "S5 gain",
        what: format!("tokens/s of {} clients ÷ one client's, {TOKENS} tokens each", WIDTHS[last]),
        measured: gain.told(),
        target: "≥ 2.5, aim 3",
        met: gain.judged(|gain| gain >= GAIN_MIN),
        figures: json!({"gain": gain.figures(), "rates": rates(&blocks)}),
    }];
    for (at, id) in ["S5 at 1", "S5 at 2", "S5 at 4", "S5 at 8"].into_iter().enumerate() {
        let share = blocks.middle(|block| block.served[at] / block.bare[at]);
        rows.push(Row {
            id,
            what: format!("served ÷ bare tokens/s, {} rows, A-B-B-A", WIDTHS[at]),
            measured: format!("{}; served {:.0}/s", share.told(), blocks.middle(|block| block.served[at]).of_all),
            target: "≥ 0.9",
            met: share.judged(|share| share >= SHARE_MIN),
            figures: share.figures(),
        });
    }
    let step = blocks.middle(|block| {
        let steps = block.served.windows(2).map(|pair| pair[1] / pair[0]);
        steps.fold(f64::INFINITY, f64::min)
    });
    rows.push(Row {
        id: "S5 shape",
        what: "least gain from one width to the next, 1, 2, 4, 8".to_owned(),
        measured: step.told(),
        target: "≥ 1, no dip",
        met: step.judged(|step| step >= 1.0 - DIP_MAX),
        figures: step.figures(),
    });
    rows
}

/// Every width's rates, for the reader.
fn rates(blocks: &Blocks<Block>) -> Value {
    let of = |rate: fn(&Block) -> &[f64; WIDTHS.len()]| {
        (0..WIDTHS.len()).map(|at| blocks.middle(|block| rate(block)[at]).of_all).collect::<Vec<_>>()
    };
    json!({"widths": WIDTHS, "bare": of(|block| &block.bare), "served": of(|block| &block.served)})
}

impl Arms {
    /// Each width: bare, served, served, bare.
    fn block(&mut self) -> Block {
        let mut block = Block { bare: [0.0; WIDTHS.len()], served: [0.0; WIDTHS.len()] };
        for (at, width) in WIDTHS.into_iter().enumerate() {
            let conversations: Vec<_> = (0..width).map(|_| self.words.unique(PROMPT_TOKENS)).collect();
            let first = self.bare(&conversations);
            let served = (self.served(&conversations), self.served(&conversations));
            block.bare[at] = f64::midpoint(first, self.bare(&conversations));
            block.served[at] = f64::midpoint(served.0, served.1);
        }
        block
    }

    fn served(&self, conversations: &[Vec<Value>]) -> f64 {
        let body = |messages: &Vec<Value>| stream::conversation(messages, TOKENS).to_string();
        let streams = self.server.ask_all(&conversations.iter().map(body).collect::<Vec<_>>());
        for stream in &streams {
            let [prompt, cached, tokens] = stream.usage();
            assert_eq!(
                (prompt, cached, tokens),
                (PROMPT_TOKENS as u64, 0, u64::from(TOKENS)),
                "all of the work is done"
            );
        }
        served::rate(&streams, TOKENS)
    }

    /// The same tokens without a server: the rate of all steps but the first, which has the prompts behind it.
    fn bare(&mut self, conversations: &[Vec<Value>]) -> f64 {
        let rows: Vec<RowId> = (0..conversations.len() as u64).map(RowId).collect();
        for (row, messages) in rows.iter().zip(conversations) {
            let scope = Arc::from(row.0.to_string());
            self.runner.open(*row, Ask::new(&self.words.encode(messages), &scope, &Sampling::greedy()));
            self.runner.begin(*row).expect("there is memory");
            while self.runner.prefill(*row, PROMPT_TOKENS as u32).expect("the model runs") > 0 {}
        }
        self.step(&rows);
        let begun = Instant::now();
        (1..TOKENS).for_each(|_| self.step(&rows));
        let seconds = begun.elapsed().as_secs_f64();
        rows.iter().for_each(|row| self.runner.close(*row));
        f64::from(TOKENS - 1) * rows.len() as f64 / seconds
    }

    fn step(&mut self, rows: &[RowId]) {
        let decoded = self.runner.decode(rows).expect("the model runs");
        assert!(decoded.iter().all(|decoded| !matches!(decoded, Decoded::Failed(_))), "every row goes on");
    }
}
