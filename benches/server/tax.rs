//! S1: what HTTP costs a single stream. The same engine in the same process is read directly and over loopback, the same
//! prompt and the same number of tokens, in interleaved blocks.

use std::time::{Duration, Instant};

use sanctum_mlx::cache::Coding;
use sanctum_mlx::engine::StartFailure;
use sanctum_mlx::job::{Event, Job, Limits, Sampling};
use sanctum_mlx::model::registry;
use sanctum_mlx::runner::{Guesses, MemoryLimit, Runner, RunnerSettings};
use serde_json::{Map, json};

use crate::report::Row;
use crate::site::{self, Site};
use crate::stats::{self, Conditions};
use crate::stream;
use crate::support::http::Connection;
use crate::system::{self, Process};

/// Tokens of one run; the rate is that of all but the first.
const TOKENS: u32 = 48;
/// Blocks that must count.
const BLOCKS: usize = 7;
/// Blocks after which a noisy machine is given up.
const BLOCKS_MAX: usize = 2 * BLOCKS;
/// A run that waits this long in the queue waits for nobody here.
const QUEUE_WAIT: Duration = Duration::from_secs(60);
/// Rows of the backend; one is used.
const ROWS: u32 = 8;
/// More than the question has.
const PROMPT_TOKENS_MAX: u32 = 1_024;
const QUESTION: &str = "Explain in a few sentences why the sky is blue and why sunsets are red.";

/// One A-B-B-A block.
struct Block {
    /// Served rate by bare rate.
    ratio: f64,
    bare: f64,
    conditions: Conditions,
}

/// Both ways to the same tokens.
struct Arms {
    site: Site,
    connection: Connection,
    prompt: Vec<u32>,
    body: String,
    /// Seconds that the client ran and that the process ran, over the served arm.
    client: f64,
    process: f64,
}

/// The row, and the decode rate that was found, for the reader.
pub fn row() -> Row {
    let mut arms = Arms::start();
    arms.check_equal();
    let mut blocks = Vec::new();
    while blocks.len() < BLOCKS_MAX && counted(&blocks).len() < BLOCKS {
        let ((ratio, bare), conditions) = Conditions::around(|| arms.block());
        eprintln!("S1: block {}, ratio {ratio:.4}, {bare:.2} tokens/s, {conditions:?}", blocks.len() + 1);
        blocks.push(Block { ratio, bare, conditions });
    }
    judge(&blocks, arms.client / arms.process)
}

fn judge(blocks: &[Block], client_share: f64) -> Row {
    let fastest = fastest(blocks);
    let (slowed, disturbed) = blocks.iter().fold((0, 0), |(slowed, disturbed), block| {
        let conditions = block.conditions;
        (slowed + u32::from(conditions.slowed(fastest)), disturbed + u32::from(conditions.disturbed()))
    });
    let counted = counted(blocks);
    let every: Vec<f64> = blocks.iter().map(|block| block.ratio).collect();
    let all = stats::median(&mut every.clone());
    let discarded = blocks.len() - counted.len();
    let enough = counted.len() >= BLOCKS;
    let mut ratios: Vec<f64> = counted.iter().map(|block| block.ratio).collect();
    let bare = stats::median(&mut blocks.iter().map(|block| block.bare).collect::<Vec<_>>());
    let (measured, met, found) = if enough {
        let (low, high) = stats::interval(&ratios);
        let middle = stats::median(&mut ratios);
        let figures = json!({"ratio": middle, "low": low, "high": high});
        (format!("{middle:.4}, 95 % in {low:.4} to {high:.4}; {discarded} discarded"), Some(middle >= 0.99), figures)
    } else {
        let text = format!("noisy: {discarded} of {} discarded; {all:.4} over all of them", blocks.len());
        (text, None, json!(null))
    };
    Row {
        id: "S1",
        what: format!("served ÷ bare tokens/s, 1 stream, {TOKENS} tokens, A-B-B-A"),
        measured: format!("{measured}; bare {bare:.1}/s; client {:.1} %", client_share * 100.0),
        target: "≥ 0.99",
        met,
        figures: json!({
            "counted": found, "blocks": every, "blocks_counted": counted.len(), "median_of_all": all,
            "slowed": slowed, "disturbed": disturbed, "bare_tokens_per_second": bare, "client_share": client_share,
            "calibrations": blocks.iter().map(|block| block.conditions.calibration).collect::<Vec<_>>(),
            "foreign_cores": blocks.iter().map(|block| block.conditions.foreign_cores).collect::<Vec<_>>(),
        }),
    }
}

