//! The weights manifest: which files a model has and what is in them, signed. It owns which files belong to a model and
//! when a model is the one that was signed; the server asks before it reads a weight or binds a port.

pub(crate) mod hash;
mod keys;
pub(crate) mod lines;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::config::args::{ManifestAction, ManifestArgs};
use crate::config::home;
use crate::ops::manifest::hash::Cache;
use crate::ops::manifest::lines::Lines;
use crate::ops::state::State;
use crate::platform::files;

/// Beside a model's files; `<file>.sha256` beside a model of one file.
const NAME: &str = "manifest.sha256";
/// What the signature's name adds.
const SIGNATURE: &str = ".sig";
/// Where hashes are remembered, below `<home>/state`.
const CACHE: &str = "manifest-cache";
/// Deepest folder within a model's.
const DEPTH_MAX: usize = 8;

/// A model that was found to be the one that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Files that were compared.
    pub files: usize,
    /// Bytes that had to be read; the rest was known from an earlier run.
    pub bytes_read: u64,
}

/// `manifest …`.
///
/// # Errors
/// It cannot be done, or the model is not the one that was signed; the message names the file.
pub fn run(args: &ManifestArgs) -> anyhow::Result<()> {
    let home = home::root(args.root.home.as_deref())?;
    let keys = keys::Paths::of(&home);
    match &args.action {
        ManifestAction::Keygen => {
            keys::generate(&keys)?;
            println!("{}\n{}", keys.private.display(), keys.public.display());
        }
        ManifestAction::Sign { model, key } => {
            let place = sign(&home, model, key.as_ref().unwrap_or(&keys.private))?;
            println!("{}", place.display());
        }
        ManifestAction::Verify { model, key } => {
            let Verified { files, bytes_read } = verify(&home, model, key.as_ref().unwrap_or(&keys.public))?;
            println!("{files} files are what was signed; {} MB were read", bytes_read / 1_000_000);
        }
    }
    Ok(())
}

/// Where a model's files and its manifest lie.
struct Place {
    folder: PathBuf,
    /// The one file of a model that is one.
    only: Option<String>,
    manifest: PathBuf,
}

impl Place {
    fn of(model: &Path) -> anyhow::Result<Self> {
        let facts = fs::metadata(model).with_context(|| model.display().to_string())?;
        if facts.is_dir() {
            let manifest = model.join(NAME);
            return Ok(Self { folder: model.to_owned(), only: None, manifest });
        }
        let name = model.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{}: its name is not UTF-8", model.display()))?;
        let folder = model.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { manifest: folder.join(format!("{name}.sha256")), folder, only: Some(name.to_owned()) })
    }

    fn signature(&self) -> PathBuf {
        let mut name = OsString::from(self.manifest.as_os_str());
        name.push(SIGNATURE);
        name.into()
    }

    /// The names of all files that belong to the model. Hidden ones, such as a version control's, do not: no loader
    /// reads them. Links count as what they lead to, for the hub's cache is made of them.
    fn names(&self) -> anyhow::Result<BTreeSet<String>> {
        if let Some(only) = &self.only {
            return Ok(BTreeSet::from([only.clone()]));
        }
        let mut names = BTreeSet::new();
        walk(&self.folder, "", 0, &mut names)?;
        names.remove(NAME);
        names.remove(&format!("{NAME}{SIGNATURE}"));
        ensure!(!names.is_empty(), "{} holds no file", self.folder.display());
        Ok(names)
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, names: &mut BTreeSet<String>) -> anyhow::Result<()> {
    ensure!(depth <= DEPTH_MAX, "{} is nested too deep; is it a loop?", folder.display());
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{}: its name is not UTF-8", path.display()))?;
        if name.starts_with('.') {
            continue;
        }
        let facts = fs::metadata(&path).with_context(|| path.display().to_string())?;
        let name = format!("{prefix}{name}");
        lines::check_name(&name).with_context(|| path.display().to_string())?;
        if facts.is_dir() {
            walk(&path, &format!("{name}/"), depth + 1, names)?;
        } else {
            ensure!(facts.is_file(), "{} is neither a file nor a folder", path.display());
            names.insert(name);
        }
    }
    Ok(())
}

/// Hashes a model, writes its manifest and the signature, and tells where the manifest is.
fn sign(home: &Path, model: &Path, private: &Path) -> anyhow::Result<PathBuf> {
    let place = Place::of(model)?;
    let names: Vec<String> = place.names()?.into_iter().collect();
    let (hashes, _) = hashed(home, &place, &names)?;
    let text = lines::write(&names.into_iter().zip(hashes).collect());
    let signature = keys::sign(private, text.as_bytes())?;
    // The signature first: a crash in between leaves a pair that fails, never one that lies.
    for (path, text) in [(&place.signature(), &signature), (&place.manifest, &text)] {
        files::replace(path, text.as_bytes(), 0o644).with_context(|| path.display().to_string())?;
    }
    Ok(place.manifest)
}

