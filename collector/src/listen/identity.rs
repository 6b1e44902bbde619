//! Who is at the other end of a connection, as far as the connection itself proves it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use gnomon_daemon::certificate::Certificate;

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Nothing was proven: plain text over TCP, or TLS without a certificate.
    #[default]
    Anonymous,
    /// Holds the key of a certificate of the authority in `tls.ca`.
    Certificate(Arc<Certificate>),
    /// A process on this host that came through the Unix socket; the kernel says whose it is.
    Local { uid: u32 },
}

impl Identity {
    /// What stays the same when a certificate is renewed: whom an agent id belongs to, and who has one vote.
    /// Stored: the form is frozen.
    #[must_use]
    pub fn principal(&self) -> String {
        match self {
            Identity::Anonymous => "anonymous".to_owned(),
            Identity::Certificate(certificate) => format!("certificate:{}", certificate.name),
            Identity::Local { uid } => format!("uid:{uid}"),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Anonymous => f.write_str("somebody without a certificate"),
            Identity::Certificate(certificate) => certificate.fmt(f),
            Identity::Local { uid } => write!(f, "a process of uid {uid} on this host"),
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// Through the Unix socket.
    Unix {
        uid: u32,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { uid } => write!(f, "unix:{uid}"),
        }
    }
}

/// A connection that was let in; in the extensions of each request that comes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub peer: Peer,
    /// The other end is on this machine.
    pub same_host: bool,
    pub identity: Identity,
}
