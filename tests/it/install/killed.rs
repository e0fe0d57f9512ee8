//! The installer killed at every system call that writes (I3): what `current` names is whole, old or new, and the next run
//! makes it right. The calls are those of a run that nobody disturbs, as `strace` lists them; the test tier takes all that
//! give or take a name, and some of the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{User, another_build, binary};
use crate::support::{tell_trials, trials};

/// Calls that change a disk; those that an architecture does not have are left out by the question mark.
const WRITING: &str = "?open,?openat,?creat,?write,?pwrite64,?copy_file_range,?sendfile,?ftruncate,?fsync,?fdatasync,?chmod,\
    ?fchmod,?fchmodat,?fchmodat2,?mkdir,?mkdirat,?rename,?renameat,?renameat2,?link,?linkat,?symlink,?symlinkat,?unlink,\
    ?unlinkat,?rmdir";
/// The beginnings of those by which a name comes, goes or changes hands.
const NAMING: [&str; 5] = ["rename", "link", "symlink", "unlink", "rmdir"];
/// Of the other calls the test tier takes so many.
const OTHERS: usize = 8;
/// Fewer calls than this are no installation.
const CALLS_MIN: usize = 20;

/// A call by its name and how many of its name came before it, itself included.
type Point = (String, usize);

/// One of ours below `strace`, which has words of its own.
fn traced(user: &User, program: &Path, own: &[&str], words: &[&str]) -> Output {
    let mut command = user.double.command(Path::new("strace"));
    command.args(own).arg(program).args(words).arg("--home").arg(user.home());
    command.output().expect("strace is installed (`apt-get install strace`) and may trace")
}

/// The calls of the main thread, which does all the writing, that change something.
fn points(user: &User, program: &Path, words: &[&str]) -> Vec<Point> {
    let trace = user.double.root().join("trace");
    let file = trace.to_str().expect("UTF-8");
    let own = ["-s", "0", "-e", "signal=none", "-o", file, "-e", &format!("trace={WRITING}")];
    let ended = traced(user, program, &own, words);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for line in std::fs::read_to_string(&trace).expect("it was traced").lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        let reads = name.starts_with("open") && rest.contains("O_RDONLY") && !rest.contains("O_CREAT");
        let speaks = name == "write" && (rest.starts_with("1,") || rest.starts_with("2,"));
        if !reads && !speaks {
            points.push((name.to_owned(), *count));
        }
    }
    assert!(points.len() >= CALLS_MIN, "{points:?}");
    points
}

/// All in the deep tier; else those that concern names, and some of the others.
fn chosen(points: &[Point]) -> Vec<Point> {
    let naming = |(name, _): &&Point| NAMING.iter().any(|begin| name.starts_with(begin));
    let (names, others): (Vec<&Point>, Vec<&Point>) = points.iter().partition(naming);
    let few = trials(OTHERS).min(others.len());
    let some = (0..few).map(|index| others[index * others.len() / few]);
    names.into_iter().chain(some).cloned().collect()
}

fn kill(user: &User, program: &Path, words: &[&str], (name, count): &Point) {
    let own =
        ["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &format!("inject={name}:signal=KILL:when={count}")];
    let ended = traced(user, program, &own, words);
    assert_eq!(ended.status.code(), None, "{name} {count}: it was killed");
}

/// The release that `current` names, which must start and be whole.
fn whole(user: &User, point: &Point) -> PathBuf {
    let current = user.current();
    let program = current.join("bin/sanctum-mlx");
    assert!(current.join("release.json").is_file(), "{point:?}: a release has its record");
    let itself = Command::new(&program).args(["doctor", "--self"]).output().expect("it starts");
    assert!(itself.status.success(), "{point:?}: {}", String::from_utf8_lossy(&itself.stderr));
    current
}

/// Every file holds what was installed; that nothing was started is all that `verify` may have to say.
fn verified(user: &User, point: &Point) {
    let ended = user.run(binary(), &["verify"]);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let started = |line: &&str| !line.starts_with("drift_unloaded: ");
    assert_eq!(said.lines().filter(started).collect::<Vec<_>>(), Vec::<&str>::new(), "{point:?}");
    assert!(said.lines().count() > 1, "{point:?}: the server and its watchers were looked for: {said}");
}

#[test]
fn i3_a_first_install_killed_at_any_call_leaves_nothing_or_a_whole_release_and_the_next_run_repairs() {
    const INSTALL: [&str; 2] = ["install", "--no-start"];
    let points = points(&User::new(), binary(), &INSTALL);
    let chosen = chosen(&points);
    for point in &chosen {
        let user = User::new();
        kill(&user, binary(), &INSTALL, point);
        if std::fs::symlink_metadata(user.home().join("current")).is_ok() {
            whole(&user, point);
        }
        user.done(binary(), &INSTALL);
        whole(&user, point);
        verified(&user, point);
    }
    println!("a first install writes by {} calls", points.len());
    tell_trials("I3", chosen.len(), CALLS_MIN);
}

#[test]
fn i3_an_upgrade_killed_at_any_call_leaves_the_old_release_or_the_new_one_and_the_next_run_repairs() {
    const UPGRADE: [&str; 2] = ["upgrade", "--no-start"];
    let begun = || {
        let user = User::new();
        user.done(binary(), &["install", "--no-start"]);
        user
    };
    let user = begun();
    let (new, old) = (another_build(user.double.root()), user.current());
    let points = points(&user, &new, &UPGRADE);
    let chosen = chosen(&points);
    let mut news = 0;
    for point in &chosen {
        // Everything is to do again.
        user.done(binary(), &["rollback", "--no-start"]);
        assert_eq!(user.current(), old, "{point:?}");
        for folder in ["releases", "watch"] {
            for entry in std::fs::read_dir(user.home().join(folder)).expect("ours") {
                let path = entry.expect("ours").path();
                if path.file_name() != old.file_name() {
                    std::fs::remove_dir_all(path).expect("ours");
                }
            }
        }
        kill(&user, &new, &UPGRADE, point);
        news += usize::from(whole(&user, point) != old);
        user.done(&new, &UPGRADE);
        assert_ne!(whole(&user, point), old, "{point:?}");
        verified(&user, point);
    }
    println!("an upgrade writes by {} calls; {news} of {} kills found the new release", points.len(), chosen.len());
    tell_trials("I3", chosen.len(), CALLS_MIN);
}
