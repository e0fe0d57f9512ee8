//! The ports: free, ours already, or somebody else's and then whose.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use serde::Deserialize;

use crate::config::settings::Listen;
use crate::ops::doctor::Finding;

/// The part of `state/serve.json` that tells our own server.
#[derive(Debug, Deserialize)]
struct Serving {
    pid: u32,
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// Looks at every address that would be bound.
pub(super) fn examine(listen: &Listen, home: &Path) -> Vec<Finding> {
    let serving = fs::read(home.join("state/serve.json")).ok();
    let serving = serving.and_then(|text| serde_json::from_slice::<Serving>(&text).ok()).map(|serving| serving.pid);
    let addresses = listen.plain.iter().chain(&listen.tls).chain([&listen.admin]);
    addresses.filter(|address| address.port() != 0).map(|address| look(*address, serving)).collect()
}

pub(super) fn look(address: SocketAddr, serving: Option<u32>) -> Finding {
    const CHECK: &str = "port";
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(CHECK, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match owner(address.port()) {
            Some(Owner { pid, .. }) if Some(pid) == serving => {
                Finding::ok(CHECK, format!("{address} is held by our own server, pid {pid}"))
            }
            Some(Owner { pid, name }) => {
                let remedy = format!("stop it (`kill {pid}`), or choose another port");
                Finding::fail(CHECK, format!("{address} is held by {name}, pid {pid}"), remedy)
            }
            None => {
                let remedy = "find it as root (`lsof -nP -iTCP -sTCP:LISTEN`), or choose another port";
                Finding::fail(CHECK, format!("{address} is held by a process that we may not see"), remedy)
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            let remedy = "bring the interface up; a start retries until it is there";
            Finding::warn(CHECK, format!("{address} is no address of this machine now"), remedy)
        }
        Err(error) => Finding::fail(CHECK, format!("{address} cannot be bound ({error})"), "choose another port"),
    }
}

/// Who listens on `port`, when we may see it.
#[cfg(target_os = "linux")]
pub(super) fn owner(port: u16) -> Option<Owner> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    let pid = pids.into_iter().find(holds)?;
    let name =
        fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned());
    Some(Owner { pid, name })
}

/// Inodes of sockets that listen on `port`, out of the kernel's table: local address in column 1, state in 3, inode in 9.
#[cfg(target_os = "linux")]
pub(super) fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row.len() > 9 && row[1].ends_with(&port) && row[3] == LISTEN);
    listening.map(|row| row[9].to_owned()).collect()
}

/// Who listens on `port`, when we may see it.
#[cfg(target_os = "macos")]
pub(super) fn owner(port: u16) -> Option<Owner> {
    // `-F pc` prints one field a line: p and the pid, then c and the command.
    let selection = format!("-iTCP:{port}");
    let output =
        std::process::Command::new("/usr/sbin/lsof").args(["-nP", &selection, "-sTCP:LISTEN", "-Fpc"]).output();
    let text = String::from_utf8_lossy(&output.ok()?.stdout).into_owned();
    let field = |letter: char| text.lines().find_map(|line| line.strip_prefix(letter).map(str::to_owned));
    Some(Owner { pid: field('p')?.parse().ok()?, name: field('c').unwrap_or_else(|| "?".to_owned()) })
}
