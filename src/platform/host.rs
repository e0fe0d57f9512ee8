//! Facts about the machine that std does not tell: its name, free disk, memory, the limit on open files, who we are.
//! Each is read when asked; none is cached, and none is judged here.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of a host name with its end; both systems allow at most 255.
const HOST_NAME_BYTES: usize = 256;

/// The machine's name; `None` when it has none in UTF-8.
#[must_use]
pub fn name() -> Option<String> {
    let mut bytes = [0_u8; HOST_NAME_BYTES];
    // SAFETY: the buffer is ours for the length of the call, and the last byte is kept out of the length given, so that
    // a name that was cut still ends.
    let status = unsafe { libc::gethostname(bytes.as_mut_ptr().cast(), bytes.len() - 1) };
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&bytes[..end]).ok()?;
    (status == 0 && !name.is_empty()).then(|| name.to_owned())
}

/// The user that we act as.
#[must_use]
pub fn user_id() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Bytes that we may still write to the disk of `path`.
///
/// # Errors
/// The path is not there.
pub fn disk_bytes_free(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut facts = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero, and `facts` is ours to be filled.
    if unsafe { libc::statvfs(path.as_ptr(), facts.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs returned 0, so it filled the struct.
    let facts = unsafe { facts.assume_init() };
    #[allow(clippy::useless_conversion)] // The widths differ between the two systems.
    Ok(u64::from(facts.f_bavail) * u64::from(facts.f_frsize))
}

/// Bytes of memory in the machine.
#[must_use]
pub fn memory_bytes() -> u64 {
    // SAFETY: sysconf takes a number and has no effect.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

/// Bytes of memory that the process may use: the machine's, or less where a control group says so.
#[must_use]
pub fn memory_bytes_allowed() -> u64 {
    group_limit().map_or(memory_bytes(), |limit| limit.min(memory_bytes()))
}

/// The least memory limit of our control group (version 2) and those around it.
#[cfg(target_os = "linux")]
fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let limit = |folder: &Path| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok();
    folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup")).filter_map(limit).min()
}

/// There are no control groups.
#[cfg(not(target_os = "linux"))]
fn group_limit() -> Option<u64> {
    None
}

/// How many files we may have open: the soft limit and the hard one.
///
/// # Errors
/// The system refuses to say.
pub fn open_files_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours to be filled.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((limit.rlim_cur, limit.rlim_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_its_name_memory_disk_and_limits() {
        assert!(name().is_some_and(|name| !name.is_empty()));
        assert!(memory_bytes() > 64 << 20);
        assert!((1 << 20..=memory_bytes()).contains(&memory_bytes_allowed()));
        assert!(disk_bytes_free(Path::new("/")).is_ok());
        assert!(disk_bytes_free(Path::new("/nowhere/at/all")).is_err());
        assert!(open_files_limit().is_ok_and(|(soft, hard)| soft > 0 && soft <= hard));
    }
}
