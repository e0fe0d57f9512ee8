//! The certificates of mutual TLS: made on first start, handed out, revoked, listed. It owns what is made when, so that
//! doing it twice changes nothing and doing it at once from two processes is safe; it refuses to load TLS, which is the
//! listener's.

mod authority;
mod list;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rcgen::KeyPair;
use time::{Duration, OffsetDateTime};

pub use self::store::Paths;

pub(crate) use self::authority::{facts, revocations_window};

use self::authority::{Authority, Facts};
use self::list::list;
use self::store::{Store, Use, check_name};
use crate::config::args::{CertsAction, CertsArgs};
use crate::config::home;
use crate::platform::host;

/// The client that is made with everything else.
pub const FIRST_CLIENT: &str = "default";
/// A server certificate is renewed when this is left of it.
const RENEW_BEFORE: Duration = Duration::days(30);

/// What was made; empty when everything was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensured {
    /// Where everything lies.
    pub paths: Paths,
    /// The files that were written, in their order.
    pub made: Vec<PathBuf>,
}

impl Ensured {
    /// For stderr: what was made and how a client uses it. `None` when nothing was made.
    #[must_use]
    pub fn speech(&self, url: &str) -> Option<String> {
        if self.made.is_empty() {
            return None;
        }
        let list: String = self.made.iter().map(|path| format!("\n  {}", path.display())).collect();
        let (ca, name) = (self.paths.ca_certificate(), FIRST_CLIENT);
        let (certificate, key) = (self.paths.client_certificate(name), self.paths.client_key(name));
        let curl = format!(
            "curl --cacert {} --cert {} --key {} {url}/v1/models",
            ca.display(),
            certificate.display(),
            key.display()
        );
        Some(format!("certificates of mutual TLS were made:{list}\ntry them:\n  {curl}"))
    }
}

