//! Certificates as files and as rustls sees them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::*;

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Every file below a folder, with its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(contents(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What rustls says to a client certificate, with the authority and the list as `serve` uses them.
fn verdict(paths: &Paths, certificate: &Path, at: OffsetDateTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(paths.ca_certificate()).unwrap()).unwrap();
    let crl = CertificateRevocationListDer::from_pem_file(paths.revocations()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls([crl]);
    let verifier = builder.enforce_revocation_expiration().build().unwrap();
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let seconds = u64::try_from(at.unix_timestamp()).unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier.verify_client_cert(&certificate, &[], time).map(|_| ())
}

#[test]
fn a_first_start_makes_everything_with_its_modes_and_a_second_changes_nothing() {
    let home = home();
    let ensured = ensure(home.path(), &[]).unwrap();
    let paths = &ensured.paths;
    assert_eq!(ensured.made.len(), 7, "{:?}", ensured.made);
    for key in [paths.ca_key(), paths.server_key(), paths.client_key(FIRST_CLIENT)] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    for folder in ["certs", "certs/clients"] {
        assert_eq!(mode(&home.path().join(folder)), 0o700, "{folder}");
    }
    let speech = ensured.speech("https://127.0.0.1:1338").unwrap();
    assert!(speech.contains("curl --cacert ") && speech.contains("https://127.0.0.1:1338/v1/models"), "{speech}");

    let before = contents(home.path());
    let again = ensure(home.path(), &[]).unwrap();
    assert_eq!(again.made, Vec::<PathBuf>::new());
    assert_eq!(again.speech("https://127.0.0.1:1338"), None);
    assert_eq!(before, contents(home.path()));
}

#[test]
fn the_server_certificate_carries_every_name_and_lasts_397_days() {
    let home = home();
    let hosts = ["Mac.Example".to_owned(), "192.168.7.7".to_owned(), "0.0.0.0".to_owned(), "[::]".to_owned()];
    let paths = ensure_at(home.path(), &hosts, now()).unwrap().paths;
    let facts = facts_at(&paths.server_certificate()).unwrap().unwrap();
    let host = host::name().unwrap().to_lowercase();
    for name in ["localhost", "127.0.0.1", "::1", "mac.example", "192.168.7.7", &host] {
        assert!(facts.names.contains(name), "{name} is not in {:?}", facts.names);
    }
    assert!(!facts.names.contains("0.0.0.0") && !facts.names.contains("::"));
    let days = (facts.not_after - now().unix_timestamp() + 3_600) / 86_400;
    assert_eq!(days, 397);
}

#[test]
fn a_new_name_and_a_near_end_renew_the_certificate_and_keep_the_key() {
    let home = home();
    let paths = ensure_at(home.path(), &["one.example".to_owned()], now()).unwrap().paths;
    let key = fs::read(paths.server_key()).unwrap();
    let made = ensure_at(home.path(), &["two.example".to_owned()], now()).unwrap().made;
    assert_eq!(made, [paths.server_certificate()]);
    let names = facts_at(&paths.server_certificate()).unwrap().unwrap().names;
    assert!(names.contains("one.example") && names.contains("two.example"));
    let made = ensure_at(home.path(), &[], now() + Duration::days(368)).unwrap().made;
    assert_eq!(made, [paths.server_certificate(), paths.revocations()]);
    assert_eq!(key, fs::read(paths.server_key()).unwrap());
}

#[test]
fn a_client_is_let_in_until_it_is_revoked_and_an_old_list_lets_nobody_in() {
    let home = home();
    let paths = ensure(home.path(), &[]).unwrap().paths;
    let mut store = Store::open(home.path()).unwrap();
    let authority = authority(&store).unwrap().unwrap();
    issue(&mut store, &authority, "laptop", now()).unwrap();
    drop(store);
    let (first, laptop) = (paths.client_certificate(FIRST_CLIENT), paths.client_certificate("laptop"));
    assert_eq!(verdict(&paths, &first, now()), Ok(()));
    assert_eq!(verdict(&paths, &laptop, now()), Ok(()));
    assert!(verdict(&paths, &paths.server_certificate(), now()).is_err(), "a server certificate is no client's");

    assert_eq!(revoke(home.path(), "laptop", now()).unwrap().len(), 1);
    let refused = verdict(&paths, &laptop, now()).unwrap_err();
    assert_eq!(refused, rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked));
    assert_eq!(verdict(&paths, &first, now()), Ok(()));
    assert!(verdict(&paths, &first, now() + Duration::days(31)).is_err(), "an expired list fails closed");
    assert_eq!(revoke(home.path(), "laptop", now()).unwrap(), Vec::<String>::new());
    assert!(revoke(home.path(), "nobody", now()).unwrap_err().to_string().contains("there is no client nobody"));
}

#[test]
fn a_revoked_name_may_be_issued_again_and_its_old_key_is_kept() {
    let home = home();
    let paths = ensure(home.path(), &[]).unwrap().paths;
    let old = fs::read(paths.client_key(FIRST_CLIENT)).unwrap();
    revoke(home.path(), FIRST_CLIENT, now()).unwrap();
    assert_eq!(ensure(home.path(), &[]).unwrap().made, Vec::<PathBuf>::new(), "a start does not undo a revocation");
    let mut store = Store::open(home.path()).unwrap();
    let authority = authority(&store).unwrap().unwrap();
    assert_eq!(issue(&mut store, &authority, FIRST_CLIENT, now()).unwrap().len(), 2);
    assert_eq!(issue(&mut store, &authority, FIRST_CLIENT, now()).unwrap().len(), 0);
    assert_eq!(verdict(&paths, &paths.client_certificate(FIRST_CLIENT), now()), Ok(()));
    assert_ne!(old, fs::read(paths.client_key(FIRST_CLIENT)).unwrap());
    assert!(contents(home.path()).values().any(|bytes| *bytes == old));
    let text = list(&store, now(), false).unwrap();
    let states: Vec<_> = text.lines().skip(1).map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(states, ["authority", "good", "revoked", "good"], "{text}");
}

#[test]
fn concurrent_first_starts_make_one_authority_and_one_of_each() {
    let home = home();
    let made: usize = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6).map(|_| scope.spawn(|| ensure(home.path(), &[]).unwrap().made.len())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).sum()
    });
    assert_eq!(made, 7);
    let paths = Paths::of(home.path());
    assert_eq!(verdict(&paths, &paths.client_certificate(FIRST_CLIENT), now()), Ok(()));
}

