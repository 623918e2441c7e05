//! Events: what became of single calls, for whoever listens.
//!
//! The programs write them only while [`super::Tables::set_events`] has them switched on. The buffer has one reading
//! position for all its readers: two of them take each other's events. So one process reads and hands on.
//! Nothing here switches or filters.

use std::{
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use balancing_abi::{
    TCP, UDP,
    sockets::{Event, maps, outcome, reason, stat},
};

use super::{
    TableError, codec,
    pins::{open, operation, sum},
};
use crate::{layout::Layout, model::Protocol};

/// Events that a full buffer holds; each has a header of 8 bytes.
const FULL: usize = maps::size::EVENTS as usize / (size_of::<Event>() + 8);

/// One call that met a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Inode of the calling process's cgroup2 directory.
    pub cgroup: u64,
    /// `SO_NETNS_COOKIE` of the socket's network namespace.
    pub netns_cookie: u64,
    /// Process id of the caller in the first pid namespace.
    pub pid: u32,
    /// Name of the calling thread, which it chooses itself; zeros when the program does not tell.
    pub comm: [u8; 16],
    /// Policy that decided last.
    pub service_id: u32,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The address dialled. IPv4-mapped addresses are IPv4 ones here.
    pub frontend: SocketAddr,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went to this backend.
    Redirected(SocketAddr),
    /// It went where it was dialled.
    Passed(Reason),
    /// It was refused with EHOSTUNREACH: no backend.
    Rejected,
}

/// Why the policy that was asked last let a call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The program does not tell, or knows more reasons than this reader.
    Unknown,
    /// No backend took the connection.
    NoBackend,
    /// The QoS limit was reached.
    QosLimit,
    /// The client is exempt.
    Exempt,
    /// The policy is for other clients.
    OtherClients,
}

/// The reading end of the event buffer. The programs wake a waiting reader only when the buffer is half full: read it by a
/// clock of your own, and whenever its descriptor becomes readable, until [`Events::next`] says `None`.
pub struct Events {
    ring: RingBuf<MapData>,
    stats: PerCpuArray<MapData, u64>,
}

impl Events {
    /// Opens the pinned buffer and forgets what an earlier reader left in it.
    ///
    /// # Errors
    /// [`TableError::Open`].
    pub fn open(layout: &Layout) -> Result<Self, TableError> {
        let mut ring: RingBuf<_> = open(layout, maps::EVENTS)?;
        let stats = open(layout, maps::STATS)?;
        for _ in 0..FULL {
            if ring.next().is_none() {
                break;
            }
        }
        Ok(Self { ring, stats })
    }

    /// The next event, `None` when there is none at present. The programs drop events while the buffer is full.
    #[expect(clippy::should_implement_trait, reason = "the end of an iterator is final, this one's is not")]
    pub fn next(&mut self) -> Option<Resolution> {
        loop {
            let item = self.ring.next()?;
            // What is no event of this ABI was written by nobody; it is passed over.
            if let Some(event) = decode(&item) {
                return Some(event);
            }
        }
    }
}