fn fastest(blocks: &[Block]) -> f64 {
    blocks.iter().map(|block| block.conditions.calibration).fold(f64::INFINITY, f64::min)
}

fn counted(blocks: &[Block]) -> Vec<&Block> {
    let fastest = fastest(blocks);
    let quiet = |block: &&Block| !block.conditions.slowed(fastest) && !block.conditions.disturbed();
    blocks.iter().filter(quiet).collect()
}

impl Arms {
    fn start() -> Self {
        let site = start();
        let messages = stream::messages(QUESTION);
        let prompt =
            site.text.prompt(&messages, None, &Map::new(), PROMPT_TOKENS_MAX).expect("the template renders it").tokens;
        let connection = Connection::to(site.address);
        Self { site, connection, prompt, body: stream::body(QUESTION, TOKENS), client: 0.0, process: 0.0 }
    }

    /// Bare, served, served, bare; the ratio of the rates over both runs of each, and the bare rate.
    fn block(&mut self) -> (f64, f64) {
        let seconds = [self.bare().0, self.served(), self.served(), self.bare().0];
        let (bare, served) = (seconds[0] + seconds[3], seconds[1] + seconds[2]);
        (bare / served, 2.0 * f64::from(TOKENS - 1) / bare)
    }

    /// Seconds from the first token to the last, read from the engine, and the tokens.
    fn bare(&self) -> (f64, Vec<u32>) {
        let limits =
            Limits { tokens_max: TOKENS, stop_tokens: Vec::new(), queue_deadline: Instant::now() + QUEUE_WAIT };
        let id = self.site.engine.next_id();
        let job = Job {
            id,
            prompt: self.prompt.clone(),
            scope: "".into(),
            bucket: None,
            sampling: Sampling::greedy(),
            constraint: None,
            limits,
        };
        let mut events = self.site.engine.submit(job).expect("the engine is idle");
        let (mut tokens, mut first, mut last) = (Vec::new(), None, Instant::now());
        self.site.runtime.block_on(async {
            while let Some(event) = events.next().await {
                match event {
                    Event::Admitted | Event::Prefill { .. } | Event::Finished(_) => {}
                    Event::Token(token) => {
                        last = Instant::now();
                        first.get_or_insert(last);
                        tokens.push(token.id);
                    }
                    Event::Failed(failure) => panic!("the engine failed: {failure}"),
                }
            }
        });
        assert_eq!(tokens.len(), TOKENS as usize, "both arms produce the same number of tokens");
        ((last - first.expect("counted above")).as_secs_f64(), tokens)
    }

    /// Seconds from the first piece of text to the last, over HTTP.
    fn served(&mut self) -> f64 {
        let (client, process) = (system::thread_seconds(), Process::this().cpu_seconds());
        let answer = stream::ask(&mut self.connection, &self.body);
        self.client += system::thread_seconds() - client;
        self.process += Process::this().cpu_seconds() - process;
        assert_eq!(answer.timing("predicted_n"), f64::from(TOKENS), "both arms produce the same number of tokens");
        assert_eq!(answer.arrivals.len(), TOKENS as usize, "each token is a piece of text; choose another question");
        answer.rest().as_secs_f64()
    }

    /// Both arms say the same words before anything is measured; this also warms both.
    fn check_equal(&mut self) {
        let (_, tokens) = self.bare();
        let answer = stream::ask(&mut self.connection, &self.body);
        let mut detokenizer = self.site.text.detokenizer();
        let text: String = tokens.iter().map(|token| detokenizer.push(*token)).collect();
        assert_eq!(answer.text(), text + &detokenizer.finish(), "both arms give the same answer");
        assert_eq!(answer.timing("prompt_n"), self.prompt.len() as f64, "both arms have the same prompt");
    }
}

/// A server on the default model.
pub fn start() -> Site {
    Site::start(site::text(), load)
}

/// The default model, ready to run on the calling thread.
pub fn load() -> Result<Runner, StartFailure> {
    let checkpoint = site::checkpoint();
    let plan = registry::check(&checkpoint).expect("the default model is supported");
    let settings = RunnerSettings {
        rows_max: ROWS,
        memory: MemoryLimit::Bytes(u64::MAX),
        prefix_bytes_max: 0,
        coding: Coding::Plain,
        guesses: Guesses::none(),
    };
    Runner::load(&checkpoint, &plan, settings, &|_| {}).map_err(|failure| StartFailure::Model(failure.to_string()))
}
