//! Another program, run to its end within a limit: what it was given, what it said, how it ended. It owns the kill at the
//! limit and the bound on what is kept; it refuses to know what the programs are for. No shell is involved.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes of each stream that are kept; the rest is read and dropped, so that the program is never held up.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long its last words may take after its end: a grandchild may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a program ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The beginning of its stdout.
    pub stdout: String,
    /// The beginning of its stderr.
    pub stderr: String,
}

impl Ended {
    /// Its first words on stderr, else on stdout, fit for one line; or how it ended when it said nothing.
    #[must_use]
    pub fn words(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        match said.lines().find(|line| !line.trim().is_empty()) {
            Some(line) => line.trim().to_owned(),
            None => self.status.to_string(),
        }
    }
}

/// Runs `command` with `input` on its stdin. At the limit it is killed with its whole process group.
///
/// # Errors
/// It cannot be started, or ([`io::ErrorKind::TimedOut`]) it did not end within `limit`; the message names it.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = piped.spawn().map_err(named)?;
    let stdout = listen(child.stdout.take().expect("it is piped"));
    let stderr = listen(child.stderr.take().expect("it is piped"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program that does not read its input is no failure; one that never does is killed at the limit, which ends this.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let status = wait(&mut child, limit).map_err(named)?;
    let heard = |words: &mpsc::Receiver<Vec<u8>>| {
        let bytes = words.recv_timeout(LAST_WORDS).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Ended { status, stdout: heard(&stdout), stderr: heard(&stderr) })
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() >= limit {
            kill_group(child.id());
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not done within {} s", limit.as_secs_f64())));
        }
        std::thread::park_timeout(LOOK);
    }
}

#[allow(unsafe_code)]
fn kill_group(leader: u32) {
    let Ok(leader) = i32::try_from(leader) else { return };
    // SAFETY: no pointer is passed. The child leads a group of its own and has not been waited for, so that its number
    // cannot belong to anybody else; that the group is gone already is fine.
    unsafe { libc::killpg(leader, libc::SIGKILL) };
}

/// Reads to the end on a thread of its own and sends what is kept of it.
fn listen(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let (mut kept, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut some) {
            kept.extend_from_slice(&some[..count.min(KEPT_BYTES_MAX - kept.len())]);
        }
        // Nobody waits any more after a time-out.
        let _ = sender.send(kept);
    });
    receiver
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn what_it_is_given_comes_in_and_what_it_says_comes_out() {
        let ended = run(&mut sh("cat; echo no >&2; exit 3"), b"hello\n", LONG).unwrap();
        assert_eq!((ended.status.code(), ended.stdout.as_str(), ended.words().as_str()), (Some(3), "hello\n", "no"));
        let silent = run(&mut sh("exit 4"), b"", LONG).unwrap();
        assert_eq!(silent.words(), "exit status: 4");
    }

    #[test]
    fn at_the_limit_it_and_its_children_are_killed() {
        let begun = Instant::now();
        let error = run(&mut sh("sleep 60 & sleep 60"), b"", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("/bin/sh: not done within 0.05 s"), "{error}");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn much_is_cut_an_unread_input_is_no_failure_and_a_missing_program_is_named() {
        let ended = run(&mut sh("exec 0<&-; head -c 3000000 /dev/zero"), &vec![0; 1 << 20], LONG).unwrap();
        assert!(ended.status.success());
        assert_eq!(ended.stdout.len(), KEPT_BYTES_MAX);
        let error = run(&mut Command::new("/nowhere/x"), b"", LONG).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/x: "), "{error}");
    }
}
