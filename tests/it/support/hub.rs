//! A hub on loopback for tests: one repository, its files behind the redirects that the real hub makes, and faults on
//! demand. Small files are reached by a relative redirect; large ones lie in a store of another origin, announced by
//! `x-linked-etag`, which is their SHA-256.

// Included by several test binaries, none of which uses all of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ring::digest::{SHA256, digest};
use serde_json::json;

/// The repository that it has.
pub const REPOSITORY: &str = "tests/tiny";
/// The commit that its branch `main` means.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one answer; each is used once, in the order given, by requests of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The hub answers with this status instead.
    Status(u16),
    /// The store ends the connection after this many bytes of the body.
    Cut(usize),
    /// The store ignores the range.
    NoRanges,
    /// The store sends other bytes of the right length.
    Garbled,
    /// The store sends more than was announced.
    Longer,
    /// The hub announces an etag that is a path.
    ClimbingEtag,
    /// The hub redirects to itself for ever.
    Loop,
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `hub` or `store`.
    pub server: &'static str,
    /// `HEAD` or `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// First byte asked for; `None` without a range.
    pub from: Option<usize>,
    /// A token came with it.
    pub token: bool,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    store: SocketAddr,
    ended: AtomicBool,
}

/// Two servers that end when this is dropped.
pub struct HubDouble {
    state: Arc<State>,
    hub: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl HubDouble {
    /// Serves these files.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (hub, store) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().expect("bound");
        let state = Arc::new(State {
            files,
            faults: Mutex::default(),
            seen: Mutex::default(),
            store: address(&store),
            ended: AtomicBool::new(false),
        });
        let hub_address = address(&hub);
        let serve = |listener: TcpListener, server: &'static str| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    if state.ended.load(Ordering::Acquire) {
                        break;
                    }
                    // A client that leaves early is part of some tests.
                    let _ = connection.and_then(|connection| state.answer(&connection, server));
                }
            })
        };
        let threads = vec![serve(hub, "hub"), serve(store, "store")];
        Self { state, hub: hub_address, threads }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Adds faults for the requests to come.
    pub fn fail_with(&self, faults: impl IntoIterator<Item = Fault>) {
        held(&self.state.faults).extend(faults);
    }

    /// What was asked for since the last look.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut held(&self.state.seen))
    }
}

impl Drop for HubDouble {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        for address in [self.hub, self.state.store] {
            // Wakes the thread from its accept; it sees the flag.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("the double does not panic");
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files of this kind lie in the store.
fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".gguf")
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl State {
    fn answer(&self, connection: &TcpStream, server: &'static str) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
        let mut seen = Seen { server, method, path, from: None, token: false };
        while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
            let line = line.to_ascii_lowercase();
            seen.token |= line.starts_with("authorization: bearer ");
            if let Some(range) = line.strip_prefix("range: bytes=") {
                seen.from = range.trim_end_matches('-').parse().ok();
            }
        }
        held(&self.seen).push(seen.clone());
        let mut out = connection;
        out.write_all(&if server == "hub" { self.hub(&seen) } else { self.store(&seen) })
    }

    /// The next fault, if it is of this kind.
    fn fault(&self, is_mine: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = held(&self.faults);
        faults.front().is_some_and(is_mine).then(|| faults.pop_front()).flatten()
    }

    fn hub(&self, seen: &Seen) -> Vec<u8> {
        let is_mine = |fault: &Fault| matches!(fault, Fault::Status(_) | Fault::ClimbingEtag | Fault::Loop);
        let fault = self.fault(is_mine);
        if let Some(Fault::Status(status)) = fault {
            return response(status, &["retry-after: 0".to_owned()], b"", seen);
        }
        if seen.path == format!("/api/models/{REPOSITORY}/revision/main") {
            let siblings: Vec<_> = self.files.keys().map(|file| json!({ "rfilename": file })).collect();
            return response(200, &[], json!({ "sha": COMMIT, "siblings": siblings }).to_string().as_bytes(), seen);
        }
        let resolve = seen.path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/"));
        let cached = seen.path.strip_prefix("/cached/");
        let Some((file, bytes)) = resolve.or(cached).and_then(|file| self.files.get_key_value(file)) else {
            return response(404, &[], b"", seen);
        };
        match fault {
            Some(Fault::Loop) => return response(302, &[format!("location: {}", seen.path)], b"", seen),
            Some(Fault::ClimbingEtag) => return response(200, &["etag: \"../../../x\"".to_owned()], bytes, seen),
            _ => {}
        }
        if is_large(file) {
            let location = format!("location: http://{}/{file}?signature=x", self.store);
            let etag = format!("x-linked-etag: \"{}\"", sha256(bytes));
            return response(302, &[location, etag, format!("x-linked-size: {}", bytes.len())], b"", seen);
        }
        if resolve.is_some() {
            return response(307, &[format!("location: /cached/{file}")], b"", seen);
        }
        response(200, &[format!("etag: W/\"{}\"", &sha256(bytes)[..40])], bytes, seen)
    }

    fn store(&self, seen: &Seen) -> Vec<u8> {
        let file = seen.path.trim_start_matches('/').split('?').next().unwrap_or_default();
        let Some(bytes) = self.files.get(file) else { return response(404, &[], b"", seen) };
        let is_mine = |fault: &Fault| !matches!(fault, Fault::Status(_) | Fault::ClimbingEtag | Fault::Loop);
        let fault = self.fault(is_mine);
        let from = seen.from.filter(|_| fault != Some(Fault::NoRanges));
        if from.is_some_and(|from| from >= bytes.len()) {
            return response(416, &[], b"", seen);
        }
        let part = &bytes[from.unwrap_or(0)..];
        let body = match fault {
            Some(Fault::Garbled) => part.iter().map(|byte| !byte).collect(),
            Some(Fault::Longer) => [part, b"and more"].concat(),
            _ => part.to_vec(),
        };
        let range = from.map(|from| format!("content-range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len()));
        let status = if range.is_some() { 206 } else { 200 };
        let mut answer = response(status, range.as_slice(), &body, seen);
        if let Some(Fault::Cut(len)) = fault {
            answer.truncate(answer.len() - body.len() + len);
        }
        answer
    }
}

fn response(status: u16, headers: &[String], body: &[u8], seen: &Seen) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    let body = if seen.method == "HEAD" { b"" } else { body };
    [head.as_bytes(), b"\r\n", body].concat()
}
