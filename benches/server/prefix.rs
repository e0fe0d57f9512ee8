//! S4: the first token of a prompt whose beginning the server has computed before, beside that of one it has never seen.

use serde_json::json;

use crate::blocks::Blocks;
use crate::effort::Effort;
use crate::report::Row;
use crate::served::Served;
use crate::words::{self, Words};
use crate::{site, stream};

/// Tokens that are known, and those that are new.
const KNOWN_TOKENS: usize = 1_000;
const NEW_TOKENS: usize = 24;
/// Of an answer; the first one is measured.
const TOKENS: u32 = 2;
/// Of a prompt that nobody has sent: what every template begins with.
const CACHED_TOKENS_MAX: u64 = 8;
/// Of a known beginning, what may be computed again all the same.
const COMPUTED_AGAIN_MAX: u64 = 8;
/// The share of what sparing the known tokens could give at best.
const IDEAL_MIN: f64 = 0.6;
/// The hit's time by the cold one's.
const SHARE_MAX: f64 = 0.1;

/// Seconds to the first token.
struct Block {
    cold: f64,
    hit: f64,
    /// What sparing the known tokens gives at best: all tokens by those that are computed.
    ideal: f64,
}

pub fn rows(effort: Effort) -> Vec<Row> {
    let server = Served::start([]);
    let words = Words::new(site::text());
    let blocks = Blocks::measure("S4", effort, &[server.process()], || block(&server, &words));
    let gain = blocks.middle(|block| block.cold / block.hit);
    let of_ideal = blocks.middle(|block| block.cold / block.hit / block.ideal);
    let share = blocks.middle(|block| block.hit / block.cold);
    let (cold, hit) = (blocks.middle(|block| block.cold * 1e3).of_all, blocks.middle(|block| block.hit * 1e3).of_all);
    let times = format!("TTFT {cold:.0} → {hit:.1} ms, {:.1} ×", gain.of_all);
    vec![
        Row {
            id: "S4",
            what: format!("prefix hit, {KNOWN_TOKENS} + {NEW_TOKENS} tokens: cold ÷ hit ÷ ideal"),
            measured: format!("{}; {times}", of_ideal.told()),
            target: "≥ 0.6 of ideal",
            met: of_ideal.judged(|share| share >= IDEAL_MIN),
            figures: json!({"of_ideal": of_ideal.figures(), "gain": gain.figures(), "cold_ms": cold, "hit_ms": hit}),
        },
        Row {
            id: "S4 share",
            what: format!("TTFT with {KNOWN_TOKENS} known tokens ÷ cold TTFT"),
            measured: share.told(),
            target: "≤ 0.1",
            met: share.judged(|share| share <= SHARE_MAX),
            figures: share.figures(),
        },
    ]
}

/// Cold, hit, hit, cold; each hit has an end of its own.
fn block(server: &Served, words: &Words) -> Block {
    let (seed, other) = (words::fresh(), words::fresh());
    let (first, cached) = first_token(server, words, seed);
    assert!(cached <= CACHED_TOKENS_MAX, "{cached} tokens of a prompt that nobody has sent were cached");
    let hits = [0; 2].map(|_| first_token(server, words, seed));
    let (second, _) = first_token(server, words, other);
    let all = (KNOWN_TOKENS + NEW_TOKENS) as u64;
    for (_, cached) in hits {
        let least = KNOWN_TOKENS as u64 - COMPUTED_AGAIN_MAX;
        assert!(cached >= least, "only {cached} of {KNOWN_TOKENS} known tokens were cached");
    }
    let computed = all - hits[0].1.min(hits[1].1);
    Block {
        cold: f64::midpoint(first, second),
        hit: f64::midpoint(hits[0].0, hits[1].0),
        ideal: all as f64 / computed as f64,
    }
}

/// Seconds to the first token, and the tokens that were cached.
fn first_token(server: &Served, words: &Words, seed: u64) -> (f64, u64) {
    let body = stream::conversation(&words.known(seed, KNOWN_TOKENS, NEW_TOKENS), TOKENS);
    let answer = stream::ask(&mut server.connect(), &body.to_string());
    (answer.first().as_secs_f64(), answer.usage()[1])
}
