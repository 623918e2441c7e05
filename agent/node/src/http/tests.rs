use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
};

use super::*;
use crate::listen::Listen;
use crate::metrics::{
    FabricSample, LinkSample, PluginSample, PolicySample, ReconcileSample, Sample, SourceSample, TableSample,
};
use crate::probe::Report;
use balancing_core::kinds::ObjectKind;

const LOOPBACK: &str = "127.0.0.1:0";

/// How a loop answers.
#[derive(Clone, Copy)]
enum Mood {
    Ready,
    Unready,
    Hanging,
}

/// A server with a loop; ends when it is stopped.
struct World {
    server: Server,
    addresses: Addresses,
    agent: JoinHandle<usize>,
    _thread: watch::Sender<Report>,
    runtime: tokio::runtime::Runtime,
}

fn sample() -> Sample {
    Sample {
        abi: 1,
        ready: true,
        source: SourceSample::default(),
        policies: PolicySample::default(),
        tables: TableSample::default(),
        reconcile: ReconcileSample::default(),
        links: LinkSample::default(),
        fabric: FabricSample::default(),
        plugin: PluginSample::default(),
    }
}

/// The loop: counts the samples that it gives.
fn answer(mut requests: mpsc::Receiver<Pending>, mood: Mood) -> usize {
    let (mut samples, mut kept) = (0, Vec::new());
    while let Some(pending) = requests.blocking_recv() {
        match (pending, mood) {
            (pending, Mood::Hanging) => kept.push(pending),
            (Pending::Sample(answer), _) => {
                samples += 1;
                answer.send(Box::new(sample())).unwrap();
            }
            (Pending::Ask { .. } | Pending::Events { .. }, _) => panic!("nobody asks this"),
        }
    }
    samples
}

impl World {
    fn new(mood: Mood) -> Self {
        let listen = Listen { http: LOOPBACK.parse().ok(), metrics: LOOPBACK.parse().ok() };
        let bound = listen.bind().unwrap();
        let addresses = bound.addresses();
        let (sender, requests) = mpsc::channel(1);
        let agent = std::thread::spawn(move || answer(requests, mood));
        let problems: &[&str] = if matches!(mood, Mood::Unready) { &["no\nlist", "no links"] } else { &[] };
        let problems = problems.iter().map(ToString::to_string).collect();
        let lacking = if matches!(mood, Mood::Unready) { [ObjectKind::Service].into() } else { [].into() };
        let report = Report { is_loaded: true, is_synced: true, lacking, problems };
        let (probe, thread) = Probe::of(report, matches!(mood, Mood::Hanging));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self {
            server: start(bound, super::agent(sender, probe)).unwrap(),
            addresses,
            agent,
            _thread: thread,
            runtime,
        }
    }

    fn health(&self, path: &str) -> (u16, String) {
        get(self.addresses.http.unwrap(), path)
    }

    fn metrics(&self) -> (u16, String) {
        get(self.addresses.metrics.unwrap(), "/metrics")
    }

    /// Stops it; the number of samples that the loop gave.
    fn stop(self) -> usize {
        self.runtime.block_on(self.server.stop());
        self.agent.join().unwrap()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Status and everything after the status line.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn a_ready_agent_is_healthy_and_ready() {
    let world = World::new(Mood::Ready);
    assert_eq!(world.health("/healthz").0, 200);
    assert_eq!(world.health("/readyz").0, 200);
    assert_eq!(world.health("/metrics").0, 404, "they have an address of their own");
    world.stop();
}

#[test]
fn an_agent_that_is_not_ready_gives_one_line_a_reason() {
    let world = World::new(Mood::Unready);
    assert_eq!(world.health("/healthz").0, 200);
    let (status, answer) = world.health("/readyz");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let lines: Vec<_> = body.lines().collect();
    assert_eq!((status, lines.len(), &lines[1..]), (503, 3, &["no list", "no links"][..]), "{body}");
    assert!(lines[0].starts_with("Services could not be listed yet"), "{body}");
    assert!(head.contains("text/plain"), "{head}");
    world.stop();
}

#[test]
fn a_thread_that_hangs_is_told_and_holds_up_nobody() {
    let world = World::new(Mood::Hanging);
    for path in ["/healthz", "/readyz"] {
        let (status, answer) = world.health(path);
        assert_eq!(status, 503, "{answer}");
        assert!(answer.contains("the kernel has kept the data-plane thread"), "{answer}");
    }
    let (status, answer) = world.metrics();
    assert_eq!(status, 503);
    assert!(answer.contains("does not answer"), "{answer}");
    world.stop();
}

#[test]
fn many_scrapes_cost_one_sample() {
    let world = World::new(Mood::Ready);
    let address = world.addresses.metrics.unwrap();
    let scrapes: Vec<_> = (0..30).map(|_| std::thread::spawn(move || get(address, "/metrics"))).collect();
    for scrape in scrapes {
        let (status, answer) = scrape.join().unwrap();
        assert_eq!(status, 200);
        assert!(answer.contains(crate::metrics::CONTENT_TYPE) && answer.ends_with("# EOF\n"), "{answer}");
    }
    // More than one only if the scrapes took longer than the text is fresh.
    let samples = world.stop();
    assert!((1..30).contains(&samples), "{samples} samples");
}

#[test]
fn silent_connections_keep_nobody_from_being_served() {
    let world = World::new(Mood::Ready);
    let address = world.addresses.metrics.unwrap();
    let mut silent: Vec<_> = (0..100).map(|_| connect(address)).collect();
    assert_eq!(world.health("/healthz").0, 200, "the other listener has places of its own");
    silent[0].write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
    // The first ones lose their places when their time is over.
    let mut byte = [0];
    match silent[0].read(&mut byte) {
        Ok(count) => assert_eq!(count, 0, "cut off"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "cut off"),
    }
    drop(silent);
    assert_eq!(world.metrics().0, 200);
    world.stop();
}

#[test]
fn a_long_head_is_refused() {
    let world = World::new(Mood::Ready);
    let mut stream = connect(world.addresses.http.unwrap());
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    // The server may close before everything is written.
    let _written = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    assert_eq!(world.health("/healthz").0, 200);
    world.stop();
}

#[test]
fn a_stopped_server_frees_its_ports() {
    let world = World::new(Mood::Ready);
    let address = world.addresses.http.unwrap();
    assert_eq!(world.health("/healthz").0, 200);
    world.stop();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_busy_port_names_the_flag_and_the_remedy() {
    let first = Listen { http: LOOPBACK.parse().ok(), metrics: None }.bind().unwrap();
    let taken = first.addresses().http.unwrap();
    let second = Listen { http: None, metrics: taken.to_string().parse().ok() };
    let error = second.bind().unwrap_err().to_string();
    assert!(error.contains(&format!("--metrics {taken}")) && error.contains("`off`"), "{error}");
}

#[test]
fn every_address_is_listened_at() {
    let bound = Listen { http: None, metrics: ":0".parse().ok() }.bind().unwrap();
    let address = bound.addresses().metrics.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", address.port())).is_ok(), "{address}");
    assert_eq!(bound.addresses().http, None);
}
