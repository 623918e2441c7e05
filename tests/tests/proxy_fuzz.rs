//! A million frames that somebody broke: whatever passes goes to where it may, as long as it was, and everything is counted once.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::HashSet,
    net::{IpAddr, UdpSocket},
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use balancing_dataplane::{
    model::Protocol::{Tcp, Udp},
    proxy::Direction::{self, Egress, Ingress},
};
use balancing_tests::{
    NetNs,
    frames::{Complaint, Flow, ends, finish, is_sound, pieces, tcp},
    proxied::{OWN, Proxied, Trial, packets, service},
    require_kernel,
    tunnel::Host,
    wait_until,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// Frames that are broken at random.
const FRAMES: usize = 1_000_000;
/// Of them through a real tunnel.
const SENT: usize = 10_000;
const SEED: u64 = 0x5eed_0f7a_ce5b_eef1;

/// The backends, which are all that may be reached, but for the host itself.
const BACKENDS: [&str; 2] = ["10.244.1.1", "fd44:1::1"];

/// Small and reproducible (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }
}

fn trial() -> Trial {
    let mut trial = Trial::new("fuzz");
    for (port, backend) in [("10.211.0.1:20080", "10.244.1.1:80"), ("[fd11::1]:20080", "[fd44:1::1]:80")] {
        trial.declare(port, Tcp, &service(&[backend]));
        trial.declare(port, Udp, &service(&[backend]));
    }
    trial
}

/// Valid frames with the way that they take, one of every kind.
fn seeds(trial: &Trial) -> Vec<(Direction, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (client, port, backend) in [
        ("10.211.0.2:4000", "10.211.0.1:20080", "10.244.1.1:80"),
        ("[fd11::2]:4000", "[fd11::1]:20080", "[fd44:1::1]:80"),
    ] {
        let (called, served) = (Flow::new(client, port), Flow::new(client, backend));
        let (question, answer) = (called.udp(&[3; 40]), served.back().udp(&[4; 33]));
        let mut ingress = vec![
            question.clone(),
            called.tcp(tcp::SYN, b""),
            called.tcp(tcp::ACK, b"data"),
            called.from_port(4001).tcp(tcp::ACK | tcp::FIN, b""),
            called.echo(),
        ];
        ingress.extend(pieces(&called.udp(&[5; 100]), 32));
        ingress.extend(pieces(&called.tcp(tcp::SYN, &[6; 100]), 48));
        if called.source.is_ipv6() {
            ingress.extend([with_options(&question), with_options(&called.tcp(tcp::SYN, b""))]);
        }
        let led = trial.pass(Ingress, &question);
        let answered = trial.pass(Egress, &answer);
        let mut egress = vec![
            answer,
            served.back().tcp(tcp::SYN | tcp::ACK, b""),
            served.back().to(called.source).from_port(9000).tcp(tcp::SYN, b""),
            called.back().from_port(9001).udp(b"own"),
            called.back().echo(),
        ];
        egress.extend(pieces(&served.back().udp(&[5; 100]), 32));
        for complaint in [Complaint::PortUnreachable, Complaint::TooBig(1300)] {
            ingress.push(called.complains(complaint, &answered));
            egress.push(served.back().complains(complaint, &led));
        }
        seeds.extend(ingress.into_iter().map(|frame| (Ingress, frame)));
        seeds.extend(egress.into_iter().map(|frame| (Egress, frame)));
    }
    seeds
}

/// The same packet of IPv6 with a destination options header.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let mut longer = [&frame[..54], &[frame[20], 0, 1, 4, 0, 0, 0, 0], &frame[54..]].concat();
    longer[20] = 60;
    finish(&mut longer);
    longer
}

/// Breaks a frame in one to four places.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.within(1..5) {
        let v4 = frame[12] == 8;
        let transport = if v4 { 34 } else { 54 };
        let at = match random.below(8) {
            0 => 14,
            1 => random.within(12..frame.len()),
            2 => random.within(14..transport.min(frame.len())),
            3 if v4 => random.within(20..22),
            3 => random.within(18..21),
            4 => random.within(transport..frame.len().max(transport + 1)),
            5 => {
                frame.truncate(random.within(14..frame.len()));
                frame.resize(frame.len().max(56), 0);
                continue;
            }
            6 => {
                chain(random, frame);
                continue;
            }
            _ => {
                frame.extend(vec![random.next() as u8; random.within(1..64)]);
                continue;
            }
        };
        if let Some(byte) = frame.get_mut(at) {
            *byte = match random.below(3) {
                0 => random.next() as u8,
                1 => *byte ^ 1 << random.below(8),
                _ => [0, 1, 4, 5, 6, 0x45, 0x46, 0x4f, 0x60, 0xff][random.below(10)],
            };
        }
    }
    if random.below(2) == 0 && frame.len() >= 54 && usize::from(frame[14] & 15) * 4 + 14 <= frame.len() {
        finish(frame);
    }
}

