//! Listening sockets, bound early and served late: `app` binds every address before a model is loaded, so that a bind
//! that fails is known at once (exit 71).

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds for us between two accepts.
const BACKLOG: i32 = 1024;

/// A non-blocking listener on `address`. The port of a dead predecessor can be bound again at once, and an IPv6 address
/// never takes the IPv4 one with it.
///
/// # Errors
/// The address is taken, does not exist or is not ours to bind; the error names it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    open(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn both_families_listen_on_one_port_and_a_second_bind_names_the_address() {
        let four = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = four.local_addr().expect("a bound socket has an address");
        let six = bind((Ipv6Addr::LOCALHOST, address.port()).into()).expect("the same port on the other family");
        let error = bind(address).expect_err("the port is taken");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop((four, six));
        drop(bind(address).expect("a closed listener leaves nothing behind"));
    }
}
