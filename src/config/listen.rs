//! Where the server may listen: host names to addresses, the rule that plain HTTP stays on loopback (H12), the bearer
//! token, and ports that would collide. It refuses to bind anything.

use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::resolve::Reader;
use crate::config::sources::Lookup;

/// Fewest characters of a bearer token.
const TOKEN_CHARS_MIN: usize = 16;
/// Largest token file.
const TOKEN_BYTES_MAX: u64 = 4_096;
/// Most addresses that one port listens on.
const ADDRESSES_MAX: usize = 32;

/// The addresses of `hosts`, each once, in their order.
pub(crate) fn addresses(
    reader: &mut Reader,
    key: &'static str,
    hosts: &[String],
    port: u16,
    lookup: Lookup<'_>,
) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for host in hosts {
        match literal(host).map_or_else(|| lookup(host), |address| Ok(vec![address])) {
            Ok(addresses) if !addresses.is_empty() => found.extend(addresses),
            Ok(_) => reader.refuse(key, format!("host {host} has no address"), "name an address of this machine"),
            Err(error) => {
                let right = "name an address or a host name of this machine, without a port";
                reader.refuse(key, format!("host {host} does not resolve ({error})"), right);
            }
        }
    }
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in found.into_iter().map(|address| SocketAddr::new(address, port)) {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    if unique.len() > ADDRESSES_MAX {
        reader.refuse(key, format!("{} addresses", unique.len()), format!("wants at most {ADDRESSES_MAX}"));
    }
    unique
}

/// An address written as such, with or without the brackets of a URL.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether `host` means every address, which is no name that a client could use.
pub(crate) fn is_unspecified(host: &str) -> bool {
    literal(host).is_some_and(|address| address.is_unspecified())
}

/// Plain HTTP that other machines can reach needs to be allowed and to ask for a token.
pub(crate) fn refuse_remote_plain(reader: &mut Reader, plain: &[SocketAddr], allowed: bool, has_token: bool) {
    let Some(remote) = plain.iter().find(|address| !address.ip().to_canonical().is_loopback()) else { return };
    let missing = match (allowed, has_token) {
        (true, true) => return,
        (false, true) => "wants --allow-remote-plain too",
        (true, false) => "wants --api-key-file FILE too",
        (false, false) => "wants --allow-remote-plain and --api-key-file FILE too",
    };
    let wrong = format!("{} is plain HTTP that other machines can reach", remote.ip());
    reader.refuse("host", wrong, format!("{missing}, or a loopback address, or mutual TLS by --tls-host"));
}

/// Two listeners cannot have one address; at least one of the public ones must be left.
pub(crate) fn refuse_collisions(reader: &mut Reader, plain: &[SocketAddr], tls: &[SocketAddr], admin: SocketAddr) {
    if reader.text("no_plain").as_deref() == Some("true") && reader.text("no_tls").as_deref() == Some("true") {
        reader.refuse("no_tls", "neither plain HTTP nor mutual TLS is left", "drop --no-plain or --no-tls");
    }
    if reader.is_wrong("port") || reader.is_wrong("tls_port") || reader.is_wrong("admin_port") {
        return;
    }
    let clash = |left: &SocketAddr, right: &SocketAddr| {
        let same_host = left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified();
        left.port() != 0 && left.port() == right.port() && same_host
    };
    if let Some(address) = tls.iter().find(|address| plain.iter().any(|other| clash(address, other))) {
        let wrong = format!("{} is the port of plain HTTP too", address.port());
        reader.refuse("tls_port", wrong, "give each listener a port of its own");
    }
    if plain.iter().chain(tls).any(|address| clash(address, &admin)) {
        let wrong = format!("{} is the port of another listener too", admin.port());
        reader.refuse("admin_port", wrong, "give each listener a port of its own");
    }
}

/// The token of `api_key_file`; `None` when none is configured or it is wrong, which is then noted.
pub(crate) fn bearer_token(reader: &mut Reader, user_home: Option<&Path>) -> Option<String> {
    let path = reader.path("api_key_file", user_home)?;
    match read_token(&path) {
        Ok(token) => Some(token),
        Err((wrong, right)) => {
            reader.refuse("api_key_file", format!("{} {wrong}", path.display()), right);
            None
        }
    }
}

/// The token in a file, or what is wrong with the file and what would be right. Never echoes what it read.
fn read_token(path: &Path) -> Result<String, (String, String)> {
    let unreadable = |error| (format!("cannot be read ({error})"), "name a file with the token".to_owned());
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(("is not a regular file".to_owned(), "name a file with the token".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let remedy = format!("only its owner may read it: chmod 600 {}", path.display());
        return Err((format!("has mode {mode:04o}"), remedy));
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text)).map_err(unreadable)?;
    let token = text.trim();
    if token.len() < TOKEN_CHARS_MIN || !token.chars().all(|letter| letter.is_ascii_graphic()) {
        let right = format!("wants one line of at least {TOKEN_CHARS_MIN} visible ASCII characters without spaces");
        return Err(("holds no usable token".to_owned(), right));
    }
    Ok(token.to_owned())
}