impl Events {
    /// Events that found the buffer full, since the tables were made.
    ///
    /// # Errors
    /// A refused operation.
    pub fn lost(&self) -> Result<u64, TableError> {
        let read = self.stats.get(&stat::EVENTS_LOST, 0);
        read.map(|counts| sum(&counts)).map_err(operation("read", maps::STATS, stat::EVENTS_LOST))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn decode(bytes: &[u8]) -> Option<Resolution> {
    let comm = offset_of!(Event, comm);
    if bytes.len() < comm {
        return None;
    }
    let protocol = match bytes[offset_of!(Event, protocol)] {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let outcome = match bytes[offset_of!(Event, outcome)] {
        outcome::REDIRECTED => {
            Outcome::Redirected(peer(bytes, offset_of!(Event, backend), offset_of!(Event, backend_port)))
        }
        outcome::PASSED => Outcome::Passed(why(bytes[offset_of!(Event, reason)])),
        outcome::REJECTED => Outcome::Rejected,
        _ => return None,
    };
    Some(Resolution {
        time_ns: u64::from_ne_bytes(array(bytes, offset_of!(Event, time))),
        cgroup: u64::from_ne_bytes(array(bytes, offset_of!(Event, cgroup))),
        netns_cookie: u64::from_ne_bytes(array(bytes, offset_of!(Event, netns))),
        pid: u32::from_ne_bytes(array(bytes, offset_of!(Event, pid))),
        comm: if bytes.len() < size_of::<Event>() { [0; 16] } else { array(bytes, comm) },
        service_id: u32::from_ne_bytes(array(bytes, offset_of!(Event, service_id))),
        protocol,
        frontend: peer(bytes, offset_of!(Event, frontend), offset_of!(Event, frontend_port)),
        outcome,
    })
}

fn why(code: u8) -> Reason {
    match code {
        reason::NO_BACKEND => Reason::NoBackend,
        reason::QOS_LIMIT => Reason::QosLimit,
        reason::EXEMPT => Reason::Exempt,
        reason::OTHER_CLIENTS => Reason::OtherClients,
        _ => Reason::Unknown,
    }
}

/// Address and port, both in network order.
fn peer(bytes: &[u8], address: usize, port: usize) -> SocketAddr {
    let words = std::array::from_fn(|i| u32::from_ne_bytes(array(bytes, address + 4 * i)));
    let address: IpAddr = codec::address(&words);
    SocketAddr::new(address, u16::from_be_bytes(array(bytes, port)))
}

/// Bytes of an event that is known to be whole.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[offset + i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Event>()];
        bytes[offset_of!(Event, time)..][..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[offset_of!(Event, service_id)..][..4].copy_from_slice(&9_u32.to_ne_bytes());
        bytes[offset_of!(Event, frontend) + 10..][..6].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        bytes[offset_of!(Event, frontend_port)..][..2].copy_from_slice(&53_u16.to_be_bytes());
        bytes[offset_of!(Event, backend)..][..2].copy_from_slice(&[0xfd, 0]);
        bytes[offset_of!(Event, backend_port)..][..2].copy_from_slice(&80_u16.to_be_bytes());
        bytes[offset_of!(Event, protocol)] = UDP;
        bytes
    }

    #[test]
    fn fields_are_where_the_programs_write_them() {
        let event = decode(&bytes()).unwrap();
        assert_eq!((event.time_ns, event.service_id, event.protocol), (7, 9, Protocol::Udp));
        assert_eq!(event.frontend, "192.0.2.1:53".parse().unwrap());
        assert_eq!(event.outcome, Outcome::Redirected("[fd00::]:80".parse().unwrap()));
    }

    #[test]
    fn programs_that_tell_less_and_reasons_of_later_ones_are_understood() {
        let mut passed = bytes();
        passed[offset_of!(Event, comm)..][..4].copy_from_slice(b"curl");
        assert_eq!(&decode(&passed).unwrap().comm[..5], b"curl\0");
        assert_eq!(decode(&passed[..offset_of!(Event, comm)]).unwrap().comm, [0; 16]);
        passed[offset_of!(Event, outcome)] = outcome::PASSED;
        for (code, why) in
            [(0, Reason::Unknown), (reason::QOS_LIMIT, Reason::QosLimit), (99, Reason::Unknown)]
        {
            passed[offset_of!(Event, reason)] = code;
            assert_eq!(decode(&passed).unwrap().outcome, Outcome::Passed(why));
        }
    }

    #[test]
    fn what_is_no_event_is_none() {
        assert_eq!(decode(&bytes()[17..]), None);
        let mut other = bytes();
        other[offset_of!(Event, protocol)] = 1;
        assert_eq!(decode(&other), None);
        let mut unknown = bytes();
        unknown[offset_of!(Event, outcome)] = 200;
        assert_eq!(decode(&unknown), None);
    }
}