/// Puts extension headers of any kind and length into a frame of IPv6, and options into one of IPv4.
fn chain(random: &mut Random, frame: &mut Vec<u8>) {
    const KINDS: [u8; 10] = [0, 60, 44, 43, 51, 50, 59, 6, 17, 58];
    if frame.len() < 54 || frame.len() > 1500 {
        return;
    }
    if frame[12] == 8 {
        let words = random.below(16) as u8;
        frame[14] = 0x40 | words;
        let options = (0..usize::from(words.saturating_sub(5)) * 4).map(|_| random.next() as u8);
        let options: Vec<_> = options.collect();
        frame.splice(34..34, options);
        return;
    }
    for _ in 0..random.within(1..6) {
        let kind = KINDS[random.below(KINDS.len())];
        let length = if random.below(4) == 0 { random.below(256) } else { random.below(3) };
        let mut header = vec![frame[20], length as u8, 0, random.below(2) as u8, 0, 0, 0, 9];
        header.resize(8 + 8 * random.below(3), 0);
        frame.splice(54..54, header);
        frame[20] = kind;
    }
}

/// What is known about who may be reached.
#[derive(Default)]
struct Laws {
    /// Who here has sent to whom.
    started: HashSet<(IpAddr, IpAddr)>,
}

impl Laws {
    /// What holds of every frame that passes.
    fn check(&mut self, direction: Direction, sent: &[u8], passed: &[u8]) {
        assert_eq!(sent.len(), passed.len(), "{direction:?} {sent:02x?}");
        let [before, after] = [sent, passed].map(|frame| {
            ends(frame).unwrap_or_else(|| panic!("passed as nothing: {direction:?} {sent:02x?}"))
        });
        let (from, to) = (after.source.ip(), after.destination.ip());
        let is_any = |address: IpAddr, of: &[&str]| of.iter().any(|text| address.to_string() == *text);
        match direction {
            // Only to backends, to the host, and to who has called.
            Ingress => {
                let may = is_any(to, &BACKENDS) || is_any(to, &OWN) || self.started.contains(&(to, from));
                assert!(may, "to {to}: {sent:02x?}");
                assert!(is_any(before.destination.ip(), &OWN) && before.source.ip() == from, "{sent:02x?}");
            }
            // Nothing bears an address that the tunnel does not know.
            Egress => {
                assert!(is_any(from, &OWN) && before.destination.ip() == to, "from {from}: {sent:02x?}");
                self.started.insert((before.source.ip(), to));
            }
        }
        // Whatever was right is right afterwards.
        if is_plain(sent) && is_sound(sent) {
            assert!(is_sound(passed), "{direction:?} {sent:02x?} became {passed:02x?}");
        }
    }

    /// Tries a frame; whether it passed. `None`: the kernel lets nobody try a frame that has no room for an address.
    fn attempt(&mut self, trial: &Trial, direction: Direction, frame: &[u8]) -> Option<bool> {
        let verdict = match trial.proxy.try_frame(direction, frame) {
            Err(_) if frame.len() < 54 => return None,
            verdict => verdict.unwrap(),
        };
        match verdict.passed {
            true => self.check(direction, frame, &verdict.frame),
            false => assert_eq!(verdict.frame.len(), frame.len()),
        }
        Some(verdict.passed)
    }
}

/// A whole packet without options, as long as the frame, of a protocol with a checksum.
fn is_plain(frame: &[u8]) -> bool {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if frame.len() < 62 {
        return false;
    }
    match frame[12] {
        8 => frame[14] == 0x45 && word(16) == frame.len() - 14 && word(20) & 0x3fff == 0,
        _ => word(18) == frame.len() - 54 && [6, 17, 58].contains(&frame[20]),
    }
}

#[test]
fn truncated_at_every_length() {
    if !require_kernel() {
        return;
    }
    let (trial, mut laws) = (trial(), Laws::default());
    for (direction, frame) in seeds(&trial) {
        for length in 14..frame.len() {
            // As it is, and with lengths that say so.
            let mut cut = frame[..length].to_vec();
            assert_ne!(
                laws.attempt(&trial, direction, &cut),
                Some(true),
                "{direction:?} {length} of {frame:02x?}"
            );
            if length >= 54 {
                finish(&mut cut);
                laws.attempt(&trial, direction, &cut);
            }
        }
    }
}

