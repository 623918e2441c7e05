//! The server: it answers HTTP requests, lines and datagrams with its name.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::Duration,
};

/// Serves both protocols on that port of every address until it is killed.
pub(crate) fn serve(port: u16, name: &str) -> io::Result<ExitCode> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let own = name.to_owned();
    thread::spawn(move || datagrams(&socket, &own));
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let name = name.to_owned();
        thread::spawn(move || connection(&stream, &name));
    }
}

fn datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 512];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        // Who does not take the answer is not this server's concern.
        drop(socket.send_to(name.as_bytes(), from));
    }
}

/// One HTTP request, or lines until the other side closes: each is answered by the name.
fn connection(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut out = stream;
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    if first.contains(" HTTP/") {
        while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
        return write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}\n",
            name.len() + 1
        );
    }
    writeln!(out, "{name}")?;
    for line in lines {
        line?;
        writeln!(out, "{name}")?;
    }
    Ok(())
}
