//! The binary on the default model as a process of its own, asked over loopback: one stream, or several at once. It owns
//! how their common rate is counted; it refuses to know what is asked and why.

use std::time::Instant;

use serde_json::Value;

use crate::site;
use crate::stream::{self, Streamed};
use crate::support::http::Connection;
use crate::support::server::{Running, Server};
use crate::system::Process;

/// A ready server, stopped when dropped.
pub struct Served {
    running: Running,
}

impl Served {
    /// Starts it with these settings.
    pub fn start<const N: usize>(settings: [&str; N]) -> Self {
        let server = Server::new(&site::model_folder()).with(["--queue-wait-seconds", "600"]).with(settings);
        Self { running: server.ready() }
    }

    /// Its way in.
    pub fn connect(&self) -> Connection {
        self.running.connect()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.running.plain())
    }

    pub fn home(&self) -> &std::path::Path {
        self.running.home()
    }

    /// What the kernel knows about it.
    pub fn process(&self) -> Process {
        Process::of(self.running.pid())
    }

    /// Rows that run, as its admin listener says.
    pub fn rows(&self) -> u64 {
        let answer = Connection::to(self.running.admin()).get("/health").expect("the admin listener answers");
        let health: Value = answer.json();
        health["running_rows"].as_u64().unwrap_or_else(|| panic!("health counts no rows: {health}"))
    }

    /// Asks all of these at the same moment, each on a connection of its own.
    pub fn ask_all(&self, bodies: &[String]) -> Vec<Streamed> {
        std::thread::scope(|scope| {
            let ask = |body: &'_ String| {
                let (mut connection, body) = (self.connect(), body.clone());
                scope.spawn(move || stream::ask(&mut connection, &body))
            };
            let threads: Vec<_> = bodies.iter().map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("every stream is whole")).collect()
        })
    }
}

/// Tokens a second of all streams together while all of them run: from the last first piece of text to the first last one.
/// Each has `tokens` tokens; where a piece of text has several, they count as spread evenly.
pub fn rate(streams: &[Streamed], tokens: u32) -> f64 {
    let begun = streams.iter().map(|stream| stream.arrivals[0]).max().expect("there are streams");
    let last = |stream: &Streamed| *stream.arrivals.last().expect("it has text");
    let ended = streams.iter().map(last).min().expect("there are streams");
    assert!(begun < ended, "the streams ran together; give them more tokens");
    let inside = |stream: &Streamed| {
        let pieces = stream.arrivals.iter().filter(|at: &&Instant| begun < **at && **at <= ended).count();
        pieces as f64 * f64::from(tokens) / stream.arrivals.len() as f64
    };
    streams.iter().map(inside).sum::<f64>() / (ended - begun).as_secs_f64()
}
