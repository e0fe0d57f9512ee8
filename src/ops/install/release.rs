//! A release folder: the program and everything it loads that is not the system's, copied to a place that no build cleans
//! up. It is made beside its place and renamed into it, with its record written last, so that a folder of this name is
//! whole or is not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::ops::installed::{self, Recorded, Release, modified_ns};
use crate::ops::integrity::in_build_folder;
use crate::ops::manifest::sha256;
use crate::platform::{child, objects};

/// How long the new program may take to say what it has loaded.
const SELF_LIMIT: Duration = Duration::from_secs(60);
/// Characters of a hash that tell two builds of one revision apart.
const SHORT_HASH: usize = 8;
/// Beside the program on a Mac, where MLX looks first.
const METALLIB: &str = "mlx.metallib";

/// What a release is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources {
    /// The names in the release with the files that they are copied from.
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Sources {
    /// This process's own program and what it has loaded.
    ///
    /// # Errors
    /// The system does not say what that is, or a folder cannot be read.
    pub(super) fn of_process() -> anyhow::Result<Self> {
        let program = fs::canonicalize(std::env::current_exe()?)?;
        let mut files = BTreeMap::from([(PathBuf::from("bin/sanctum-mlx"), program.clone())]);
        let metallib = program.with_file_name(METALLIB);
        if metallib.exists() {
            files.insert(Path::new("bin").join(METALLIB), metallib);
        }
        for object in objects::mapped()?.into_iter().filter(|path| *path != program && !objects::is_of_system(path)) {
            // Whole folders: a library may be there under a second name, by which another one asks for it.
            let folder = object.parent().context("a mapped file is in a folder")?.to_owned();
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if path.is_file() && (name.contains(".so") || name.ends_with(".dylib")) {
                    files.insert(Path::new("lib").join(&name), path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The name of the release that these would be, and whether it is there already: a second build of the same revision
    /// gets a name of its own.
    pub(super) fn name(&self, home: &Path, version: &str, revision: &str) -> anyhow::Result<(String, bool)> {
        let plain = format!("{version}-{revision}");
        let hash = sha256(&self.files[Path::new("bin/sanctum-mlx")])?;
        let long = format!("{plain}-{}", &hash[..SHORT_HASH]);
        for name in [&plain, &long] {
            let folder = installed::releases(home).join(name);
            if !folder.exists() {
                return Ok((name.clone(), false));
            }
            let same = |release: Release| {
                let mut files = release.files.iter();
                files.any(|file| file.path == Path::new("bin/sanctum-mlx") && file.sha256 == hash)
            };
            if Release::of(&folder).is_ok_and(same) {
                return Ok((name.clone(), true));
            }
        }
        bail!("{} is there and is no whole release: remove it", installed::releases(home).join(long).display())
    }

    /// Copies everything to the folder of this name, signs, has the copy prove that it needs nothing else, and tells where
    /// it is.
    ///
    /// # Errors
    /// A file cannot be copied, or the copy would load something that is not in it.
    pub(super) fn lay(&self, home: &Path, name: &str, (version, revision): (&str, &str)) -> anyhow::Result<PathBuf> {
        let releases = installed::releases(home);
        let (folder, beside) = (releases.join(name), releases.join(format!(".{name}.new")));
        if beside.exists() {
            fs::remove_dir_all(&beside).with_context(|| beside.display().to_string())?;
        }
        for (path, from) in &self.files {
            let to = beside.join(path);
            let place = to.parent().context("a name in a release has a folder")?;
            fs::create_dir_all(place).with_context(|| place.display().to_string())?;
            copy(from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        }
        sign(&beside.join("bin/sanctum-mlx"))?;
        prove(&beside)?;
        let files: Vec<Recorded> = self.files.keys().map(|path| recorded(&beside, path)).collect::<Result<_, _>>()?;
        Release::new(version, revision, files).write(&beside)?;
        fs::rename(&beside, &folder).with_context(|| folder.display().to_string())?;
        flush(&releases)?;
        Ok(folder)
    }
}

/// Second names of a release's files, in a folder of the watchers' own, which it tells: what removes the one leaves the
/// other.
///
/// # Errors
/// The release is not whole, or a name cannot be made.
pub(super) fn link(home: &Path, release: &Path) -> anyhow::Result<PathBuf> {
    let name = release.file_name().context("a release has a name")?;
    let all = home.join("watch");
    let (folder, beside) = (all.join(name), all.join(format!(".{}.new", name.to_string_lossy())));
    if Release::of(&folder).is_ok() {
        return Ok(folder);
    }
    for old in [&folder, &beside] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| old.display().to_string())?;
        }
    }
    let record = Release::of(release)?;
    for file in &record.files {
        let to = beside.join(&file.path);
        let place = to.parent().context("a name in a release has a folder")?;
        fs::create_dir_all(place).with_context(|| place.display().to_string())?;
        fs::hard_link(release.join(&file.path), &to).with_context(|| to.display().to_string())?;
    }
    record.write(&beside)?;
    fs::rename(&beside, &folder).with_context(|| folder.display().to_string())?;
    flush(&all)?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to)?;
    let mode = fs::metadata(from)?.permissions().mode() & 0o777;
    fs::set_permissions(to, fs::Permissions::from_mode(mode & !0o022))?;
    Ok(File::open(to)?.sync_all()?)
}

/// Makes a new name survive a power loss.
pub(super) fn flush(folder: &Path) -> anyhow::Result<()> {
    Ok(File::open(folder)?.sync_all()?)
}

/// A hardened run time, signed by nobody in particular: what macOS asks of a program that it starts.
fn sign(program: &Path) -> anyhow::Result<()> {
    const CODESIGN: &str = "/usr/bin/codesign";
    if !cfg!(target_os = "macos") {
        return Ok(());
    }
    let mut command = Command::new(CODESIGN);
    command.args(["--force", "--options", "runtime", "--sign", "-"]).arg(program);
    let ended = child::run(&mut command, b"", SELF_LIMIT)?;
    ensure!(ended.status.success(), "codesign {}: {}", program.display(), ended.words());
    Ok(())
}

/// Starts the copy, which loads what it loads, and has it say where that came from.
fn prove(folder: &Path) -> anyhow::Result<()> {
    let program = folder.join("bin/sanctum-mlx");
    let mut command = Command::new(&program);
    command.args(["doctor", "--self"]).env_remove("LD_LIBRARY_PATH").env_remove("DYLD_LIBRARY_PATH").current_dir("/");
    let ended = child::run(&mut command, b"", SELF_LIMIT)?;
    ensure!(ended.status.success(), "{} doctor --self: {}", program.display(), ended.words());
    Ok(())
}

/// What this process has loaded from outside of its own release and of the system; empty when it carries everything.
///
/// # Errors
/// The system does not say what is loaded.
pub(crate) fn strays() -> anyhow::Result<Vec<PathBuf>> {
    let program = fs::canonicalize(std::env::current_exe()?)?;
    let own = program.parent().and_then(Path::parent).context("the program is in no folder")?.to_owned();
    let outside = |path: &PathBuf| !path.starts_with(&own) && !objects::is_of_system(path);
    // In a build folder even what is its own is somebody else's to remove.
    let built = in_build_folder(&own).is_some();
    Ok(objects::mapped()?.into_iter().filter(|path| outside(path) || (built && *path == program)).collect())
}

/// A file of the folder as it is now.
fn recorded(folder: &Path, path: &Path) -> anyhow::Result<Recorded> {
    let mut recorded = record(&folder.join(path))?;
    path.clone_into(&mut recorded.path);
    Ok(recorded)
}

/// A file as it is now, by its full path.
pub(super) fn record(path: &Path) -> anyhow::Result<Recorded> {
    let facts = fs::metadata(path).with_context(|| path.display().to_string())?;
    let (bytes, modified_ns) = (facts.len(), modified_ns(&facts));
    Ok(Recorded { path: path.to_owned(), bytes, modified_ns, sha256: sha256(path)? })
}
