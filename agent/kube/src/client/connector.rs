//! Makes the TCP connections to the API server, or to a proxy in front of it.
//!
//! It owns what the kernel is told about these sockets: when silence means that the other side is gone, and that our own
//! programs leave them alone. It knows nothing of TLS, HTTP and credentials.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use balancing_abi::sockets::OWN_PRIORITY;
use futures::FutureExt as _;
use http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use nix::{
    errno::Errno,
    sys::socket::{SetSockOpt, setsockopt, sockopt},
};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tower::Service;

/// Silence after which the kernel asks the other side whether it is there.
const IDLE: Duration = Duration::from_secs(10);
/// Time between two such questions.
const PROBE: Duration = Duration::from_secs(5);
/// A connection ends when nothing was confirmed for this long, be it data or a question. An attempt to make a new one, which
/// tells that the server is away, takes [`super::CONNECT_TIMEOUT`] more: together less than the 30 s that
/// docs/kubernetes.md names.
const UNCONFIRMED: Duration = Duration::from_secs(15);

/// Connects to host and port of a URL.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    patience: Duration,
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nothing to connect to.
    #[error("the URL {0} names no host")]
    NoHost(Uri),
    /// The name could not be resolved, or has no addresses.
    #[error("resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the addresses could be reached; this is what the last one said.
    #[error("connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Connector {
    /// A connector that gives up after `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience }
    }

    /// Tries the addresses one after the other: each has its share of the time, so that a dead one hides none.
    async fn reach(self, uri: Uri) -> Result<TcpStream, ConnectError> {
        let (host, port) = target(&uri)?;
        let unresolved = |source| ConnectError::Resolve { host: host.to_owned(), source };
        let addresses: Vec<_> = lookup_host((host, port)).await.map_err(unresolved)?.collect();
        let share = self.patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failed = unresolved(io::Error::other("the name has no addresses"));
        for address in addresses {
            let outcome = match timeout(share, connect(address)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            match outcome {
                Ok(stream) => return Ok(stream),
                Err(source) => failed = ConnectError::Connect { address, source },
            }
        }
        Err(failed)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.reach(uri).await.map(TokioIo::new) })
    }
}

/// Host and port of a URL. An IPv6 address comes without its brackets.
fn target(uri: &Uri) -> Result<(&str, u16), ConnectError> {
    let host = uri.host().ok_or_else(|| ConnectError::NoHost(uri.clone()))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let usual = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => 80,
        Some(scheme) if scheme.as_str().starts_with("socks") => 1080,
        _ => 443,
    };
    Ok((host, uri.port_u16().unwrap_or(usual)))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    watch_silence(&socket)?;
    let mark = Mark::set(&socket)?;
    let mut connecting = pin!(socket.connect(address));
    // The first poll makes the system call, and our programs run within it: nothing after it needs the mark.
    let first = connecting.as_mut().now_or_never();
    drop(mark);
    match first {
        Some(outcome) => outcome,
        None => connecting.await,
    }
}

/// Lets the kernel notice that the other side is gone, also while a watch has nothing to say.
fn watch_silence(socket: &TcpSocket) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    option(socket, "SO_KEEPALIVE", sockopt::KeepAlive, &true)?;
    option(socket, "TCP_KEEPIDLE", sockopt::TcpKeepIdle, &seconds(IDLE))?;
    option(socket, "TCP_KEEPINTVL", sockopt::TcpKeepInterval, &seconds(PROBE))?;
    // For unanswered questions this counts, not their number.
    let milliseconds = u32::try_from(UNCONFIRMED.as_millis()).unwrap_or(u32::MAX);
    option(socket, "TCP_USER_TIMEOUT", sockopt::TcpUserTimeout, &milliseconds)
}

