//! Who may ask on the plain port: a page in a browser can reach loopback, so `Host` and `Origin` are checked, and a
//! bearer token when one is configured. On the TLS port the client's certificate has answered already.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use ring::digest::{Digest, SHA256, digest};
use subtle::ConstantTimeEq;

use crate::config::settings::Listen;
use crate::http::connection::Doorway;
use crate::http::error::Problem;

/// What the plain port asks for.
#[derive(Debug)]
pub struct Door {
    /// Lower case, without port, IPv6 without brackets.
    hosts: Vec<String>,
    /// Of the token. Only digests are compared, and in constant time: neither length nor prefix can be measured.
    token: Option<Digest>,
}

impl Door {
    /// The door that these settings describe.
    #[must_use]
    pub fn new(listen: &Listen) -> Self {
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        hosts.extend(listen.hosts.iter().map(|host| host.to_ascii_lowercase()));
        hosts.extend(listen.plain.iter().map(|address| address.ip()).filter(|ip| !ip.is_unspecified()).map(spelled));
        let token = listen.bearer_token.as_ref().map(|token| digest(&SHA256, token.as_bytes()));
        Self { hosts, token }
    }

    /// Lets a request in, or says why not.
    pub(crate) fn check(&self, doorway: Doorway, head: &Parts) -> Result<(), Problem> {
        match doorway {
            Doorway::Tls => Ok(()),
            Doorway::Admin => self.check_host(head),
            Doorway::Plain => {
                self.check_host(head)?;
                self.check_origin(head)?;
                self.check_token(head)
            }
        }
    }

    fn check_host(&self, head: &Parts) -> Result<(), Problem> {
        let mut named = head.headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else { return Err(Problem::HostMissing) };
        let host = host.to_str().map_err(|_| Problem::HostRefused)?;
        if self.knows(host) { Ok(()) } else { Err(Problem::HostRefused) }
    }

    fn check_origin(&self, head: &Parts) -> Result<(), Problem> {
        match head.headers.get(ORIGIN) {
            Some(origin) if self.knows_origin(origin) => Ok(()),
            Some(_) => Err(Problem::OriginRefused),
            None => Ok(()),
        }
    }

    /// Whether pages of this origin may use us: those of this machine and of the configured hosts.
    pub(crate) fn knows_origin(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|host| self.knows(host))
    }

    fn check_token(&self, head: &Parts) -> Result<(), Problem> {
        let Some(expected) = &self.token else { return Ok(()) };
        let given = head.headers.get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let scheme_length = given.len().min(7);
        let is_bearer = given[..scheme_length].eq_ignore_ascii_case(b"bearer ");
        let given = digest(&SHA256, given[scheme_length..].trim_ascii());
        let equal: bool = given.as_ref().ct_eq(expected.as_ref()).into();
        if is_bearer && equal { Ok(()) } else { Err(Problem::Unauthorized) }
    }

    /// Whether an authority names us, on whatever port.
    fn knows(&self, authority: &str) -> bool {
        let host = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if is_port(port) => host,
                Some(_) | None => return false,
            },
            None => match authority.split_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                Some(_) => return false,
                None => authority,
            },
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.hosts.contains(&host)
    }
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn spelled(ip: IpAddr) -> String {
    ip.to_string()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn door(token: Option<&str>) -> Door {
        Door::new(&Listen {
            plain: vec![([192, 168, 1, 5], 1337).into(), ([0, 0, 0, 0], 1337).into()],
            tls: Vec::new(),
            tls_names: Vec::new(),
            admin: ([127, 0, 0, 1], 0).into(),
            hosts: vec!["Box.Local".to_owned()],
            bearer_token: token.map(str::to_owned),
        })
    }

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("legal headers").into_parts().0
    }

    #[test]
    fn h10_only_hosts_of_this_machine_and_configured_ones_are_answered() {
        let door = door(None);
        let check = |host: &str| door.check(Doorway::Plain, &head(&[("host", host)]));
        for host in
            ["localhost", "LOCALHOST:1337", "127.0.0.1:1", "[::1]:1337", "[::1]", "box.local.", "192.168.1.5:1337"]
        {
            assert_eq!(check(host), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "0.0.0.0", "[::1]x", "::1", "localhost:1:2", "", "a@localhost"]
        {
            assert_eq!(check(host), Err(Problem::HostRefused), "{host}");
        }
        assert_eq!(door.check(Doorway::Plain, &head(&[])), Err(Problem::HostMissing));
        let two = head(&[("host", "localhost"), ("host", "localhost")]);
        assert_eq!(door.check(Doorway::Plain, &two), Err(Problem::HostMissing));
        assert_eq!(door.check(Doorway::Tls, &head(&[("host", "any.example")])), Ok(()));
    }

    #[test]
    fn h10_a_page_of_a_foreign_origin_is_refused() {
        let door = door(None);
        let check = |origin| door.check(Doorway::Plain, &head(&[("host", "localhost"), ("origin", origin)]));
        assert_eq!(check("http://localhost:3000"), Ok(()));
        for origin in ["null", "http://evil.example", "https://localhost.evil.example", "file://localhost", "localhost"]
        {
            assert_eq!(check(origin), Err(Problem::OriginRefused), "{origin}");
        }
    }

    #[test]
    fn h13_only_the_configured_token_opens_the_door() {
        let door = door(Some("secret"));
        let check = |value| door.check(Doorway::Plain, &head(&[("host", "localhost"), ("authorization", value)]));
        assert_eq!(check("Bearer secret"), Ok(()));
        assert_eq!(check("bearer  secret"), Ok(()));
        for value in ["", "Bearer", "Bearer ", "Bearer secre", "Bearer secrett", "Basic secret", "secret", "Béarer x"]
        {
            assert_eq!(check(value), Err(Problem::Unauthorized), "{value}");
        }
        assert_eq!(door.check(Doorway::Plain, &head(&[("host", "localhost")])), Err(Problem::Unauthorized));
    }
}
