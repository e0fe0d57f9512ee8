//! Where nothing may be installed: below a folder that a build, a clone or a set-up owns, for whoever cleans that up would
//! remove what serves. It changes nothing.

use std::fs;
use std::path::Path;

use crate::ops::integrity::in_build_folder;

/// Why nothing may be installed below `home`, which need not be there yet; `None` where it may.
pub(super) fn unfit(home: &Path) -> Option<String> {
    // As much of it as is there already, with its links resolved.
    let real = home.ancestors().find_map(|folder| {
        let rest = home.strip_prefix(folder).ok()?;
        Some(fs::canonicalize(folder).ok()?.join(rest))
    })?;
    let owned = || real.ancestors().find_map(|folder| Some((owner(folder)?, folder)));
    let (what, folder) = in_build_folder(&real).map(|folder| ("the build folder", folder)).or_else(owned)?;
    Some(format!(
        "{} lies in {what} {}, and what is installed must outlive it; name another with --home",
        home.display(),
        folder.display()
    ))
}

/// Whose folder this is, of those that are cleaned up.
fn owner(folder: &Path) -> Option<&'static str> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    if manifest.contains("name = \"sanctum-mlx\"") {
        return Some("the clone");
    }
    let named = folder.file_name().is_some_and(|name| name == "sanctum-mlx");
    (named && folder.join("native").is_dir()).then_some("the set-up folder")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn i3_nothing_is_installed_into_a_build_folder_a_clone_or_the_set_up_folder() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("sanctum-mlx/a/home");
        assert_eq!(unfit(&home), None);
        fs::create_dir_all(folder.path().join("sanctum-mlx/native")).unwrap();
        assert!(unfit(&home).unwrap().contains("the set-up folder"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.with_file_name("Cargo.toml"), "[package]\nname = \"sanctum-mlx\"\n").unwrap();
        assert!(unfit(&home).unwrap().contains("the clone"));
        fs::write(home.join("CACHEDIR.TAG"), "").unwrap();
        assert!(unfit(&home).unwrap().contains("the build folder"));
    }
}
