//! The folder of certificates: where each file lies, the lock that makes concurrent makers safe, and the register of
//! serials. It owns modes (folder 0700, keys 0600 from creation) and the rule that no key is ever replaced; it refuses to
//! sign anything.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::platform::files;

/// The mode of folders that hold keys.
const FOLDER_MODE: u32 = 0o700;
/// The mode of keys, of the register and of the lock.
const SECRET_MODE: u32 = 0o600;
/// The mode of what everyone may read.
const PUBLIC_MODE: u32 = 0o644;
/// Longest wait for another process that makes certificates.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at a lock that another process holds; it cannot wake us.
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// Longest name of a client.
const NAME_CHARS_MAX: usize = 64;

/// Where each file lies, below `<home>/certs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(PathBuf);

impl Paths {
    /// The paths below the root of everything kept.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self(home.join("certs"))
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_certificate(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// The authority's key; may be moved off the machine.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.0.join("server.crt")
    }

    /// The server's key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.0.join("server.key")
    }

    /// The list of revoked certificates.
    #[must_use]
    pub fn revocations(&self) -> PathBuf {
        self.0.join("crl.pem")
    }

    /// A client's certificate.
    #[must_use]
    pub fn client_certificate(&self, name: &str) -> PathBuf {
        self.clients().join(format!("{name}.crt"))
    }

    /// A client's key.
    #[must_use]
    pub fn client_key(&self, name: &str) -> PathBuf {
        self.clients().join(format!("{name}.key"))
    }

    fn clients(&self) -> PathBuf {
        self.0.join("clients")
    }

    fn register(&self) -> PathBuf {
        self.0.join("register.json")
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Use {
    /// Shown by the server.
    Server,
    /// Shown by a client.
    Client,
}

/// One certificate that the authority signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// A client's name, or `server`.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) r#use: Use,
    /// The serial number, in hexadecimal.
    pub(crate) serial: String,
    /// Its last moment, as Unix seconds.
    pub(crate) not_after: i64,
    /// When it was revoked, as Unix seconds.
    pub(crate) revoked: Option<i64>,
}

/// Everything that the authority signed. Losing it would un-revoke, so a torn one is an error and never set aside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Register {
    /// The number of the last revocation list.
    pub(crate) crl_number: u64,
    /// In the order of signing.
    pub(crate) certificates: Vec<Entry>,
}

/// The folder, held by us alone until it is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) paths: Paths,
    pub(crate) register: Register,
    /// Kept for its lock, which the system gives back when the file is closed.
    _lock: File,
}

impl Store {
    /// Makes the folders if they are missing, takes the lock and reads the register.
    pub(crate) fn open(home: &Path) -> anyhow::Result<Self> {
        let paths = Paths::of(home);
        let clients = paths.clients();
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&clients);
        made.with_context(|| format!("cannot make {}", clients.display()))?;
        let lock = lock(&paths.0.join(".lock"))?;
        let register = read_register(&paths.register())?;
        Ok(Self { paths, register, _lock: lock })
    }

    /// Writes the register. Called before a certificate is written, so that none exists that cannot be revoked.
    pub(crate) fn save_register(&self) -> anyhow::Result<()> {
        let path = self.paths.register();
        let text = serde_json::to_vec_pretty(&self.register)?;
        files::replace(&path, &text, SECRET_MODE).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes what everyone may read, in the place of what was there.
    pub(crate) fn write_public(path: &Path, pem: &str) -> anyhow::Result<()> {
        files::replace(path, pem.as_bytes(), PUBLIC_MODE).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a key where none is.
    pub(crate) fn write_key(path: &Path, pem: &str) -> anyhow::Result<()> {
        files::create(path, pem.as_bytes(), SECRET_MODE).with_context(|| format!("cannot make {}", path.display()))
    }

    /// A file's text; `None` when it is not there.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Gives the files of a revoked client another name, so that its name is free and its key is not lost.
    pub(crate) fn set_aside(&self, name: &str, serial: &str) -> anyhow::Result<()> {
        let aside = format!("{name}.revoked-{}", &serial[..8.min(serial.len())]);
        let moves = [
            (self.paths.client_certificate(name), self.paths.client_certificate(&aside)),
            (self.paths.client_key(name), self.paths.client_key(&aside)),
        ];
        for (from, to) in moves.iter().filter(|(from, _)| from.exists()) {
            ensure!(!to.exists(), "{} is in the way of {}", to.display(), from.display());
            fs::rename(from, to).with_context(|| format!("cannot rename {}", from.display()))?;
        }
        Ok(())
    }
}

/// A client's name becomes a file's name and a subject; anything else is refused.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len()) && !name.starts_with(['.', '-']) && name != "server";
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
    ensure!(
        fits && plain,
        "{name:?} is no client name; wants 1 to {NAME_CHARS_MAX} letters, digits, dots, dashes or underscores, not \
         beginning with a dot or a dash, and not `server`"
    );
    Ok(())
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(SECRET_MODE).open(path);
    let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_LOOK),
            Err(fs::TryLockError::WouldBlock) => {
                bail!("{} is held by another process for {} s", path.display(), LOCK_WAIT.as_secs())
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn read_register(path: &Path) -> anyhow::Result<Register> {
    let Some(text) = Store::read(path)? else { return Ok(Register::default()) };
    serde_json::from_str(&text).with_context(|| {
        let remedy = "restore it from a backup, or begin anew by moving the whole folder away";
        format!(
            "{} is no register of certificates; without it revoked clients would be let in: {remedy}",
            path.display()
        )
    })
}
