//! One file, from what the hub announced to a checked blob in the cache: resumed where an earlier try ended, hashed
//! while it is written, and given its name only when length and SHA-256 are right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256};

use crate::hub::client::{self, Client, Remote, Setback};
use crate::hub::error::HubError;
use crate::hub::progress::Progress;

/// Tries in a row that bring nothing before a download is given up.
pub(super) const TRIES_MAX: u32 = 5;
/// Bytes moved at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Repeats `attempt` while it fails in passing, with a pause that doubles.
pub(super) fn patiently<T>(
    url: &str,
    pause: Duration,
    mut attempt: impl FnMut() -> Result<T, Setback>,
) -> Result<T, HubError> {
    let mut tries = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Setback::Final(error)) => return Err(error),
            Err(Setback::Passing { why, .. }) if tries == TRIES_MAX => {
                return Err(HubError::Unreachable { url: url.to_owned(), why, tries });
            }
            Err(Setback::Passing { why, after }) => {
                tracing::debug!(url, why, tries, "the hub failed; trying again");
                std::thread::sleep(after.unwrap_or(pause * 2_u32.pow(tries - 1)));
                tries += 1;
            }
        }
    }
}

/// Brings `remote` to `blob`, unless it is there.
pub(super) fn download(
    client: &Client,
    remote: &Remote,
    blob: &Path,
    pause: Duration,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    let _lock = lock(blob)?;
    if fs::metadata(blob).is_ok_and(|found| found.len() == remote.bytes) {
        return Ok(());
    }
    let mut part = Part::open(blob.with_added_extension("part"), remote.bytes)?;
    progress.begin(&remote.file, remote.bytes, part.bytes);
    while part.bytes < remote.bytes {
        let before = part.bytes;
        // Each round that brings bytes starts the count of tries anew; rounds are bounded by the bytes of the file.
        patiently(&remote.url, pause, || match receive(client, remote, &mut part, progress) {
            Err(Setback::Passing { .. }) if part.bytes > before => Ok(()),
            other => other,
        })?;
    }
    part.finish(remote, blob)?;
    progress.end();
    Ok(())
}

/// Appends what one answer brings.
fn receive(client: &Client, remote: &Remote, part: &mut Part, progress: &mut dyn Progress) -> Result<(), Setback> {
    let mut answer = client.bytes(remote, part.bytes)?;
    if answer.first != part.bytes {
        // The server has no ranges: what is there is asked for again, and kept out of the file twice.
        part.restart().map_err(Setback::Final)?;
        progress.begin(&remote.file, remote.bytes, 0);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = answer.body.read(&mut buffer).map_err(client::passing)?;
        if len == 0 {
            break;
        }
        if part.bytes + len as u64 > remote.bytes {
            part.discard().map_err(Setback::Final)?;
            let why = format!("expected {} bytes, found more", remote.bytes);
            return Err(Setback::Final(HubError::protocol(&remote.url, why)));
        }
        part.append(&buffer[..len]).map_err(Setback::Final)?;
        progress.advance(len as u64);
    }
    if part.bytes < remote.bytes {
        let why = format!("the answer ended at byte {} of {}", part.bytes, remote.bytes);
        return Err(Setback::Passing { why, after: None });
    }
    Ok(())
}

/// Held while a file is downloaded; the system lets go of it when the process ends, however it ends.
fn lock(blob: &Path) -> Result<File, HubError> {
    let path = blob.with_added_extension("lock");
    let folder = blob.parent().expect("a blob is inside the folder of blobs");
    fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let file = File::create(&path).map_err(HubError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HubError::Busy { path }),
        Err(TryLockError::Error(source)) => Err(HubError::Io { path, source }),
    }
}

/// The beginning of a file, and the hash of it.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Context,
}

impl Part {
    /// What an earlier download left, hashed; nothing if it is longer than it may be.
    fn open(path: PathBuf, bytes_max: u64) -> Result<Self, HubError> {
        let open = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = open.map_err(HubError::io(&path))?;
        let mut part = Self { path, file, bytes: 0, hash: Context::new(&SHA256) };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let len = part.file.read(&mut buffer).map_err(HubError::io(&part.path))?;
            if len == 0 {
                return Ok(part);
            }
            part.bytes += len as u64;
            part.hash.update(&buffer[..len]);
            if part.bytes > bytes_max {
                part.restart()?;
                return Ok(part);
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io(&self.path))?;
        (self.bytes, self.hash) = (0, Context::new(&SHA256));
        Ok(())
    }

    fn discard(&self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(HubError::io(&self.path))
    }

    fn finish(self, remote: &Remote, blob: &Path) -> Result<(), HubError> {
        assert_eq!(self.bytes, remote.bytes, "receive stops at the announced length");
        let hash = self.hash.clone().finish();
        let found: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(expected) = remote.sha256().filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            self.discard()?;
            return Err(HubError::Checksum { file: remote.file.clone(), expected: expected.to_owned(), found });
        }
        self.file.sync_all().map_err(HubError::io(&self.path))?;
        fs::rename(&self.path, blob).map_err(HubError::io(blob))
    }
}
