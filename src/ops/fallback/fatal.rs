//! What a server says, or ends with, when another start would end the same way. It owns the table of such words and where
//! the words of the last start begin; it refuses to decide what follows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::ops::supervisor::{Service, Supervisor};
use crate::platform::child;

/// What a line means that holds all of these words, in lower case.
const PATTERNS: [(&[&str], &str); 13] = [
    (&["metallib", "failed"], "the metallib is missing"),
    (&["metallib", "not found"], "the metallib is missing"),
    (&["metallib", "no such file"], "the metallib is missing"),
    (&["is not what was signed"], "the manifest does not hold"),
    (&["error:", ".sha256"], "the manifest or its signature is invalid"),
    (&["code signature", "not valid"], "a signature is invalid"),
    (&["code signature", "invalid"], "a signature is invalid"),
    (&["address already in use"], "its address is in use"),
    (&["out of memory"], "memory ran out"),
    (&["outofmemory"], "memory ran out"),
    (&["insufficient memory"], "memory ran out"),
    (&["segmentation fault"], "it crashed (segmentation fault)"),
    (&["refused again and again"], "its configuration is refused (exit 78)"),
];
/// Exit codes after which a start ends the same way: configuration or, with launchd, a binary that is missing; and
/// systemd's word for the latter.
const CODES: [(i32, &str); 2] =
    [(78, "its configuration is refused, or its binary is missing (exit 78)"), (203, "its binary cannot be executed")];
/// What a start says once its sockets are bound: whatever stands before it is of an earlier one.
const BOUND: &str = "listening: plain ";
/// What one says before that which loads nothing, because those before it ended badly: their words still count.
const LIMPS: &str = "crash loop: ";
/// The end of a log that is read.
const TAIL_BYTES: u64 = 64 << 10;
/// How long the journal may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Why another start would end as the last one did; `None` when nothing says so.
pub(crate) fn of(home: &Path, supervisor: &dyn Supervisor, name: &str, service: &Service) -> Option<String> {
    // The code of one that ended says nothing of one that runs.
    let code = service.last_exit.filter(|_| service.pid.is_none());
    let by_code = code.and_then(|code| CODES.iter().find(|(fatal, _)| *fatal == code));
    by_code.map(|(_, means)| (*means).to_owned()).or_else(|| in_log(&log(home, supervisor, name)))
}

/// The first fatal line since the last start that came as far as its sockets and meant to load.
fn in_log(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut begin, mut limps) = (0, false);
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with(BOUND) && !std::mem::take(&mut limps) {
            begin = at + 1;
        }
        limps |= line.starts_with(LIMPS);
    }
    lines[begin..].iter().find_map(|line| {
        let lower = line.to_lowercase();
        let (_, means) = PATTERNS.iter().find(|(words, _)| words.iter().all(|word| lower.contains(word)))?;
        Some(format!("{means}: {:?}", line.trim()))
    })
}

/// The end of what the server said on stderr: the file that launchd writes, or the user's journal.
fn log(home: &Path, supervisor: &dyn Supervisor, name: &str) -> String {
    if let Ok(text) = tail(&home.join("logs/serve.err")) {
        return text;
    }
    if supervisor.name() != "systemd" {
        return String::new();
    }
    let mut journal = Command::new("journalctl");
    journal.args(["--user", "--no-pager", "--output", "cat", "--lines", "500", "--unit", name]);
    // A user without a journal has a server without a log: nothing is known, and nothing follows.
    child::run(&mut journal, b"", LIMIT).map_or_else(|_| String::new(), |ended| ended.stdout)
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_that_would_come_again_is_known_by_its_words() {
        let cases = [
            ("dyld: code signature in <0> '/r/lib/libmlx.dylib' not valid for use in process", "a signature"),
            ("[metal] Failed to load the default metallib. library not found", "the metallib is missing"),
            ("error: /m/llama is not what was signed: a has SHA-256 00, wants 11", "the manifest does not hold"),
            ("error: /m/manifest.sha256.sig: wants 128 hexadecimal digits", "the manifest or its signature"),
            ("error: cannot listen on 127.0.0.1:1337: Address already in use (os error 48)", "its address is in use"),
            ("Command buffer failed: Insufficient Memory (00000008:kIOGPU...OutOfMemory)", "memory ran out"),
            ("std::bad_alloc: out of memory", "memory ran out"),
            ("zsh: segmentation fault  sanctum-mlx", "it crashed"),
            ("refused again and again: ends in 60 s, so that this is not tried all the time", "its configuration"),
        ];
        for (line, means) in cases {
            let found = in_log(&format!("loading\n{line}\n"));
            assert!(found.as_ref().is_some_and(|found| found.starts_with(means)), "{line}: {found:?}");
        }
        assert_eq!(in_log("INFO ready\nINFO ended status=200\nWARN a client left\n"), None);
    }

    #[test]
    fn what_an_earlier_start_said_is_over() {
        let earlier = "error: cannot listen on x: Address already in use\nlistening: plain x, tls y, admin z\nready\n";
        assert_eq!(in_log(earlier), None);
        let now = format!("{earlier}out of memory\n");
        let ran_out = Some("memory ran out: \"out of memory\"".to_owned());
        assert_eq!(in_log(&now), ran_out);
        let braked = format!("{now}crash loop: 5 starts ended badly; loads again in 60 s\nlistening: plain x\n");
        assert_eq!(in_log(&braked), ran_out, "why it is in its brake");
        assert_eq!(in_log(&format!("{braked}loading\nlistening: plain x\nready\n")), None);
    }
}