/// When each thing that the server shows or trusts ends, in Unix seconds.
///
/// # Errors
/// A file is missing or is not what its name says; the message names it.
pub fn ends(paths: &Paths) -> anyhow::Result<[(&'static str, i64); 3]> {
    let read = |path: PathBuf, end: fn(&str) -> anyhow::Result<i64>| {
        let pem = Store::read(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        end(&pem).with_context(|| path.display().to_string())
    };
    let certificate = |pem: &str| Ok(facts(pem)?.not_after);
    let list = |pem: &str| Ok(revocations_window(pem)?.1);
    Ok([
        ("server", read(paths.server_certificate(), certificate)?),
        ("ca", read(paths.ca_certificate(), certificate)?),
        ("crl", read(paths.revocations(), list)?),
    ])
}

/// `certs …`.
///
/// # Errors
/// What was asked for cannot be done; nothing is half done that a second try would not finish.
pub fn run(args: &CertsArgs) -> anyhow::Result<()> {
    let home = home::root(args.root.home.as_deref())?;
    home::prepare(&home)?;
    let now = OffsetDateTime::now_utc();
    match &args.action {
        CertsAction::Init { tls_host } => {
            let ensured = ensure_at(&home, tls_host, now)?;
            eprintln!(
                "{}",
                ensured.speech("https://127.0.0.1:1338").unwrap_or_else(|| "nothing was missing".to_owned())
            );
        }
        CertsAction::Issue { name } => {
            let mut store = Store::open(&home)?;
            let authority = authority(&store)?.context(NO_KEY)?;
            if issue(&mut store, &authority, name, now)?.is_empty() {
                eprintln!("{name} has a certificate already; revoke it first to make another");
            }
            println!("{}", store.paths.client_certificate(name).display());
            println!("{}", store.paths.client_key(name).display());
        }
        CertsAction::Revoke { name } => {
            let serials = revoke(&home, name, now)?;
            eprintln!("revoked {name}: {}; a running server reads the list at its next start", serials.join(", "));
        }
        CertsAction::List { json } => print!("{}", list(&Store::open(&home)?, now, *json)?),
    }
    Ok(())
}

const NO_KEY: &str = "ca.key is not in the folder of certificates; bring it back to sign anything";

/// Makes what is missing or about to expire: authority, server certificate with these further names, revocation list, and
/// one client if there never was any. Called by `serve` before anything is bound.
///
/// # Errors
/// The folder cannot be written to, a file in it is damaged, or something is missing that only the authority's key,
/// which is elsewhere, could make.
pub fn ensure(home: &Path, tls_names: &[String]) -> anyhow::Result<Ensured> {
    ensure_at(home, tls_names, OffsetDateTime::now_utc())
}

fn ensure_at(home: &Path, tls_names: &[String], now: OffsetDateTime) -> anyhow::Result<Ensured> {
    let mut store = Store::open(home)?;
    let mut made = make_authority(&store, now)?;
    let Some(authority) = authority(&store)? else {
        refuse_gaps(&store.paths)?;
        return Ok(Ensured { paths: store.paths.clone(), made });
    };
    made.extend(make_server(&mut store, &authority, &names(tls_names), now)?);
    if revocations_are_old(&store.paths, now)? {
        sign_revocations(&mut store, &authority, now)?;
        made.push(store.paths.revocations());
    }
    if !store.register.certificates.iter().any(|entry| entry.r#use == Use::Client) {
        made.extend(issue(&mut store, &authority, FIRST_CLIENT, now)?);
    }
    Ok(Ensured { paths: store.paths.clone(), made })
}

/// Without the authority's key nothing can be made, so everything that a start needs must be there.
fn refuse_gaps(paths: &Paths) -> anyhow::Result<()> {
    for path in [paths.server_certificate(), paths.server_key(), paths.revocations()] {
        if !path.exists() {
            bail!("{} is missing; {NO_KEY}", path.display());
        }
    }
    Ok(())
}

/// Makes the authority if there is none. A key without a certificate gets one; a certificate without a key is an
/// authority that is kept elsewhere.
fn make_authority(store: &Store, now: OffsetDateTime) -> anyhow::Result<Vec<PathBuf>> {
    let (certificate, key) = (store.paths.ca_certificate(), store.paths.ca_key());
    if certificate.exists() {
        return Ok(Vec::new());
    }
    let (pair, mut made) = key_at(&key)?;
    let host = host::name().unwrap_or_else(|| "localhost".to_owned());
    Store::write_public(&certificate, &Authority::certify(&pair, &host, now)?)?;
    made.push(certificate);
    Ok(made)
}

/// The authority; `None` when its key is kept elsewhere.
fn authority(store: &Store) -> anyhow::Result<Option<Authority>> {
    let paths = &store.paths;
    let (Some(certificate), Some(key)) = (Store::read(&paths.ca_certificate())?, Store::read(&paths.ca_key())?) else {
        return Ok(None);
    };
    Authority::load(&certificate, &key).with_context(|| format!("cannot use {}", paths.ca_key().display())).map(Some)
}

/// The key pair at `path`, made if it is missing, and the paths that were made.
fn key_at(path: &Path) -> anyhow::Result<(KeyPair, Vec<PathBuf>)> {
    if let Some(pem) = Store::read(path)? {
        let pair = KeyPair::from_pem(&pem).with_context(|| format!("{} is no key in PEM", path.display()))?;
        return Ok((pair, Vec::new()));
    }
    let pair = KeyPair::generate()?;
    Store::write_key(path, &pair.serialize_pem())?;
    Ok((pair, vec![path.to_owned()]))
}

fn make_server(
    store: &mut Store,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: OffsetDateTime,
) -> anyhow::Result<Vec<PathBuf>> {
    let (path, issuer) = (store.paths.server_certificate(), facts_at(&store.paths.ca_certificate())?);
    let (pair, mut made) = key_at(&store.paths.server_key())?;
    let fits = |facts: &Facts| {
        let lasts = facts.not_after > (now + RENEW_BEFORE).unix_timestamp();
        let ours = issuer.as_ref().is_some_and(|issuer| issuer.subject == facts.issuer);
        lasts && ours && facts.public_key == pair.public_key_raw() && names.is_subset(&facts.names)
    };
    let old = facts_at(&path)?;
    if !old.as_ref().is_some_and(fits) {
        // A renewed certificate keeps the names of the old one: a client may know the server by any of them.
        let names = old.map(|facts| facts.names).unwrap_or_default().union(names).cloned().collect();
        let signed = authority.sign_server(&names, &pair, now)?;
        store.register.certificates.push(signed.entry);
        store.save_register()?;
        Store::write_public(&path, &signed.pem)?;
        made.push(path);
    }
    Ok(made)
}

/// What a certificate file says; `None` when it is not there.
fn facts_at(path: &Path) -> anyhow::Result<Option<Facts>> {
    let Some(pem) = Store::read(path)? else { return Ok(None) };
    facts(&pem).with_context(|| path.display().to_string()).map(Some)
}

/// Every name that the server's certificate must carry.
fn names(tls_names: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if let Some(host) = host::name().map(|name| name.to_lowercase()) {
        names.insert(format!("{}.local", host.trim_end_matches(".local")));
        names.insert(host);
    }
    for name in tls_names.iter().map(|name| name.trim_start_matches('[').trim_end_matches(']')) {
        match name.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => {}
            Ok(address) => drop(names.insert(address.to_string())),
            Err(_) => drop(names.insert(name.to_lowercase())),
        }
    }
    names
}

/// A revocation list is renewed at half its life, so that a missed renewal is no outage.
fn revocations_are_old(paths: &Paths, now: OffsetDateTime) -> anyhow::Result<bool> {
    let path = paths.revocations();
    let Some(pem) = Store::read(&path)? else { return Ok(true) };
    let (signed, end) = revocations_window(&pem).with_context(|| path.display().to_string())?;
    Ok(now.unix_timestamp() >= signed + (end - signed) / 2)
}

fn sign_revocations(store: &mut Store, authority: &Authority, now: OffsetDateTime) -> anyhow::Result<()> {
    store.register.crl_number += 1;
    store.save_register()?;
    let pem = authority.sign_revocations(&store.register.certificates, store.register.crl_number, now)?;
    Store::write_public(&store.paths.revocations(), &pem)
}

/// Makes a client's key and certificate; the paths that were made, none when it has both and they are good.
fn issue(store: &mut Store, authority: &Authority, name: &str, now: OffsetDateTime) -> anyhow::Result<Vec<PathBuf>> {
    check_name(name)?;
    let path = store.paths.client_certificate(name);
    if let Some(old) = facts_at(&path)? {
        let entry = store.register.certificates.iter().find(|entry| entry.serial == old.serial);
        let good = entry.is_none_or(|entry| entry.revoked.is_none()) && old.not_after > now.unix_timestamp();
        if good && store.paths.client_key(name).exists() {
            return Ok(Vec::new());
        }
        store.set_aside(name, &old.serial)?;
    }
    let (pair, mut made) = key_at(&store.paths.client_key(name))?;
    let signed = authority.sign_client(name, &pair, now)?;
    store.register.certificates.push(signed.entry);
    store.save_register()?;
    Store::write_public(&path, &signed.pem)?;
    made.push(path);
    Ok(made)
}

/// Revokes every certificate of a client and signs the list; the serials that were revoked now.
fn revoke(home: &Path, name: &str, now: OffsetDateTime) -> anyhow::Result<Vec<String>> {
    check_name(name)?;
    let mut store = Store::open(home)?;
    let authority = authority(&store)?.context(NO_KEY)?;
    let entries = store.register.certificates.iter_mut();
    let mut known = entries.filter(|entry| entry.r#use == Use::Client && entry.name == name).peekable();
    if known.peek().is_none() {
        bail!("there is no client {name}; `certs list` names them");
    }
    let mut serials = Vec::new();
    for entry in known.filter(|entry| entry.revoked.is_none()) {
        entry.revoked = Some(now.unix_timestamp());
        serials.push(entry.serial.clone());
    }
    // Signed even when nothing is new: a crash between register and list is healed by trying again.
    sign_revocations(&mut store, &authority, now)?;
    Ok(serials)
}
