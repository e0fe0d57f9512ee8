//! `bench`: what a running server gives its users, measured as they see it: time to first token, gaps between tokens,
//! throughput, at 1, 2, 4 … N clients, and latency under a load that does not wait for the server. It owns the order of
//! the measurement and what stops it; it refuses to load a model and to know anything but the wire, so that any server
//! with OpenAI's chat route can be measured.

mod answer;
mod figures;
mod load;
mod prompt;
mod report;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::figures::{DEFINITIONS, Figures, Slo};
use self::load::{Loop, Plan};
use self::prompt::{Prompts, Sizes};
use self::report::{Report, Subject, Work};
use crate::client::Client;
use crate::client::wire::{ChatRequest, Message};
use crate::config::args::BenchArgs;
use crate::ops::target::Target;
use crate::platform::process;

/// Asking what is served takes no longer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// How a run ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Measured {
    /// Every answer that was begun is whole, and has the tokens that were asked for.
    Whole = 0,
    /// There are figures, but some answers failed.
    Partly = 1,
    /// There are none.
    CannotRun = 2,
}

/// `bench`: measures, prints, and says how it ended.
#[must_use]
pub fn run(args: &BenchArgs) -> Measured {
    match measure(args) {
        Ok(report) => {
            if args.json {
                eprintln!("\n{}", report.table());
                println!("{}", serde_json::to_string(&report).expect("texts and numbers are JSON"));
            } else {
                println!("{}", report.table());
            }
            if report.stages.iter().all(|stage| stage.failed == 0) { Measured::Whole } else { Measured::Partly }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            Measured::CannotRun
        }
    }
}

fn measure(args: &BenchArgs) -> anyhow::Result<Report> {
    if args.clients == 0 && args.rate.is_empty() {
        bail!("--clients 0 leaves the closed loop out and no --rate was given: nothing would be measured");
    }
    let target = Target::of(&args.server)?;
    let mut subject = look(&target, args.model.as_deref())?;
    let timeout = Duration::from_secs(u64::from(args.timeout_seconds));
    let sizes = Sizes { tokens: args.prompt_tokens, shared_tokens: args.shared_prefix };
    let client = target.client(timeout)?;
    let prompts = Prompts::fit(sizes, |messages| count(&client, &subject.model, messages))?;
    let plan = Plan { target: &target, timeout, prompts: &prompts, model: &subject.model, tokens: args.tokens };
    eprintln!("bench: warming up");
    let warm = load::closed(&plan, args.clients.max(1), 1)?;
    if let Some(why) = warm.first_failure() {
        bail!("the warm-up failed: {why}");
    }
    let fingerprint = warm.answers().find_map(|answer| answer.fingerprint.clone());

    let slo = Slo { ttft_ms: args.slo_ttft_ms, tpot_ms: args.slo_tpot_ms };
    let (begun, used) = (Instant::now(), process::cpu_seconds()?);
    let mut stages = Vec::new();
    for (at, kind) in loops(args).into_iter().enumerate() {
        eprintln!("bench: {kind}");
        let stage = match kind {
            Loop::Closed { clients } => load::closed(&plan, clients, args.requests)?,
            // Each rate has moments of its own, and the same ones in every run.
            Loop::Open { rate } => load::open(&plan, rate, args.rate_seconds, args.seed + at as u64)?,
        };
        if let Some(why) = stage.first_failure() {
            eprintln!("bench: {kind}: {why}");
        }
        stages.push(Figures::of(kind, &stage, slo));
    }
    let client_cores = (process::cpu_seconds()? - used) / begun.elapsed().as_secs_f64();
    subject.fingerprint = fingerprint;
    Ok(Report {
        date: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        client: env!("CARGO_PKG_VERSION"),
        subject,
        work: Work::of(args),
        slo,
        client_cores,
        stages,
        definitions: BTreeMap::from(DEFINITIONS),
    })
}

/// 1, 2, 4 … and the number asked for; then each rate.
fn loops(args: &BenchArgs) -> Vec<Loop> {
    let doubled = std::iter::successors(Some(1_u32), |clients| clients.checked_mul(2));
    let below = doubled.take_while(|clients| *clients < args.clients);
    let closed = below.chain((args.clients > 0).then_some(args.clients)).map(|clients| Loop::Closed { clients });
    closed.chain(args.rate.iter().map(|rate| Loop::Open { rate: *rate })).collect()
}

/// What is served there, and under which name.
fn look(target: &Target, model: Option<&str>) -> anyhow::Result<Subject> {
    let client = target.client(LOOK_LIMIT)?;
    let reply = client.get("/v1/models")?;
    if reply.status != 200 {
        bail!("{} does not answer: {} {}", target.url, reply.status, reply.excerpt());
    }
    let list: Value = reply.json()?;
    let ids: Vec<&str> = list["data"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str()).collect();
    let at = match model {
        None => Some(0),
        Some(name) => ids.iter().position(|id| *id == name),
    };
    let Some((at, id)) = at.and_then(|at| Some((at, *ids.get(at)?))) else {
        bail!("{} does not serve {}, but: {}", target.url, model.unwrap_or("anything"), ids.join(", "));
    };
    // Only our own servers tell the rest; a peer's 404 is no mistake.
    let health = client.get("/health").ok().and_then(|reply| reply.json::<Value>().ok()).unwrap_or_default();
    let told = |text: &Value| text.as_str().map(str::to_owned);
    Ok(Subject {
        url: target.url.clone(),
        transport: target.transport(),
        model: id.to_owned(),
        quantization: told(&list["data"][at]["quantization"]),
        instance: told(&list["sanctum"]["instance"]),
        version: told(&health["version"]),
        fingerprint: None,
    })
}

/// How many tokens the server counts in a conversation.
fn count(client: &Client, model: &str, messages: Vec<Message>) -> anyhow::Result<u32> {
    let request = ChatRequest {
        model: Some(model.to_owned()),
        messages,
        temperature: 0.0,
        max_completion_tokens: 1,
        stream: false,
    };
    let reply = client.post("/v1/chat/completions", &request)?;
    if reply.status != 200 {
        bail!("the server refuses a chat: {} {}", reply.status, reply.excerpt());
    }
    let tokens = reply.json::<Value>()?["usage"]["prompt_tokens"].as_u64();
    let tokens = tokens.context("the server does not count tokens (`usage.prompt_tokens` is absent)")?;
    Ok(u32::try_from(tokens)?)
}

#[cfg(test)]
mod tests {
    use crate::config::args::{self, Command};

    use super::*;

    fn stages(words: &str) -> Vec<String> {
        let line = std::iter::once("sanctum-mlx").chain(words.split(' ')).map(Into::into);
        let Command::Bench(args) = args::parse(line).expect("it is right").command else { panic!() };
        loops(&args).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn clients_double_up_to_the_number_asked_for_and_rates_follow() {
        assert_eq!(stages("bench"), ["1 client", "2 clients", "4 clients", "8 clients"]);
        assert_eq!(stages("bench --clients 5"), ["1 client", "2 clients", "4 clients", "5 clients"]);
        assert_eq!(stages("bench --clients 1 --rate 0.5,2"), ["1 client", "0.5 requests/s", "2 requests/s"]);
        assert_eq!(stages("bench --clients 0 --rate 3"), ["3 requests/s"]);
    }
}
