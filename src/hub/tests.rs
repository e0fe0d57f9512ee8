//! Names, paths and downloads, against a hub on loopback.

#[path = "../../tests/it/support/hub.rs"]
mod double;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hub::{Access, HubError, ModelName, Progress};

use double::{Fault, HubDouble, REPOSITORY};

/// A download that tells nobody.
struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn end(&mut self) {}
}

fn files(named: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
    let content = |len: &usize| (0..*len).map(|i| (i * 31 % 251) as u8).collect();
    named.iter().map(|(name, len)| ((*name).to_owned(), content(len))).collect()
}

/// A repository with everything that a load needs and some that it does not.
fn safetensors() -> BTreeMap<String, Vec<u8>> {
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"];
    let mut all = files(&names.map(|name| (name, 50 + name.len())));
    all.extend(files(&[("model.safetensors", 300_000), ("consolidated.safetensors", 10), ("model.onnx", 10)]));
    all
}

struct Scene {
    hub: HubDouble,
    access: Access,
    folder: tempfile::TempDir,
}

fn scene(files: BTreeMap<String, Vec<u8>>) -> Scene {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hub = HubDouble::start(files);
    let access = Access {
        cache: folder.path().join("hub"),
        endpoint: hub.endpoint(),
        token: Some("secret".to_owned()),
        offline: false,
        retry_pause: Duration::ZERO,
        silence_max: Duration::from_secs(10),
    };
    Scene { hub, access, folder }
}

impl Scene {
    fn pull(&self) -> Result<PathBuf, HubError> {
        self.pull_named(REPOSITORY)
    }

    fn pull_named(&self, name: &str) -> Result<PathBuf, HubError> {
        self.access.pull(&ModelName::parse(name).expect("a name"), &mut Silent)
    }

    fn refusal(&self) -> String {
        self.pull().expect_err("refused").to_string()
    }

    fn resolve(&self) -> Result<PathBuf, HubError> {
        self.access.resolve(Some(REPOSITORY), self.folder.path())
    }

    /// The content of every file that was linked.
    fn found(snapshot: &Path) -> BTreeMap<String, Vec<u8>> {
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            (name, fs::read(path).expect("read"))
        };
        fs::read_dir(snapshot).expect("a folder").map(read).collect()
    }
}

#[test]
fn a_pull_brings_what_a_load_needs_and_nothing_else() {
    let scene = scene(safetensors());
    assert!(matches!(scene.resolve(), Err(HubError::NotCached { .. })));
    let snapshot = scene.pull().expect("complete");
    let mut expected = safetensors();
    expected.retain(|name, _| !["README.md", "consolidated.safetensors", "model.onnx"].contains(&name.as_str()));
    assert_eq!(Scene::found(&snapshot), expected);
    assert_eq!(scene.resolve().expect("cached"), snapshot);
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_store() {
    let scene = scene(safetensors());
    scene.pull().expect("complete");
    let seen = scene.hub.seen();
    assert!(seen.iter().all(|request| request.token == (request.server == "hub")), "{seen:?}");
    assert_eq!(seen.iter().filter(|request| request.server == "store").count(), 1);
}

#[test]
fn a_second_pull_asks_for_no_bytes_again() {
    let scene = scene(safetensors());
    let first = scene.pull().expect("complete");
    scene.hub.seen();
    assert_eq!(scene.pull().expect("complete"), first);
    let listing = |path: &str| path.starts_with("/api/");
    assert!(scene.hub.seen().iter().all(|request| request.method == "HEAD" || listing(&request.path)));
}

#[test]
fn an_answer_that_is_cut_is_resumed_at_the_byte_where_it_ended() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Cut(100_000), Fault::Cut(0), Fault::Cut(50_000)]);
    let snapshot = scene.pull().expect("complete");
    assert_eq!(Scene::found(&snapshot)["model.safetensors"], safetensors()["model.safetensors"]);
    let asked: Vec<_> = scene.hub.seen().into_iter().filter(|request| request.server == "store").collect();
    assert_eq!(
        asked.iter().map(|request| request.from).collect::<Vec<_>>(),
        [None, Some(100_000), Some(100_000), Some(150_000)]
    );
}

