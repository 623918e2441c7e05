//! Loads: what is sent, and what comes of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use balancing_tests::NetNs;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::median;

/// Time that does not count: the window of TCP opens, caches fill.
const WARM_UP: Duration = Duration::from_millis(100);
/// Time that counts.
const WINDOW: Duration = Duration::from_millis(300);
/// How long somebody may wait for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions of which the median counts, after as many that do not count by a tenth.
const QUESTIONS: usize = 2_000;
const SIZE: usize = 64;

/// What is sent. The values are Gbit/s, 1,000 packets a second, microseconds and connections a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    /// As much as one connection of TCP takes.
    Stream,
    /// As many small datagrams as one thread sends; counted are those that arrive.
    Datagrams,
    /// A small question and its answer, over and over on one connection of TCP.
    Questions,
    /// Connections of TCP one after another, which the server closes at once.
    Connections,
}

/// Where the two ends run. Packets go their whole way on the sender's CPU.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Measures a load from a client to an address that leads to where the pod serves.
pub(super) fn measure(load: Load, client: &NetNs, pod: &NetNs, (to, at): (SocketAddr, SocketAddr)) -> f64 {
    match load {
        Load::Datagrams => {
            let server = pod.run(|| UdpSocket::bind(at)).expect("the port is free");
            let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a port is free");
            socket.connect(to).expect("there is a route");
            datagrams(&socket, &server)
        }
        _ => {
            let listener = pod.run(|| TcpListener::bind(at)).expect("the port is free");
            match load {
                Load::Connections => connections(client, to, &listener),
                _ => {
                    let stream = client.run(|| TcpStream::connect_timeout(&to, PATIENCE));
                    let stream = stream.expect("the pod is reached");
                    let (served, _) = listener.accept().expect("a client came");
                    if load == Load::Stream { bytes(stream, served) } else { questions(stream, served) }
                }
            }
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("there are two CPUs");
    sched_setaffinity(Pid::from_raw(0), &set).expect("there are two CPUs");
}

/// Counts a second while both ends work.
fn rate(count: &AtomicU64, done: &AtomicBool) -> f64 {
    sleep(WARM_UP);
    let (before, start) = (count.load(Ordering::Relaxed), Instant::now());
    sleep(WINDOW);
    let (after, time) = (count.load(Ordering::Relaxed), start.elapsed());
    done.store(true, Ordering::Relaxed);
    (after - before) as f64 / time.as_secs_f64()
}

fn bytes(mut client: TcpStream, mut server: TcpStream) -> f64 {
    let (count, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(CLIENT);
            let data = vec![7; 1 << 17];
            while !done.load(Ordering::Relaxed) {
                client.write_all(&data).expect("the server reads");
            }
            drop(client);
        });
        scope.spawn(|| {
            pin(SERVER);
            let mut data = vec![0; 1 << 18];
            loop {
                match server.read(&mut data).expect("the client writes") {
                    0 => break,
                    length => count.fetch_add(length as u64, Ordering::Relaxed),
                };
            }
        });
        rate(&count, &done) * 8.0 / 1e9
    })
}

fn datagrams(client: &UdpSocket, server: &UdpSocket) -> f64 {
    server.set_read_timeout(Some(WARM_UP)).expect("a time-out");
    let (count, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(CLIENT);
            while !done.load(Ordering::Relaxed) {
                client.send(&[7; SIZE]).expect("the datagram is sent");
            }
        });
        scope.spawn(|| {
            pin(SERVER);
            let mut data = [0; SIZE];
            while !done.load(Ordering::Relaxed) {
                match server.recv(&mut data) {
                    Ok(_) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                }
            }
        });
        rate(&count, &done) / 1e3
    })
}

/// Both ends on one CPU: no CPU has to be woken up.
fn questions(mut client: TcpStream, mut server: TcpStream) -> f64 {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("TCP");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(CLIENT);
            let mut data = [0; SIZE];
            while server.read_exact(&mut data).is_ok() {
                server.write_all(&data).expect("the client reads");
            }
        });
        let asking = scope.spawn(|| {
            pin(CLIENT);
            let mut data = [7; SIZE];
            let mut ask = || {
                let start = Instant::now();
                client.write_all(&data).expect("the server reads");
                client.read_exact(&mut data).expect("the server answers");
                start.elapsed().as_secs_f64() * 1e6
            };
            (0..QUESTIONS / 10).for_each(|_| _ = ask());
            let mut times: Vec<f64> = (0..QUESTIONS).map(|_| ask()).collect();
            drop(client);
            median(&mut times)
        });
        asking.join().expect("the client ends")
    })
}

/// Both ends on one CPU, as above.
fn connections(client: &NetNs, to: SocketAddr, listener: &TcpListener) -> f64 {
    let (count, done, last) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            client.run(|| {
                pin(CLIENT);
                while !done.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("the pod is reached");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                    assert_eq!(stream.read(&mut [0]).expect("the server closes"), 0);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                last.store(true, Ordering::Relaxed);
                TcpStream::connect_timeout(&to, PATIENCE).expect("the server waits for one more");
            });
        });
        scope.spawn(|| {
            pin(CLIENT);
            while !last.load(Ordering::Relaxed) {
                drop(listener.accept().expect("a client came"));
            }
        });
        rate(&count, &done)
    })
}