fn option<T: SetSockOpt<Val: fmt::Debug>>(
    socket: &impl AsFd,
    name: &str,
    option: T,
    value: &T::Val,
) -> io::Result<()> {
    setsockopt(socket, option, value).map_err(|errno| {
        io::Error::new(io::Error::from(errno).kind(), format!("set {name} to {value:?}: {errno}"))
    })
}

/// While it lives, our programs leave the socket's `connect` alone ([`OWN_PRIORITY`]).
#[derive(Debug)]
struct Mark(Option<OwnedFd>);

impl Mark {
    fn set(socket: &TcpSocket) -> io::Result<Self> {
        match setsockopt(socket, sockopt::Priority, &OWN_PRIORITY.cast_signed()) {
            Ok(()) => Ok(Self(Some(socket.as_fd().try_clone_to_owned()?))),
            // Somebody without rights, such as a user with `balancingctl` or a test: no policy is in the way there, or
            // the agent's own rights are the thing to mend.
            Err(Errno::EPERM) => {
                tracing::debug!("no right to keep the connection to the API server out of redirection");
                Ok(Self(None))
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // 0 needs no right and is the value that sockets begin with.
        if let Some(Err(errno)) = self.0.as_ref().map(|socket| setsockopt(socket, sockopt::Priority, &0)) {
            tracing::debug!("a connection to the API server keeps its priority: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    async fn reach(uri: &str) -> Result<TcpStream, ConnectError> {
        Connector::new(Duration::from_secs(5)).reach(uri.parse().unwrap()).await
    }

    #[test]
    fn host_and_port_of_a_url() {
        for (uri, expected) in [
            ("https://10.96.0.1", ("10.96.0.1", 443)),
            ("http://api.example", ("api.example", 80)),
            ("https://[2001:db8::1]:6443/base", ("2001:db8::1", 6443)),
            ("socks5://proxy", ("proxy", 1080)),
        ] {
            assert_eq!(target(&uri.parse().unwrap()).unwrap(), expected, "{uri}");
        }
        assert!(matches!(target(&Uri::from_static("/path")), Err(ConnectError::NoHost(_))));
    }

    #[tokio::test]
    async fn the_kernel_is_told_when_to_give_up_and_the_mark_is_gone() {
        for host in ["127.0.0.1", "[::1]"] {
            let listener = TcpListener::bind(format!("{host}:0")).await.unwrap();
            let stream = reach(&format!("https://{}", listener.local_addr().unwrap())).await.unwrap();
            assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
            let (idle, interval) =
                (getsockopt(&stream, sockopt::TcpKeepIdle), getsockopt(&stream, sockopt::TcpKeepInterval));
            let unconfirmed = getsockopt(&stream, sockopt::TcpUserTimeout);
            assert_eq!((idle, interval, unconfirmed), (Ok(10), Ok(5), Ok(15_000)));
            assert_eq!(getsockopt(&stream, sockopt::Priority), Ok(0));
        }
    }

    #[tokio::test]
    async fn the_mark_lasts_as_long_as_its_guard() {
        let socket = TcpSocket::new_v4().unwrap();
        let mark = Mark::set(&socket).unwrap();
        let allowed = mark.0.is_some();
        let expected = if allowed { OWN_PRIORITY.cast_signed() } else { 0 };
        assert_eq!(getsockopt(&socket, sockopt::Priority), Ok(expected));
        drop(mark);
        assert_eq!(getsockopt(&socket, sockopt::Priority), Ok(0));
    }

    #[tokio::test]
    async fn an_error_names_what_was_tried() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = reach(&format!("https://{gone}")).await.unwrap_err().to_string();
        assert!(refused.contains(&gone.to_string()) && refused.contains("refused"), "{refused}");
        let unknown = reach("https://name.invalid").await.unwrap_err();
        assert!(matches!(unknown, ConnectError::Resolve { .. }), "{unknown}");
    }

    #[tokio::test]
    async fn a_name_leads_to_whichever_of_its_addresses_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = reach(&format!("https://localhost:{port}")).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
    }
}