#[test]
fn a_download_goes_on_where_an_earlier_process_ended() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Cut(120_000)].into_iter().chain(vec![Fault::Cut(0); 5]));
    assert!(matches!(scene.pull(), Err(HubError::Unreachable { tries: 5, .. })));
    assert!(matches!(scene.resolve(), Err(HubError::NotCached { .. })), "half a model is none");
    scene.hub.seen();
    let snapshot = scene.pull().expect("complete");
    assert_eq!(Scene::found(&snapshot)["model.safetensors"], safetensors()["model.safetensors"]);
    let asked = scene.hub.seen().into_iter().find(|request| request.server == "store").expect("asked");
    assert_eq!(asked.from, Some(120_000));
}

#[test]
fn a_store_without_ranges_is_read_from_the_beginning() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Cut(100_000), Fault::NoRanges]);
    let snapshot = scene.pull().expect("complete");
    assert_eq!(Scene::found(&snapshot)["model.safetensors"], safetensors()["model.safetensors"]);
}

#[test]
fn bytes_that_do_not_have_the_announced_hash_are_discarded() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Garbled]);
    let refusal = scene.refusal();
    assert!(refusal.starts_with("model.safetensors: expected SHA-256 "), "{refusal}");
    assert!(scene.resolve().is_err());
    scene.pull().expect("nothing of it was kept");
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Longer]);
    let refusal = scene.refusal();
    assert!(refusal.ends_with("expected 300000 bytes, found more"), "{refusal}");
    scene.pull().expect("nothing of it was kept");
}

#[test]
fn statuses_say_what_can_be_done_about_them() {
    for (status, expected) in [
        (
            401,
            "refused with status 401; it may be private, gated or misspelt: accept its terms on the hub and set HF_TOKEN",
        ),
        (403, "refused with status 403"),
        (404, "not found on the hub (status 404)"),
        (418, "expected status 200, found 418"),
    ] {
        let scene = scene(safetensors());
        scene.hub.fail_with([Fault::Status(status)]);
        let refusal = scene.refusal();
        assert!(refusal.contains(expected), "{refusal}");
        assert_eq!(scene.hub.seen().len(), 1, "{status} is final");
    }
}

#[test]
fn a_busy_hub_is_asked_again_a_bounded_number_of_times() {
    let scene = scene(safetensors());
    scene.hub.fail_with([Fault::Status(429), Fault::Status(503), Fault::Status(500)]);
    scene.pull().expect("the fourth try is answered");
    scene.hub.seen();
    scene.hub.fail_with(vec![Fault::Status(429); 5]);
    let refusal = scene.refusal();
    assert!(refusal.ends_with("the hub answered with status 429 (after 5 tries)"), "{refusal}");
    assert_eq!(scene.hub.seen().len(), 5);
}

