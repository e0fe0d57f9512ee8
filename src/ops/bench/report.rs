//! What a run tells: what was measured, how, the figures, and what they mean; as a table for people and as JSON. Printing
//! only: nothing here measures and nothing judges.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::args::BenchArgs;
use crate::ops::bench::figures::{DEFINITIONS, Figures, Slo, Spread};

/// The server, as it describes itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Subject {
    pub(super) url: String,
    /// `plain` or `mtls`.
    pub(super) transport: &'static str,
    pub(super) model: String,
    pub(super) quantization: Option<String>,
    /// One start of the process.
    pub(super) instance: Option<String>,
    pub(super) version: Option<String>,
    /// Its words for version, model and weights together.
    pub(super) fingerprint: Option<String>,
}

/// What every request asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Work {
    pub(super) prompt_tokens: u32,
    pub(super) shared_prefix_tokens: u32,
    pub(super) tokens: u32,
    /// Of each client of a closed loop.
    pub(super) requests_per_client: u32,
    /// How long an open loop sends.
    pub(super) rate_seconds: u32,
    pub(super) seed: u64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) date: String,
    /// The version of this program, which asked.
    pub(super) client: &'static str,
    #[serde(rename = "server")]
    pub(super) subject: Subject,
    #[serde(rename = "request")]
    pub(super) work: Work,
    pub(super) slo: Slo,
    /// Cores that the client took on average.
    pub(super) client_cores: f64,
    pub(super) stages: Vec<Figures>,
    pub(super) definitions: BTreeMap<&'static str, &'static str>,
}

impl Work {
    pub(super) fn of(args: &BenchArgs) -> Self {
        Self {
            prompt_tokens: args.prompt_tokens,
            shared_prefix_tokens: args.shared_prefix,
            tokens: args.tokens,
            requests_per_client: args.requests,
            rate_seconds: args.rate_seconds,
            seed: args.seed,
        }
    }
}

impl Report {
    /// For people: what was measured, a table for each kind of loop, and what the words mean.
    pub(super) fn table(&self) -> String {
        let mut parts = vec![self.head()];
        let stages = |kind: &str| self.stages.iter().filter(|stage| stage.kind == kind).collect::<Vec<_>>();
        let (closed, open) = (stages("closed"), stages("open"));
        if !closed.is_empty() {
            let title = "closed loop: each client asks again when its answer is complete; this is capacity";
            parts.push(format!("{title}\n{}", aligned(&rows(&closed, "clients"))));
        }
        if !open.is_empty() {
            let title =
                "open loop: requests come by chance, whatever the server does; times count from when they were due";
            parts.push(format!("{title}\n{}", aligned(&rows(&open, "requests/s"))));
        }
        let width = self.definitions.keys().map(|word| word.len()).max().unwrap_or(0);
        parts.push(DEFINITIONS.map(|(word, meaning)| format!("{word:width$}  {meaning}")).join("\n"));
        parts.join("\n\n")
    }

    fn head(&self) -> String {
        let Subject { url, transport, model, quantization, instance, version, fingerprint } = &self.subject;
        let told = |text: &Option<String>| text.clone().unwrap_or_else(|| "not told".to_owned());
        let Work { prompt_tokens, shared_prefix_tokens, tokens, requests_per_client, rate_seconds, seed } = &self.work;
        let prompts = match shared_prefix_tokens {
            0 => "no two prompts begin alike".to_owned(),
            shared => format!("the first {shared} alike in all prompts"),
        };
        let Slo { ttft_ms, tpot_ms } = self.slo;
        let lines = [
            ("server", format!("{url}, {transport}, version {}, instance {}", told(version), told(instance))),
            ("model", format!("{model}, weights {}, fingerprint {}", told(quantization), told(fingerprint))),
            ("request", format!("{prompt_tokens} tokens of prompt, {prompts}; {tokens} of answer, greedy, streamed")),
            ("load", format!("{requests_per_client} requests a client; {rate_seconds} s at a rate, seed {seed}")),
            ("objectives", format!("TTFT at most {ttft_ms} ms and TPOT at most {tpot_ms} ms, for goodput")),
            ("client", format!("version {}, took {:.3} cores; {}", self.client, self.client_cores, self.date)),
        ];
        lines.map(|(name, text)| format!("{name:<10}  {text}")).join("\n")
    }
}

