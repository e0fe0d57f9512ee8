//! Signing and verifying small models on disk, and everything that a hand can change in between.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

struct Site {
    home: tempfile::TempDir,
    model: PathBuf,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("models/m");
        fs::create_dir_all(model.join("onnx")).unwrap();
        for (name, text) in
            [("config.json", "{}"), ("model.safetensors", "weights"), ("onnx/x y.bin", "x"), (".git", "")]
        {
            fs::write(model.join(name), text).unwrap();
        }
        keys::generate(&keys::Paths::of(home.path())).unwrap();
        Self { home, model }
    }

    fn sign(&self) -> PathBuf {
        sign(self.home.path(), &self.model, &keys::Paths::of(self.home.path()).private).unwrap()
    }

    fn verify(&self) -> anyhow::Result<Verified> {
        verify(self.home.path(), &self.model, &keys::Paths::of(self.home.path()).public)
    }

    fn refusal(&self) -> String {
        format!("{:#}", self.verify().unwrap_err())
    }
}

#[test]
fn i4_a_signed_model_verifies_and_a_second_time_without_being_read() {
    let site = Site::new();
    site.sign();
    assert_eq!(site.verify().unwrap(), Verified { files: 3, bytes_read: 0 }, "signing hashed them");
    fs::remove_file(site.home.path().join("state/manifest-cache.json")).unwrap();
    assert_eq!(site.verify().unwrap(), Verified { files: 3, bytes_read: 10 });
    assert_eq!(site.verify().unwrap().bytes_read, 0);
}

#[test]
fn i4_a_warm_start_looks_at_many_files_within_a_tenth_of_a_second() {
    /// How late a deadline may be observed, by the rule of the guarantees.
    const SLACK: Duration = Duration::from_millis(250);
    let site = Site::new();
    for shard in 0..200 {
        fs::write(site.model.join(format!("model-{shard:05}-of-00200.safetensors")), [0; 4_096]).unwrap();
    }
    site.sign();
    let since = Instant::now();
    assert_eq!(site.verify().unwrap(), Verified { files: 203, bytes_read: 0 });
    let took = since.elapsed();
    println!("a warm look at 203 files took {took:?}");
    assert!(took <= Duration::from_millis(100) + SLACK, "{took:?}");
    println!("I4, 1 trials run, 1 trials promised");
}

#[test]
fn i4_whatever_is_changed_is_named() {
    let site = Site::new();
    assert!(site.refusal().contains("manifest.sha256 (`sanctum-mlx manifest sign"), "{}", site.refusal());
    let manifest = site.sign();
    fs::write(site.model.join("model.safetensors"), "weightz").unwrap();
    assert!(site.refusal().contains("model.safetensors has SHA-256"), "{}", site.refusal());
    site.sign();
    fs::write(site.model.join("adapter.safetensors"), "").unwrap();
    assert!(site.refusal().contains("adapter.safetensors is not in the manifest"), "{}", site.refusal());
    fs::remove_file(site.model.join("adapter.safetensors")).unwrap();
    fs::remove_file(site.model.join("config.json")).unwrap();
    assert!(site.refusal().contains("config.json is missing"), "{}", site.refusal());
    fs::write(site.model.join("config.json"), "{}").unwrap();
    site.verify().unwrap();

    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("config.json", "konfig.json")).unwrap();
    assert!(site.refusal().contains("what it signed was changed"), "{}", site.refusal());
    fs::write(&manifest, text).unwrap();
    fs::remove_file(site.model.join("manifest.sha256.sig")).unwrap();
    assert!(site.refusal().contains("manifest.sha256.sig"), "{}", site.refusal());
}

#[test]
fn coreutils_checks_our_manifest_too() {
    let site = Site::new();
    site.sign();
    let checked = Command::new("sha256sum").args(["--check", "--strict", NAME]).current_dir(&site.model).output();
    match checked {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr)),
        Err(error) => panic!("sha256sum is in coreutils: {error}"),
    }
}

#[test]
fn links_count_as_what_they_lead_to_and_one_file_has_a_manifest_beside_it() {
    let site = Site::new();
    let blob = site.home.path().join("blob");
    fs::write(&blob, "tokens").unwrap();
    symlink(&blob, site.model.join("tokenizer.json")).unwrap();
    site.sign();
    fs::write(&blob, "tokenz").unwrap();
    assert!(site.refusal().contains("tokenizer.json has SHA-256"), "{}", site.refusal());

    let file = site.home.path().join("x.gguf");
    fs::write(&file, "GGUF").unwrap();
    let one = Site { model: file, ..site };
    assert_eq!(one.sign(), one.home.path().join("x.gguf.sha256"));
    assert_eq!(one.verify().unwrap().files, 1);
}
