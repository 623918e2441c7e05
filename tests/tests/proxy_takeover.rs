//! The proxy outlives its agent and its device: a newer agent takes over under traffic, a device that was made again is led again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    model::{
        FrontendKey,
        Protocol::{Tcp, Udp},
    },
    proxy::{self, Direction::Ingress, Local, Options, Proxy, Sizes},
};
use balancing_tests::{
    Bpffs, NetNs, TempDir, address,
    frames::{Flow, ends},
    proxied::{AtWork, Proxied, SIZES, Trial, device, frontend, service},
    require_kernel, wait_until, when_free,
};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: &str = "10.211.0.1:20080";
const POD: &str = "10.244.1.1:80";
/// Times that an agent takes over.
const ROUNDS: usize = 10;

fn udp(namespace: &NetNs, at: &str) -> UdpSocket {
    let socket = namespace.run(|| when_free(|| UdpSocket::bind(address(at)))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Says that a test is over, also where it fails: whoever still runs would never end.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pod that sends everything back, until it is told to stop.
fn echo(socket: &UdpSocket, done: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 64];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).unwrap();
        }
    }
}

#[test]
fn a_newer_agent_takes_over_under_traffic() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("takeover");
    let pod = world.pod(1, 1);
    world.declare(PORT, Udp, &service(&[POD]));
    let (server, count) = (udp(&pod, POD), AtomicU64::new(0));
    let (asked, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let client = udp(world.host(2), "0.0.0.0:0");
    let declared = world.server.proxy.entries().clone();
    thread::scope(|scope| {
        scope.spawn(|| echo(&server, &done));
        let asking = scope.spawn(|| {
            while !asked.load(Ordering::Relaxed) {
                let number = count.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                client.send_to(&number, address(PORT)).unwrap();
                let mut back = [0; 8];
                client.recv(&mut back).expect("a packet was lost");
                assert_eq!(back, number);
            }
        });
        for _ in 0..ROUNDS {
            let before = count.load(Ordering::Relaxed);
            world.server.restart(&world.members.hosts[0].namespace);
            assert_eq!(world.server.proxy.entries(), &declared);
            wait_until(PATIENCE, || count.load(Ordering::Relaxed) > before + 10);
        }
        // The last question is answered before the pod ends.
        asked.store(true, Ordering::Relaxed);
        asking.join().unwrap();
        done.store(true, Ordering::Relaxed);
    });
    let (proxy, host) = (&mut world.server.proxy, &world.members.hosts[0].namespace);
    let index = device(host);
    assert!(host.run(|| proxy.is_attached(index)).unwrap());
    assert!(!host.run(|| proxy.attach(index)).unwrap(), "what is right is left alone");
    assert_eq!(proxy.counters().unwrap().proxied, 1);
}

#[test]
fn a_device_that_was_made_again_is_led_again_and_unload_leaves_nothing() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("takeover-device");
    let pod = world.pod(1, 1);
    world.declare(PORT, Udp, &service(&[POD]));
    let (server, client) = (udp(&pod, POD), udp(world.host(2), "0.0.0.0:0"));
    let ask = || {
        client.send_to(b"question", address(PORT)).unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 8);
    };
    ask();
    let before = device(world.host(1));
    world.host(1).ip(&["link", "delete", "balancing0"]);
    let all = world.members.all();
    _ = world.members.hosts[0].apply(&all);
    let index = device(world.host(1));
    assert_ne!(index, before);
    let (proxy, host) = (&mut world.server.proxy, &world.members.hosts[0].namespace);
    assert!(!host.run(|| proxy.is_attached(index)).unwrap());
    assert!(host.run(|| proxy.attach(index)).unwrap());
    assert!(host.run(|| proxy.is_attached(index)).unwrap());
    wait_until(PATIENCE, || world.members.hosts[1].pings("10.211.0.1".parse().unwrap()));
    ask();
    host.run(|| proxy::unload(world.server.bpffs.path())).unwrap();
    // Nobody leads the port now: the host answers for itself.
    client.connect(address(PORT)).unwrap();
    client.send(b"question").unwrap();
    let refused = client.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy::unload(world.server.bpffs.path()).unwrap();
}

