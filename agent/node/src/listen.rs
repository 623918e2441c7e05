//! Addresses to listen at: how they are written, and how they are bound.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    str::FromStr,
};

/// What a flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `:PORT`: every address of the host, of both families where the kernel has both.
    Every(u16),
    /// `ADDRESS:PORT`, IPv6 in brackets. Port 0 lets the kernel choose.
    One(SocketAddr),
}

/// Where to listen; `None` = not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// `--http`
    pub http: Option<ListenAddress>,
    /// `--metrics`
    pub metrics: Option<ListenAddress>,
}

/// Listeners that accept connections; nobody serves them yet.
#[derive(Debug, Default)]
pub struct Bound {
    pub(crate) http: Option<TcpListener>,
    pub(crate) metrics: Option<TcpListener>,
}

/// The addresses that are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `/healthz` and `/readyz`.
    pub http: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
}

/// A listener cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: cannot listen: {source}; free the port, choose another address or `off`")]
pub struct BindError {
    flag: &'static str,
    address: ListenAddress,
    source: io::Error,
}

/// The text is no address to listen at.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be ADDRESS:PORT with IPv6 addresses in brackets, :PORT for all addresses, or off")]
pub struct NoAddress;

impl FromStr for ListenAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.strip_prefix(':') {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map(Self::Every).map_err(|_unparsable| NoAddress)
            }
            Some(_) => Err(NoAddress),
            None => text.parse().map(Self::One).map_err(|_unparsable| NoAddress),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(port) => write!(f, ":{port}"),
            Self::One(address) => address.fmt(f),
        }
    }
}

impl ListenAddress {
    /// Whether both cannot be bound at a time.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let (address, other) = (self.socket(), other.socket());
        let is_everywhere = address.ip().is_unspecified() || other.ip().is_unspecified();
        address.port() != 0 && address.port() == other.port() && (is_everywhere || address.ip() == other.ip())
    }

    fn socket(self) -> SocketAddr {
        match self {
            Self::Every(port) => (Ipv6Addr::UNSPECIFIED, port).into(),
            Self::One(address) => address,
        }
    }

    fn bind(self) -> io::Result<TcpListener> {
        let listener = match self {
            Self::One(address) => TcpListener::bind(address),
            Self::Every(port) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| {
                // A kernel without IPv6 says that it has no such family or address.
                match error.kind() {
                    io::ErrorKind::AddrInUse => Err(error),
                    _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
                }
            }),
        }?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Listen {
    /// Binds every address.
    ///
    /// # Errors
    /// The address that cannot be bound, with its flag.
    pub fn bind(&self) -> Result<Bound, BindError> {
        let bind = |flag, address: Option<ListenAddress>| {
            let bound =
                address.map(|address| address.bind().map_err(|source| BindError { flag, address, source }));
            bound.transpose()
        };
        Ok(Bound { http: bind("--http", self.http)?, metrics: bind("--metrics", self.metrics)? })
    }
}

impl Bound {
    /// What was bound, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let local = |listener: &Option<TcpListener>| listener.as_ref().and_then(|l| l.local_addr().ok());
        Addresses { http: local(&self.http), metrics: local(&self.metrics) }
    }
}
