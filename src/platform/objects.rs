//! The files that the loader has mapped into this process as code: its program and its libraries, by the paths under which
//! they are on disk. It refuses to know which of them should be there.

use std::io;
use std::path::{Path, PathBuf};

/// Folders of the system, which are there on any machine like this one.
const SYSTEM: [&str; 6] = ["/lib", "/lib64", "/lib32", "/usr", "/System", "/Library/Apple"];

/// Whether a file belongs to the system.
#[must_use]
pub fn is_of_system(path: &Path) -> bool {
    SYSTEM.iter().any(|folder| path.starts_with(folder)) && !path.starts_with("/usr/local")
}

/// Every file that is mapped as code, each once.
///
/// # Errors
/// The system does not say.
#[cfg(target_os = "linux")]
pub fn mapped() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/maps")?;
    // `address perms offset device inode path`: only the path may hold spaces.
    let path = |line: &str| -> Option<PathBuf> {
        let mut fields = line.splitn(6, ' ');
        let executable = fields.nth(1)?.contains('x');
        let path = fields.nth(3)?.trim_start();
        (executable && path.starts_with('/')).then(|| path.into())
    };
    let mut paths: Vec<PathBuf> = text.lines().filter_map(path).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Every file that is mapped as code, each once.
///
/// # Errors
/// The system does not say.
#[cfg(target_os = "macos")]
#[allow(unsafe_code, deprecated)] // libc would have us use another crate for dyld.
pub fn mapped() -> io::Result<Vec<PathBuf>> {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    // SAFETY: it takes nothing.
    let count = unsafe { libc::_dyld_image_count() };
    let path = |index: u32| -> Option<PathBuf> {
        // SAFETY: an index that is too high gives a null pointer.
        let name = unsafe { libc::_dyld_get_image_name(index) };
        if name.is_null() {
            return None;
        }
        // SAFETY: dyld keeps the name, which ends with a zero, as long as the image is loaded; none of ours is unloaded.
        let name = unsafe { CStr::from_ptr(name) };
        Some(OsStr::from_bytes(name.to_bytes()).into())
    };
    let mut paths: Vec<PathBuf> = (0..count).filter_map(path).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_mapped_and_the_c_library_is_the_systems() {
        let paths = mapped().unwrap();
        let program = std::fs::canonicalize(std::env::current_exe().unwrap()).unwrap();
        assert!(paths.contains(&program), "{paths:?}");
        assert!(!is_of_system(&program));
        assert!(paths.iter().any(|path| is_of_system(path)));
        assert!(!is_of_system(Path::new("/usr/local/lib/x.so")));
    }
}