#[test]
fn what_the_hub_says_cannot_leave_the_cache_or_go_on_for_ever() {
    for (fault, expected) in
        [(Fault::ClimbingEtag, "expected an etag and a size"), (Fault::Loop, "expected at most 5 redirects")]
    {
        let scene = scene(files(&[("tiny.gguf", 10)]));
        let model = ModelName::parse(REPOSITORY).expect("a name");
        let client = crate::hub::client::Client::new(&scene.access);
        let listing = client.listing(&model).expect("listed");
        scene.hub.fail_with(vec![fault; 6]);
        let refusal = client.announce(&client.file_url(&model, &listing.commit, "tiny.gguf"), "tiny.gguf");
        let refusal = format!("{:?}", refusal.expect_err("refused"));
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn one_gguf_file_is_a_model_and_several_have_to_be_chosen_from() {
    let one = scene(files(&[("tiny.gguf", 5000), ("README.md", 10)]));
    assert!(one.pull().expect("complete").ends_with("tiny.gguf"));
    let several = scene(files(&[("a.gguf", 5000), ("b.gguf", 6000)]));
    let refusal = several.refusal();
    assert!(refusal.ends_with("it has 2 .gguf files; choose one: tests/tiny/a.gguf"), "{refusal}");
    assert!(several.pull_named("tests/tiny/b.gguf").expect("complete").ends_with("b.gguf"));
    let refusal = several.pull_named("tests/tiny/c.gguf").expect_err("absent").to_string();
    assert!(refusal.contains("expected a file c.gguf"), "{refusal}");
    let none = scene(files(&[("README.md", 10)]));
    assert!(none.refusal().contains("expected .safetensors files or a .gguf file"));
}

#[test]
fn offline_a_complete_model_is_found_and_nothing_is_asked_for() {
    let mut scene = scene(safetensors());
    scene.access.offline = true;
    assert!(matches!(scene.pull(), Err(HubError::Offline { .. })));
    scene.access.offline = false;
    let snapshot = scene.pull().expect("complete");
    scene.access.offline = true;
    scene.hub.seen();
    assert_eq!(scene.pull().expect("cached"), snapshot);
    assert!(scene.hub.seen().is_empty());
}

#[test]
fn serve_downloads_a_name_that_is_not_here_yet_and_pull_is_not_needed() {
    let scene = scene(safetensors());
    let obtained = scene.access.obtain(Some(REPOSITORY), scene.folder.path(), &mut Silent).expect("downloaded");
    assert_eq!(scene.resolve().expect("cached"), obtained);
}

#[test]
fn paths_are_taken_as_they_are_and_what_is_no_model_is_refused() {
    let scene = scene(BTreeMap::new());
    let at = |name: &str| scene.folder.path().join(name);
    let resolve = |path: &Path| scene.access.resolve(Some(path.to_str().expect("UTF-8")), scene.folder.path());
    fs::write(at("x.gguf"), "").expect("written");
    fs::write(at("x.txt"), "").expect("written");
    assert_eq!(resolve(&at("x.gguf")).expect("a file"), at("x.gguf"));
    assert_eq!(resolve(scene.folder.path()).expect("a folder"), scene.folder.path());
    assert!(matches!(resolve(&at("x.txt")), Err(HubError::NotAModel { .. })));
    assert!(matches!(resolve(&at("absent.gguf")), Err(HubError::BadName { .. })));
    assert!(scene.hub.seen().is_empty());
}

#[test]
fn without_a_default_model_both_ways_to_get_one_are_named() {
    let scene = scene(BTreeMap::new());
    let refusal = scene.access.resolve(None, scene.folder.path()).expect_err("no default").to_string();
    assert!(refusal.contains("scripts/setup") && refusal.contains("--model") && refusal.contains("pull"), "{refusal}");
    let folder = scene.folder.path().join("models/default");
    fs::create_dir_all(&folder).expect("created");
    assert!(scene.access.resolve(None, scene.folder.path()).is_err(), "an empty folder is no model");
    fs::write(folder.join("model.gguf"), "").expect("written");
    assert_eq!(scene.access.resolve(None, scene.folder.path()).expect("there"), folder);
}

#[test]
fn a_hub_that_does_not_speak_tls_is_a_failure_and_no_panic() {
    let mut scene = scene(BTreeMap::new());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    scene.access.endpoint = format!("https://{}", listener.local_addr().expect("bound"));
    let closing = std::thread::spawn(move || listener.incoming().take(5).for_each(drop));
    assert!(matches!(scene.pull(), Err(HubError::Unreachable { tries: 5, .. })));
    closing.join().expect("it only closes connections");
}

#[test]
fn the_address_of_the_hub_is_the_one_that_hf_hub_has() {
    let endpoint = crate::hub::endpoint_of_hf_hub().expect("known");
    assert!(endpoint.starts_with("https://") && !endpoint.ends_with('/'), "{endpoint}");
}