#[test]
fn a_kernel_without_tcx_gets_filters() {
    if !require_kernel() {
        return;
    }
    let world = Proxied::new("takeover-clsact");
    let pod = world.pod(1, 1);
    let index = device(world.host(1));
    let directory = world.server.bpffs.path().to_owned();
    let host = &world.members.hosts[0].namespace;
    host.run(|| proxy::unload(&directory)).unwrap();
    let options = Options { sizes: SIZES, tcx: false, ..Options::new(&directory) };
    let load = || {
        let mut proxy = Proxy::load(&options).unwrap();
        proxy.set_local(&Local { ipv4: "10.211.0.1".parse().ok(), ipv6: None }).unwrap();
        proxy.publish(frontend(PORT, Udp), &service(&[POD])).unwrap();
        proxy
    };
    let (server, client) = (udp(&pod, POD), udp(world.host(2), "0.0.0.0:0"));
    let ask = || {
        client.send_to(b"question", address(PORT)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        server.send_to(b"answer", from).unwrap();
        let mut heard = [0; 8];
        assert_eq!(client.recv_from(&mut heard).unwrap(), (6, address(PORT)));
    };
    let mut first = load();
    assert!(!host.run(|| first.is_attached(index)).unwrap());
    assert!(host.run(|| first.attach(index)).unwrap());
    assert!(host.run(|| first.is_attached(index)).unwrap());
    assert!(!host.run(|| first.attach(index)).unwrap(), "what is right is left alone");
    ask();
    // It outlives its agent; the next one takes its place and not another one beside it.
    drop(first);
    ask();
    let mut second = load();
    assert!(!host.run(|| second.is_attached(index)).unwrap());
    assert!(host.run(|| second.attach(index)).unwrap());
    assert!(host.run(|| second.is_attached(index)).unwrap());
    ask();
    let filters = |side: &str| world.members.hosts[0].show(&format!("tc filter show dev balancing0 {side}"));
    for side in ["ingress", "egress"] {
        assert_eq!(filters(side).matches("balancing-proxy").count(), 1, "{}", filters(side));
    }
    assert_eq!(second.counters().unwrap().proxied, 1);
    // Somebody took it away.
    _ = world.members.hosts[0].show("tc qdisc delete dev balancing0 clsact");
    assert!(!host.run(|| second.is_attached(index)).unwrap());
    assert!(host.run(|| second.attach(index)).unwrap());
    ask();
    // A filter of somebody else stays.
    let directory_of_program = TempDir::new("takeover-filter");
    let program = directory_of_program.path().join("program");
    std::fs::write(&program, "1,6 0 0 0").unwrap();
    let add = "tc filter add dev balancing0 ingress protocol all prio 9 bpf bytecode-file";
    _ = world.members.hosts[0].show(&format!("{add} {}", program.display()));
    host.run(|| proxy::unload(&directory)).unwrap();
    assert!(!filters("ingress").contains("balancing-proxy") && filters("ingress").contains("pref 9 bpf"));
    assert!(filters("egress").is_empty(), "{}", filters("egress"));
    host.run(|| proxy::unload(&directory)).unwrap();
}

#[test]
fn a_pod_that_does_not_answer_to_its_address_is_told_to_the_client() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("takeover-arp");
    let _pod = world.pod(1, 1);
    // On the pod's device, but not there.
    world.host(1).ip(&["route", "add", "10.244.1.9/32", "dev", "pod1"]);
    world.declare(PORT, Tcp, &service(&["10.244.1.9:80"]));
    let told = world.host(2).run(|| TcpStream::connect_timeout(&address(PORT), PATIENCE)).unwrap_err();
    assert_eq!(told.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "{told}");
    let drops = world.server.proxy.counters().unwrap().drops;
    assert_eq!(drops["unrelated_icmp"], 0);
}

#[test]
fn ten_thousand_ports_are_declared_and_taken_over_in_time() {
    if !require_kernel() {
        return;
    }
    const PORTS: u16 = 10_000;
    let bpffs = Bpffs::new("takeover-scale");
    let options = Options { sizes: Sizes::default(), ..Options::new(bpffs.path()) };
    let mut proxy = Proxy::load(&options).unwrap();
    proxy.set_local(&Local { ipv4: "10.211.0.1".parse().ok(), ipv6: None }).unwrap();
    let key = |port| FrontendKey { port, ..frontend(PORT, Udp) };
    let led = service(&[POD, "10.244.1.2:80"]);
    let timed = |what: &str, limit: u64, took: Duration| {
        println!("{what}: {:.1} ms", took.as_secs_f64() * 1e3);
        assert!(took < Duration::from_millis(limit), "{what}: {took:?}");
    };
    let started = Instant::now();
    (1..=PORTS).for_each(|port| proxy.publish(key(port), &led).unwrap());
    timed("10,000 ports", 10 * 500, started.elapsed());
    let started = Instant::now();
    proxy.publish(key(PORTS + 1), &led).unwrap();
    timed("one more", 10 * 20, started.elapsed());
    let started = Instant::now();
    proxy.remove(&key(PORTS + 1)).unwrap();
    timed("one less", 10 * 20, started.elapsed());
    let before = proxy.entries().clone();
    let started = Instant::now();
    drop(proxy);
    let proxy = Proxy::load(&options).unwrap();
    timed("taken over", 10 * 500, started.elapsed());
    assert_eq!(proxy.entries(), &before);
    let frame = Flow::new("10.211.0.2:4000", PORT).to(address("10.211.0.1:777")).udp(b"");
    let verdict = proxy.try_frame(Ingress, &frame).unwrap();
    assert!(verdict.passed);
    assert_eq!(ends(&verdict.frame).unwrap().destination.port(), 80);
}

