//! The root folder of everything kept: where it is, whether it can be used, and its making. It owns the rule that only
//! its owner may enter (0700); it refuses to know what lies in it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::mistakes::Mistake;

/// The folder of the default root, below the user's home.
const DEFAULT_FOLDER: &str = ".sanctum-mlx";
/// The mode of the root.
pub const MODE: u32 = 0o700;

/// The root, from a flag, the variable, or the user's home folder.
///
/// # Errors
/// Nothing names it and the user has no home folder.
pub fn root(flag: Option<&Path>) -> Result<PathBuf, Mistake> {
    let user = std::env::var_os("HOME").map(PathBuf::from);
    let variable = std::env::var_os("SANCTUM_MLX_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.map(Path::to_owned)
        .or(variable)
        .map(|path| expand(&path, user.as_deref()))
        .or_else(|| user.as_deref().map(|user| user.join(DEFAULT_FOLDER)))
        .ok_or_else(|| Mistake::new("default of home", "there is no HOME variable", "name the root with --home"))
}

/// A leading `~` becomes the user's home folder; a relative path becomes absolute, for it is written into state files.
pub(crate) fn expand(path: &Path, user: Option<&Path>) -> PathBuf {
    let expanded = match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path.to_owned(),
    };
    std::path::absolute(&expanded).unwrap_or(expanded)
}

/// What is wrong with `home`, tried and not guessed: a folder is written to by making a file and removing it. A folder
/// that is missing is fine if it can be made.
pub(crate) fn check(home: &Path, origin: &impl std::fmt::Display) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let shown = home.display();
    let existing = match nearest_existing(home) {
        Ok(existing) => existing,
        Err(error) => return vec![Mistake::new(origin, format!("{shown}: {error}"), "name a folder that can be made")],
    };
    let Ok(metadata) = fs::metadata(existing) else {
        return vec![Mistake::new(origin, format!("{shown} cannot be looked at"), "name a folder of your own")];
    };
    if !metadata.is_dir() {
        return vec![Mistake::new(origin, format!("{} is not a folder", existing.display()), "name a folder")];
    }
    let mode = metadata.permissions().mode() & 0o777;
    if existing == home && mode & 0o077 != 0 {
        let remedy = format!("only its owner may enter it: chmod 700 {shown}");
        mistakes.push(Mistake::new(origin, format!("{shown} has mode {mode:04o}"), remedy));
    }
    if let Err(error) = try_writing(existing) {
        let wrong = format!("{} is not writable ({error})", existing.display());
        mistakes.push(Mistake::new(origin, wrong, "name a folder that you may write to"));
    }
    mistakes
}

/// Makes the root with its mode if it is missing; leaves an existing one alone.
///
/// # Errors
/// It cannot be made.
pub fn prepare(home: &Path) -> Result<(), Mistake> {
    DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(home)
        .map_err(|error| Mistake::new(home.display(), format!("cannot be made ({error})"), "name another with --home"))
}

/// `path` itself or the closest folder above it that is there.
fn nearest_existing(path: &Path) -> io::Result<&Path> {
    for candidate in path.ancestors() {
        match fs::symlink_metadata(candidate) {
            Ok(_) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Writes to `folder` by making a file and removing it.
pub(crate) fn try_writing(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".sanctum-mlx-writable-{}", uuid::Uuid::new_v4()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_root_below_a_writable_folder_is_fine_and_is_made_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("a/b");
        assert_eq!(check(&home, &"flag --home"), []);
        assert!(!home.exists(), "looking makes nothing");
        prepare(&home).unwrap();
        assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(check(&home, &"flag --home"), []);
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "the trial file is gone");
    }

    #[test]
    fn a_root_that_others_may_enter_or_that_is_a_file_is_a_mistake_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [mistake] = &check(folder.path(), &"flag --home")[..] else { panic!("one mistake") };
        assert!(mistake.to_string().contains("mode 0755; only its owner may enter it: chmod 700"), "{mistake}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let [mistake] = &check(&file, &"flag --home")[..] else { panic!("one mistake") };
        assert!(mistake.to_string().ends_with("is not a folder; name a folder"), "{mistake}");
    }

    #[test]
    fn a_tilde_is_the_users_home_and_a_relative_path_becomes_absolute() {
        assert_eq!(expand(Path::new("~/x"), Some(Path::new("/home/u"))), Path::new("/home/u/x"));
        assert!(expand(Path::new("x"), None).is_absolute());
    }
}
