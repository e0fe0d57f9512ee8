//! Hashing many large files at once. It owns the threads, the progress on stderr, and the cache by which a file that did
//! not change (same inode, size and time) is not read again; it refuses to know what a hash should be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, stderr};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use ring::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

use crate::ops::manifest::lines::{HASH_BYTES, Hash, hex, unhex};

/// Read at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Most threads; a disk gives no more to further ones.
const THREADS_MAX: usize = 16;
/// Without a terminal, a line is written when another of this many parts is done.
const LINES: u64 = 10;
/// What is hashed sooner than anyone would look gets no line.
const SILENT_BYTES: u64 = 64 << 20;

/// By which a file is taken for unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    changed_s: i64,
    changed_ns: i64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let facts = fs::metadata(path)?;
        Ok(Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            modified_s: facts.mtime(),
            modified_ns: facts.mtime_nsec(),
            // `touch -d` sets the one above back; nobody but the kernel sets this one.
            changed_s: facts.ctime(),
            changed_ns: facts.ctime_nsec(),
        })
    }
}

/// Hashes that need not be computed again, kept between runs.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cache(BTreeMap<PathBuf, Known>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    sha256: String,
}

impl Cache {
    fn hash(&self, path: &Path, stamp: Stamp) -> Option<Hash> {
        let known = self.0.get(path)?;
        (known.stamp == stamp).then(|| unhex::<HASH_BYTES>(&known.sha256)).flatten()
    }

    /// Forgets files that are gone, so that the file does not grow for ever.
    fn prune(&mut self) {
        self.0.retain(|path, _| path.exists());
    }
}

/// The SHA-256 of each of `paths`, in their order, and how many bytes had to be read.
///
/// # Errors
/// A file cannot be read, or changed while it was; the message names it.
pub(crate) fn all(paths: &[PathBuf], cache: &mut Cache) -> anyhow::Result<(Vec<Hash>, u64)> {
    let named = |path: &Path| path.display().to_string();
    let stamps = paths.iter().map(|path| Stamp::of(path).with_context(|| named(path)));
    let stamps: Vec<Stamp> = stamps.collect::<Result<_, _>>()?;
    let known: Vec<Option<Hash>> = paths.iter().zip(&stamps).map(|(path, stamp)| cache.hash(path, *stamp)).collect();
    let mut open: Vec<usize> = (0..paths.len()).filter(|index| known[*index].is_none()).collect();
    // The longest first, so that none is left over at the end.
    open.sort_by_key(|index| std::cmp::Reverse(stamps[*index].bytes));
    let bytes = open.iter().map(|index| stamps[*index].bytes).sum();
    let show = Show::new(bytes);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(known);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX).min(open.len());
    thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            while let Some(index) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = &paths[*index];
                let hash = one(path, stamps[*index], &show).with_context(|| named(path))?;
                found.lock().map_err(|_| anyhow!("another thread panicked"))?[*index] = Some(hash);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    let found = found.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    let hashes: Vec<Hash> = found.into_iter().map(|hash| hash.expect("each was hashed")).collect();
    for ((path, stamp), hash) in paths.iter().zip(stamps).zip(&hashes) {
        cache.0.insert(path.clone(), Known { stamp, sha256: hex(hash) });
    }
    cache.prune();
    Ok((hashes, bytes))
}

fn one(path: &Path, stamp: Stamp, show: &Show) -> anyhow::Result<Hash> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&SHA256);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => {
                context.update(&block[..count]);
                show.advance(count as u64);
            }
        }
    }
    if Stamp::of(path)? != stamp {
        return Err(anyhow!("it changed while it was read"));
    }
    Ok(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// A bar on a terminal, a line for each tenth elsewhere, nothing for little.
#[derive(Debug)]
struct Show {
    bar: ProgressBar,
    lines: bool,
}

impl Show {
    fn new(bytes: u64) -> Self {
        let terminal = stderr().is_terminal();
        let bar = if terminal && bytes > SILENT_BYTES { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        bar.set_length(bytes);
        let template = "hashing {bar:32} {decimal_bytes:>10} of {decimal_total_bytes:10} {decimal_bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a literal"));
        Self { bar, lines: !terminal && bytes > SILENT_BYTES }
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        let (now, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        if self.lines && now * LINES / all.max(1) != (now - bytes.min(now)) * LINES / all.max(1) {
            eprintln!("hashed {} of {} MB", now / 1_000_000, all / 1_000_000);
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes_are_found_and_a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..5).map(|name| folder.path().join(name.to_string())).collect();
        for path in &paths {
            fs::write(path, "abc").unwrap();
        }
        let mut cache = Cache::default();
        let (hashes, bytes) = all(&paths, &mut cache).unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(hashes.iter().all(|hash| hex(hash) == abc) && bytes == 15);
        assert_eq!(all(&paths, &mut cache).unwrap(), (hashes, 0), "nothing is read twice");

        // The same length at the same time, as a hand that wants to hide it would have it.
        let time = fs::metadata(&paths[0]).unwrap().modified().unwrap();
        fs::write(&paths[0], "abd").unwrap();
        File::options().write(true).open(&paths[0]).unwrap().set_modified(time).unwrap();
        fs::remove_file(&paths[4]).unwrap();
        let (hashes, bytes) = all(&paths[..4], &mut cache).unwrap();
        assert!(hex(&hashes[0]) != abc && hex(&hashes[1]) == abc && bytes == 3);
        assert_eq!(cache.0.len(), 4, "the file that is gone is forgotten");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = all(&["/nowhere/x".into()], &mut Cache::default()).unwrap_err();
        assert!(format!("{error:#}").starts_with("/nowhere/x: "), "{error:#}");
    }
}