#[test]
fn a_start_that_was_cut_anywhere_is_finished_by_the_next() {
    let whole = home();
    ensure(whole.path(), &[]).unwrap();
    for (path, _) in contents(whole.path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if matches!(name.as_str(), "ca.key" | "register.json" | ".lock") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let ensured = ensure(whole.path(), &[]).unwrap();
        let client = path.parent().unwrap().ends_with("clients");
        // A client's files may have been moved to where the client is; only `certs issue` makes them again.
        assert_eq!(path.exists(), !client, "{name}");
        assert!(client || !ensured.made.is_empty(), "{name}");
        if client {
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn without_the_authoritys_key_a_start_works_and_signing_says_what_is_missing() {
    let home = home();
    let paths = ensure(home.path(), &[]).unwrap().paths;
    fs::remove_file(paths.ca_key()).unwrap();
    assert_eq!(ensure(home.path(), &[]).unwrap().made, Vec::<PathBuf>::new());
    assert!(revoke(home.path(), FIRST_CLIENT, now()).unwrap_err().to_string().contains("ca.key is not in the folder"));
    fs::remove_file(paths.server_certificate()).unwrap();
    let error = ensure(home.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("server.crt is missing; ca.key is not in the folder"), "{error}");
}

#[test]
fn a_torn_register_is_refused_because_it_would_let_revoked_clients_in() {
    let home = home();
    ensure(home.path(), &[]).unwrap();
    let path = home.path().join("certs/register.json");
    fs::write(&path, "{\"crl_number\":").unwrap();
    let error = ensure(home.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("register.json is no register of certificates"), "{error}");
}

#[test]
fn names_that_would_leave_the_folder_or_pose_as_the_server_are_refused() {
    for name in ["", "..", "../x", "a/b", ".x", "-x", "server", "a b", "ä", &"x".repeat(65)] {
        assert!(check_name(name).is_err(), "{name}");
    }
    for name in ["default", "laptop-2.home_1", &"x".repeat(64)] {
        assert!(check_name(name).is_ok(), "{name}");
    }
}