#[test]
fn a_full_table_says_so_and_leaves_what_there_is() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::with("takeover-full", Sizes { frontends: 2, backends: 4, ..SIZES });
    let key = |port| FrontendKey { port, ..frontend(PORT, Udp) };
    for port in [1, 2] {
        trial.proxy.publish(key(port), &service(&[POD])).unwrap();
    }
    let told = trial.proxy.publish(key(3), &service(&[POD])).unwrap_err().to_string();
    assert!(told.contains("10.211.0.1:3/UDP") && told.contains("frontends"), "{told}");
    let many = service(&[POD, "10.244.1.2:80", "10.244.1.3:80", "10.244.1.4:80", "10.244.1.5:80"]);
    let told = trial.proxy.publish(key(2), &many).unwrap_err().to_string();
    assert!(told.contains("10.211.0.1:2/UDP") && told.contains("backends"), "{told}");
    assert_eq!(trial.proxy.entries().len(), 2);
    assert_eq!(trial.proxy.entries()[&key(2)], service(&[POD]));
    trial.proxy.remove(&key(1)).unwrap();
    trial.proxy.publish(key(3), &service(&[POD])).unwrap();
}

/// A pod's stream that sends everything back, until the client is through.
fn echo_stream(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = [0; 8];
    while stream.read_exact(&mut buffer).is_ok() {
        stream.write_all(&buffer).unwrap();
    }
}

#[test]
fn nothing_is_lost_while_no_agent_is_there_and_when_the_next_one_comes() {
    if !require_kernel() {
        return;
    }
    const PACE: Duration = Duration::from_millis(5);
    /// Packets while there is no agent: 20 s of them.
    const AWAY: u64 = 4000;
    let mut world = Proxied::new("takeover-away");
    let pod = world.pod(1, 1);
    for protocol in [Tcp, Udp] {
        world.declare(PORT, protocol, &service(&[POD]));
    }
    let Proxied { members, server: AtWork { proxy, bpffs } } = world;
    let (host, client) = (&members.hosts[0].namespace, &members.hosts[1].namespace);
    let (server, datagrams) = (udp(&pod, POD), udp(client, "0.0.0.0:0"));
    datagrams.connect(address(PORT)).unwrap();
    let listener = pod.run(|| when_free(|| TcpListener::bind(address(POD)))).unwrap();
    let mut stream = client.run(|| TcpStream::connect_timeout(&address(PORT), PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (sent, heard, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut next = None;
    thread::scope(|scope| {
        let end = End(&done);
        scope.spawn(|| echo(&server, &done));
        scope.spawn(|| echo_stream(&listener));
        scope.spawn(|| {
            datagrams.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut number = [0; 8];
            while !done.load(Ordering::Relaxed) {
                if datagrams.recv(&mut number).is_ok() {
                    assert_eq!(
                        u64::from_be_bytes(number),
                        heard.load(Ordering::Relaxed),
                        "lost or out of order"
                    );
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let sending = scope.spawn(|| {
            let (start, mut number) = (Instant::now(), 0);
            while !done.load(Ordering::Relaxed) {
                let word = u64::to_be_bytes(number);
                datagrams.send(&word).unwrap();
                stream.write_all(&word).unwrap();
                let mut back = [0; 8];
                stream.read_exact(&mut back).expect("the connection was reset, or waits");
                assert_eq!(back, word);
                number += 1;
                sent.store(number, Ordering::Relaxed);
                let due = PACE * u32::try_from(number).unwrap();
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            drop(stream);
        });
        let go_on = |more: u64| {
            let before = sent.load(Ordering::Relaxed);
            wait_until(PATIENCE + PACE * 4000, || sent.load(Ordering::Relaxed) >= before + more);
        };
        go_on(200);
        drop(proxy);
        go_on(AWAY);
        let mut newer = Proxy::load(&Options { sizes: SIZES, ..Options::new(bpffs.path()) }).unwrap();
        let index = device(host);
        assert!(host.run(|| newer.attach(index)).unwrap(), "nothing was replaced");
        newer.publish(frontend(PORT, Udp), &service(&[POD])).unwrap();
        go_on(200);
        wait_until(PATIENCE, || {
            let sent = sent.load(Ordering::Relaxed);
            heard.load(Ordering::Relaxed) >= sent.saturating_sub(2)
        });
        drop(end);
        sending.join().unwrap();
        next = Some(newer);
    });
    let counters = next.unwrap().counters().unwrap();
    assert_eq!(counters.proxied, 2);
    assert!(sent.load(Ordering::Relaxed) > AWAY + 400);
    // The hosts ask for routers and the like by themselves, which does not pass.
    let is_ours = |(reason, count): &(&&str, &u64)| **reason != "unsupported" && **count > 0;
    let dropped: Vec<_> = counters.drops.iter().filter(is_ours).collect();
    assert!(dropped.is_empty(), "{dropped:?}");
}
