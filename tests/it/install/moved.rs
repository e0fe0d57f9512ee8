//! What is installed, started where the clone, the build folder and the set-up folder are gone: hidden from the processes of
//! one mount namespace, because the tests themselves run out of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::{User, binary};
use crate::support::site::signal;
use crate::support::{eventually, tiny};

/// Folders that a clean-up may remove: the clone, and those of the program and of its libraries that are not the system's.
fn removable() -> BTreeSet<PathBuf> {
    let said = Command::new("ldd").arg(binary()).output().expect("ldd is a part of the C library");
    let said = String::from_utf8(said.stdout).expect("UTF-8");
    let objects = said.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new).chain([binary()]);
    let foreign =
        objects.filter(|path| !path.starts_with("/usr") && !path.starts_with("/lib") && !path.starts_with("/lib64"));
    foreign.map(|path| path.parent().expect("a file").to_owned()).chain([env!("CARGO_MANIFEST_DIR").into()]).collect()
}

/// A command that finds `folders` empty.
fn without(folders: &BTreeSet<PathBuf>, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-ec"]);
    command.arg("while [ \"$1\" != -- ]; do mount -t tmpfs none \"$1\"; shift; done; shift; exec \"$@\"").arg("sh");
    // The deeper first: what is hidden already cannot be mounted on.
    command.args(folders.iter().rev()).arg("--").arg(program).current_dir("/").stdin(Stdio::null());
    command
}

fn succeeds(ended: &std::io::Result<Output>) -> bool {
    ended.as_ref().is_ok_and(|ended| ended.status.success())
}

/// Ends the server with the test, however that ends.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn i3_what_is_installed_boots_when_the_clone_the_build_and_the_set_up_are_gone() {
    let removable = removable();
    if !succeeds(&without(&removable, Path::new("true")).output()) {
        println!("folders cannot be hidden here (unshare): nothing was started without them");
        return;
    }
    let user = User::new();
    let model = user.home().join("tiny.gguf");
    std::fs::copy(tiny(), &model).expect("ours");
    let settings = std::fs::read_to_string(user.home().join("config.toml")).expect("ours");
    let others = settings.lines().filter(|line| !line.starts_with("model"));
    let settings: Vec<String> = others.map(str::to_owned).chain([format!("model = \"{}\"", model.display())]).collect();
    std::fs::write(user.home().join("config.toml"), settings.join("\n")).expect("ours");
    user.done(binary(), &["install", "--no-start"]);

    assert!(!succeeds(&without(&removable, binary()).arg("--version").output()), "what was built is hidden");
    let installed = user.home().join("current/bin/sanctum-mlx");
    let itself = without(&removable, &installed).args(["doctor", "--self"]).output();
    assert!(succeeds(&itself), "{itself:?}");
    let mut command = without(&removable, &installed);
    command.args(["serve", "--home"]).arg(user.home()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Served(command.spawn().expect("it starts"));
    eventually("a token of the server without all that", || user.is_ready().then_some(()));
    signal("TERM", server.0.id());
    assert_eq!(server.0.wait().expect("it is ours").code(), Some(0));
}
