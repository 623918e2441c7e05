//! One question and its answer. Each uses a new socket, so each is balanced anew, and holds that the answer seems to
//! come from where the question went.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

/// How long an answer may take: as long as the resolvers of both C libraries wait for one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The name that the server answered with.
pub(crate) type Answer = Result<String, String>;

pub(crate) fn http(to: SocketAddr) -> Answer {
    let ask = || -> io::Result<String> {
        let mut stream = connect(to)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error| error.to_string())?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.filter(|body| !body.is_empty()).ok_or_else(|| format!("no answer, but {} bytes", text.len()))
}

/// A connection whose other end is, for this process, where it wanted to go.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    same(stream.peer_addr()?, to)?;
    Ok(stream)
}

pub(crate) fn datagram(to: SocketAddr) -> Answer {
    let answer = exchange(to, b"who", |_| true).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A TXT record of the name, asked as a resolver would, with `sendto` on a socket that is not connected.
pub(crate) fn query(to: SocketAddr, name: &str) -> Answer {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut question = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).ok().ok_or_else(|| format!("label '{label}' is too long"))?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 16, 0, 1]);
    let answer =
        exchange(to, &question, |answer| answer.get(..2) == Some(&id)).map_err(|error| error.to_string())?;
    text_of(&answer, question.len())
        .ok_or_else(|| format!("code {}, no record", answer.get(3).unwrap_or(&0) & 15))
}

/// The text of the first record: its name, written out as in the question (between 12 bytes of head and 4 of type and
/// class) or two bytes that point there (RFC 1035, 4.1.4), ten bytes of head, a length, the text.
fn text_of(answer: &[u8], question: usize) -> Option<String> {
    let pointer = *answer.get(question)? >= 0xc0;
    let start = question + if pointer { 2 } else { question - 16 } + 10;
    let text = answer.get(start + 1..start + 1 + usize::from(*answer.get(start)?))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn exchange(to: SocketAddr, question: &[u8], fits: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(question, to)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let answer = &buffer[..length];
        if fits(answer) {
            same(from, to)?;
            return Ok(answer.to_vec());
        }
    }
}

fn same(told: SocketAddr, wanted: SocketAddr) -> io::Result<()> {
    if told == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("the other end is {told}, not {wanted}")))
    }
}

/// By the C library's resolver, so by `/etc/resolv.conf`.
pub(crate) fn resolve(name: &str) -> Answer {
    let addresses = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.map(|address| address.ip().to_string()).next().ok_or_else(|| "no address".to_owned())
}