/// Compares a model with its manifest, after the manifest with its signature.
///
/// # Errors
/// There is no manifest, it was not signed by the key, or a file is missing, differs, or is not named in it; the message
/// names each such file.
pub fn verify(home: &Path, model: &Path, public: &Path) -> anyhow::Result<Verified> {
    let place = Place::of(model)?;
    let lines = signed_lines(&place, model, public)?;
    let there = place.names()?;
    let mut wrong = misplaced(&lines, &there);
    let names: Vec<String> = lines.keys().filter(|name| there.contains(*name)).cloned().collect();
    let (hashes, bytes_read) = hashed(home, &place, &names)?;
    wrong.extend(differing(&lines, &names, &hashes));
    if !wrong.is_empty() {
        bail!("{} is not what was signed: {}", model.display(), wrong.join("; "));
    }
    Ok(Verified { files: names.len(), bytes_read })
}

/// What a manifest says, without reading a weight: how many files it names, all of which are there. `None` when there is
/// no manifest. The signature is checked by `public`, or by the usual key.
///
/// # Errors
/// It was not signed by the key, or a file is missing or is not named in it; the message names each such file.
pub(crate) fn glance(home: &Path, model: &Path, public: Option<&Path>) -> anyhow::Result<Option<usize>> {
    let place = Place::of(model)?;
    if !place.manifest.exists() {
        return Ok(None);
    }
    let usual = keys::Paths::of(home).public;
    let lines = signed_lines(&place, model, public.unwrap_or(&usual))?;
    let wrong = misplaced(&lines, &place.names()?);
    ensure!(wrong.is_empty(), "{} is not what was signed: {}", model.display(), wrong.join("; "));
    Ok(Some(lines.len()))
}

/// The files of a model that were changed after its manifest was made; none where there is no manifest.
///
/// # Errors
/// A file cannot be looked at.
pub(crate) fn outlived(model: &Path) -> anyhow::Result<Vec<String>> {
    let place = Place::of(model)?;
    let Ok(made) = fs::metadata(&place.manifest).and_then(|facts| facts.modified()) else { return Ok(Vec::new()) };
    let mut later = Vec::new();
    for name in place.names()? {
        let path = place.folder.join(&name);
        if fs::metadata(&path).and_then(|facts| facts.modified()).with_context(|| path.display().to_string())? > made {
            later.push(name);
        }
    }
    Ok(later)
}

/// The SHA-256 of one file, in lower-case hexadecimal.
///
/// # Errors
/// It cannot be read, or changed while it was.
pub(crate) fn sha256(path: &Path) -> anyhow::Result<String> {
    let (hashes, _) = hash::all(&[path.to_owned()], &mut Cache::default())?;
    Ok(lines::hex(&hashes[0]))
}

/// The lines of a manifest whose signature is right.
fn signed_lines(place: &Place, model: &Path, public: &Path) -> anyhow::Result<Lines> {
    let shown = place.manifest.display();
    let text = fs::read_to_string(&place.manifest)
        .with_context(|| format!("{shown} (`sanctum-mlx manifest sign {}` makes it)", model.display()))?;
    let signature = place.signature();
    let signed = fs::read_to_string(&signature).with_context(|| signature.display().to_string())?;
    keys::verify(public, text.as_bytes(), &signed).with_context(|| signature.display().to_string())?;
    lines::read(&text).with_context(|| shown.to_string())
}

/// Files that are named and not there, or there and not named.
fn misplaced(lines: &Lines, there: &BTreeSet<String>) -> Vec<String> {
    let listed: BTreeSet<String> = lines.keys().cloned().collect();
    let gone = listed.difference(there).map(|name| format!("{name} is missing"));
    gone.chain(there.difference(&listed).map(|name| format!("{name} is not in the manifest"))).collect()
}

fn differing(lines: &Lines, names: &[String], hashes: &[lines::Hash]) -> Vec<String> {
    let pairs = names.iter().zip(hashes).filter(|(name, hash)| lines[*name] != **hash);
    pairs
        .map(|(name, hash)| format!("{name} has SHA-256 {}, wants {}", lines::hex(hash), lines::hex(&lines[name])))
        .collect()
}

/// The hashes of `names`; a cache that cannot be kept costs time, nothing else.
fn hashed(home: &Path, place: &Place, names: &[String]) -> anyhow::Result<(Vec<lines::Hash>, u64)> {
    let paths: Vec<PathBuf> = names.iter().map(|name| place.folder.join(name)).collect();
    let paths: Vec<PathBuf> = paths.iter().map(|path| std::path::absolute(path).unwrap_or(path.clone())).collect();
    let state = State::of(home, CACHE);
    let mut cache: Cache = state.read();
    let before = cache.clone();
    let hashes = hash::all(&paths, &mut cache)?;
    if cache != before
        && let Err(error) = state.write(&cache)
    {
        eprintln!("manifest: {error}; the next run reads everything again");
    }
    Ok(hashes)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