/// The figures of stages of one kind, a title line first.
fn rows(stages: &[&Figures], by: &str) -> Vec<Vec<String>> {
    let titles = [by, "answers", "refused", "failed", "tokens/s", "x first", "goodput/s", "TTFT p50", "p90", "p99"];
    let titles = titles.into_iter().chain(["ITL p50", "p90", "p99", "TPOT p50", "p90", "p99", "prompt", "cached"]);
    let first = stages.first().map_or(0.0, |stage| stage.tokens_per_second);
    let row = |stage: &&Figures| {
        let load = stage.clients.map(|clients| clients.to_string()).or(stage.rate.map(|rate| rate.to_string()));
        let ratio = if first > 0.0 { format!("{:.2}", stage.tokens_per_second / first) } else { dash() };
        let cached = stage.cached_tokens_sum as f64 / (stage.prompt_tokens_sum as f64).max(1.0);
        let mut cells = vec![
            load.unwrap_or_else(dash),
            format!("{}/{}", stage.answered, stage.requests),
            stage.refused.to_string(),
            stage.failed.to_string(),
            format!("{:.1}", stage.tokens_per_second),
            ratio,
            format!("{:.2}", stage.goodput_per_second),
        ];
        cells.extend([stage.ttft_ms, stage.itl_ms, stage.tpot_ms].into_iter().flat_map(percentiles));
        cells.push(stage.prompt_tokens.map_or_else(dash, |(least, most)| format!("{least}..{most}")));
        cells.push(format!("{:.0} %", 100.0 * cached));
        cells
    };
    std::iter::once(titles.map(str::to_owned).collect()).chain(stages.iter().map(row)).collect()
}

fn percentiles(spread: Option<Spread>) -> [String; 3] {
    let shown = |figure: Option<f64>| figure.map_or_else(dash, |figure| format!("{figure:.1}"));
    [shown(spread.map(|spread| spread.p50)), shown(spread.map(|spread| spread.p90)), shown(spread.and_then(|s| s.p99))]
}

/// What was not measured.
fn dash() -> String {
    "-".to_owned()
}

/// Lines whose cells stand below each other, to the right as numbers do.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(kind: &'static str, tokens_per_second: f64, p99: Option<f64>) -> Figures {
        let spread = |n| Some(Spread { n, p50: 10.0, p90: 20.25, p99 });
        Figures {
            kind,
            clients: (kind == "closed").then_some(1),
            rate: (kind == "open").then_some(2.5),
            requests: 8,
            answered: 7,
            refused: 1,
            failed: 0,
            wall_seconds: 3.0,
            completion_tokens: 300,
            tokens_per_second,
            requests_per_second: 2.0,
            goodput_per_second: 1.5,
            ttft_ms: spread(7),
            itl_ms: None,
            tpot_ms: spread(7),
            late_ms: None,
            prompt_tokens: Some((126, 129)),
            prompt_tokens_sum: 900,
            cached_tokens_sum: 90,
        }
    }

    fn report() -> Report {
        Report {
            date: "2026-01-02T03:04:05Z".to_owned(),
            client: "0.1.0",
            subject: Subject {
                url: "http://x".to_owned(),
                transport: "plain",
                model: "org/model".to_owned(),
                quantization: Some("Q4_1".to_owned()),
                instance: Some("i".to_owned()),
                version: None,
                fingerprint: None,
            },
            work: Work {
                prompt_tokens: 128,
                shared_prefix_tokens: 0,
                tokens: 64,
                requests_per_client: 8,
                rate_seconds: 30,
                seed: 1,
            },
            slo: Slo { ttft_ms: 500.0, tpot_ms: 50.0 },
            client_cores: 0.0125,
            stages: vec![stage("closed", 100.0, None), stage("closed", 250.0, Some(31.5)), stage("open", 90.0, None)],
            definitions: BTreeMap::from(DEFINITIONS),
        }
    }

    #[test]
    fn the_table_tells_what_was_measured_every_figure_and_what_the_words_mean() {
        insta::assert_snapshot!(report().table());
    }

    #[test]
    fn the_json_has_every_figure_under_its_name() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&report()).expect("plain data"));
    }
}
