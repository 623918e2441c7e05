//! Servers that tell who they are.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::{NetNs, must::Must, when_free};

/// Epoll's word for "stop"; sockets count up from one.
const STOP: u64 = 0;

/// A TCP and UDP server on several addresses of a namespace, on one thread of the test.
///
/// TCP: it sends its name and a newline as soon as it has accepted, then echoes. UDP: it answers each
/// datagram with its name, a blank and the datagram, from the address the datagram was sent to. The
/// sockets close on drop, open connections too.
#[derive(Debug)]
pub struct EchoServer {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    datagrams: AtomicU64,
}

impl EchoServer {
    /// Starts it on TCP and UDP. With port 0 the kernel chooses a port, the same for both.
    #[must_use]
    pub fn start(namespace: &NetNs, name: &str, addresses: &[SocketAddr]) -> Self {
        let named: Vec<_> = addresses.iter().map(|address| (name.to_owned(), *address)).collect();
        Self::start_named(namespace, &named)
    }

    /// Starts it with a name of its own for each address.
    #[must_use]
    pub fn start_named(namespace: &NetNs, named: &[(String, SocketAddr)]) -> Self {
        let bound: Vec<(TcpListener, UdpSocket)> =
            namespace.run(|| named.iter().map(|(_, address)| bind(address)).collect());
        let addresses = bound.iter().map(|(tcp, _)| tcp.local_addr().must("read an address")).collect();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).must("create an eventfd");
        let mut server = Loop::new(&stop);
        for ((name, _), (tcp, udp)) in named.iter().zip(bound) {
            let name: Arc<str> = name.as_str().into();
            server.add(Endpoint::Listener(tcp, Arc::clone(&name)));
            server.add(Endpoint::Datagrams(udp, name));
        }
        let counters = Arc::clone(&server.counters);
        let thread = Some(thread::spawn(move || server.run()));
        Self { addresses, counters, stop, thread }
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Its addresses, in the order given at the start.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// TCP connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// UDP datagrams received so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.counters.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; a second one during a drop would abort the test run.
            thread.join().ok();
        }
    }
}

fn bind(address: &SocketAddr) -> (TcpListener, UdpSocket) {
    let tcp = when_free(|| TcpListener::bind(address)).must(format_args!("listen on {address}"));
    let address = tcp.local_addr().must("read an address");
    let udp = when_free(|| UdpSocket::bind(address)).must(format_args!("receive on {address}"));
    tcp.set_nonblocking(true).must("make a socket non-blocking");
    udp.set_nonblocking(true).must("make a socket non-blocking");
    (tcp, udp)
}

enum Endpoint {
    Listener(TcpListener, Arc<str>),
    Datagrams(UdpSocket, Arc<str>),
    Connection(TcpStream),
}

/// The server's thread: an epoll loop over all sockets.
struct Loop {
    epoll: OwnedFd,
    endpoints: BTreeMap<u64, Endpoint>,
    next: u64,
    counters: Arc<Counters>,
}

impl Loop {
    fn new(stop: &OwnedFd) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).must("create an epoll instance");
        epoll::add(&epoll, stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)
            .must("watch an eventfd");
        Self { epoll, endpoints: BTreeMap::new(), next: STOP + 1, counters: Arc::default() }
    }

    fn add(&mut self, endpoint: Endpoint) {
        let data = epoll::EventData::new_u64(self.next);
        let flags = epoll::EventFlags::IN;
        match &endpoint {
            Endpoint::Listener(socket, _) => epoll::add(&self.epoll, socket, data, flags),
            Endpoint::Datagrams(socket, _) => epoll::add(&self.epoll, socket, data, flags),
            Endpoint::Connection(socket) => epoll::add(&self.epoll, socket, data, flags),
        }
        .must("watch a socket");
        self.endpoints.insert(self.next, endpoint);
        self.next += 1;
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => panic!("cannot wait for sockets: {error}"),
            }
            for event in &events {
                let token = event.data.u64();
                if token == STOP {
                    return;
                }
                self.serve(token);
            }
        }
    }

    fn serve(&mut self, token: u64) {
        match self.endpoints.get(&token) {
            Some(Endpoint::Listener(listener, name)) => {
                let Ok((stream, _)) = listener.accept() else { return };
                self.counters.connections.fetch_add(1, Ordering::Relaxed);
                // A client that is gone already is no error: it wants no name any more.
                if greet(&stream, name).is_ok() {
                    self.add(Endpoint::Connection(stream));
                }
            }
            Some(Endpoint::Datagrams(socket, name)) => {
                let received = answer(socket, name).is_ok();
                self.counters.datagrams.fetch_add(received.into(), Ordering::Relaxed);
            }
            Some(Endpoint::Connection(stream)) => {
                let open = echo(stream);
                if !open {
                    self.endpoints.remove(&token);
                }
            }
            None => {}
        }
    }
}

fn greet(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.write_all(format!("{name}\n").as_bytes())
}

fn answer(socket: &UdpSocket, name: &str) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    let mut reply = format!("{name} ").into_bytes();
    reply.extend_from_slice(&buffer[..length]);
    // A client that does not listen any more gets no answer; the datagram counts all the same.
    socket.send_to(&reply, peer).ok();
    Ok(())
}

/// Sends back what came. False when the connection has ended.
fn echo(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 2048];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