#[test]
fn a_million_broken_frames() {
    if !require_kernel() {
        return;
    }
    let trial = trial();
    let (mut random, seeds) = (Random(SEED), seeds(&trial));
    assert!(seeds.len() > 40);
    let (before, mut laws, mut tried, mut passed) = (trial.counters(), Laws::default(), 0, 0);
    for _ in 0..FRAMES {
        let (direction, mut frame) = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut frame);
        let verdict = laws.attempt(&trial, direction, &frame);
        (tried, passed) = (tried + u64::from(verdict.is_some()), passed + u64::from(verdict == Some(true)));
    }
    let after = trial.counters();
    let drops = |counters: &balancing_dataplane::proxy::Counters| counters.drops.values().sum::<u64>();
    let dropped = drops(&after) - drops(&before);
    assert_eq!(packets(&after) - packets(&before), passed, "what passed is counted as that");
    assert_eq!(passed + dropped, tried, "everything is counted once");
    assert!(tried > FRAMES as u64 * 9 / 10, "{tried} tried");
    // It is no test of one side only.
    assert!(passed > FRAMES as u64 / 20 && dropped > FRAMES as u64 / 20, "{passed} passed");
    for reason in ["malformed", "unsupported", "undeclared_port", "unrelated_icmp", "early_fragment"] {
        assert!(after.drops[reason] > before.drops[reason], "{reason}");
    }
    assert_eq!(after.drops["kernel"], before.drops["kernel"], "the kernel refused a change half-way");
}

/// Everything that a network sees, from now on.
fn listener(namespace: &NetNs) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    namespace.run(|| socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)).unwrap()
}

/// Looks at what a pod has seen; how many frames came for it. Only its port, and errors about what it has sent.
fn look(listener: &OwnedFd, backends: &[IpAddr]) -> usize {
    let (mut buffer, mut count) = ([0; 4096], 0);
    while let Ok(length) = recv(listener.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        let frame = &buffer[..length];
        let Some(flow) = ends(frame).filter(|flow| backends.contains(&flow.destination.ip())) else {
            continue;
        };
        count += 1;
        // Ports are only those of a whole packet without options.
        let is_whole = frame.len() >= 62
            && match frame[12] {
                8 => {
                    frame[14] == 0x45
                        && frame[20] & 0x3f == 0
                        && frame[21] == 0
                        && [6, 17].contains(&frame[23])
                }
                _ => [6, 17].contains(&frame[20]),
            };
        assert!(!is_whole || flow.destination.port() == 80, "the pod got {frame:02x?}");
    }
    count
}

/// Sends a frame through the tunnel to the first member, whatever it is.
fn inject(socket: &UdpSocket, to: &Host, frame: &[u8]) {
    let [_, a, b, c] = 7710_u32.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0][..], &to.own.mac.0, &frame[6..]].concat();
    socket.send_to(&payload, (to.own.underlay.v4.unwrap(), 7710)).unwrap();
}

#[test]
fn broken_frames_from_a_member_reach_no_pod_that_they_should_not() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("fuzz-wire");
    let pod = world.pod(1, 1);
    for (port, backend) in [("10.211.0.1:20080", "10.244.1.1:80"), ("[fd11::1]:20080", "[fd44:1::1]:80")] {
        world.declare(port, Tcp, &service(&[backend]));
        world.declare(port, Udp, &service(&[backend]));
    }
    let (listener, backends) = (listener(&pod), BACKENDS.map(|text| text.parse().unwrap()));
    let socket = world.host(2).run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    // The kernel may find frames wrong before the program does, but not those that are as they should be.
    let counted = || {
        let counters = world.server.proxy.counters().unwrap();
        packets(&counters) + counters.drops.values().sum::<u64>()
    };
    let (mut random, seeds, before) = (Random(SEED), seeds(&trial()), counted());
    let ingress: Vec<_> = seeds.into_iter().filter(|(way, _)| *way == Ingress).collect();
    let (mut came, mut sent) = (0, 0);
    for (_, frame) in ingress.iter().cycle().take(SENT) {
        let mut frame = frame.clone();
        if sent % 10 != 0 {
            mutate(&mut random, &mut frame);
        }
        frame.truncate(1400);
        inject(&socket, &world.members.hosts[0], &frame);
        sent += 1;
        came += look(&listener, &backends);
    }
    wait_until(Duration::from_secs(30), || {
        came += look(&listener, &backends);
        counted() - before > SENT as u64 / 2
    });
    assert!(came > 100, "{came} frames came through");
    let counters = world.server.proxy.counters().unwrap();
    assert!(counters.drops["malformed"] > 0 && counters.drops["undeclared_port"] > 0, "{counters:?}");
}
