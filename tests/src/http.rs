//! A minimal HTTP client for readiness and metrics.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Status and body of a GET, or nothing when there is no complete answer. Connects from the calling
/// thread's namespace: wrap it in [`crate::NetNs::run`] where that matters.
#[must_use]
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    request(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
}

/// As [`http_get`], for a POST of JSON.
#[must_use]
pub fn http_post(address: SocketAddr, path: &str, json: &str) -> Option<(u16, String)> {
    let length = json.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n");
    request(address, &format!("{head}Content-Type: application/json\r\n\r\n{json}"))
}

/// The value of a row of metrics, by name and labels.
#[must_use]
pub fn metric(text: &str, row: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '))?.parse().ok()
}

// HTTP/1.0: the server closes after the answer and does not chunk it.
fn request(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    let patience = Duration::from_secs(15);
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
