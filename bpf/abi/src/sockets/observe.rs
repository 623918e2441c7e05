//! What is counted, switched and told.

use crate::plain;

plain!(RareCounters = 24, PolicyName = 264, Control = 32, Event = 96);

/// Counters of a frontend that seldom count, shared by all CPUs: additions are atomic.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RareCounters {
    /// The QoS limit was reached.
    pub qos_overflow: u64,
    /// No backend took the connection.
    pub no_backend: u64,
    /// The client is exempt.
    pub skipped: u64,
}

/// Indexes of the statistics table.
pub mod stat {
    /// Slots of the connection table taken for the first time.
    pub const CONN_USED: u32 = 0;
    /// Slots of the connection table taken from another socket.
    pub const CONN_OVERWRITTEN: u32 = 1;
    /// Clients that were put into the affinity table. What is no longer there had to give way.
    pub const AFFINITY_NEW: u32 = 2;
    /// Clients that the affinity table did not take.
    pub const AFFINITY_REFUSED: u32 = 3;
    /// Events that found the buffer full.
    pub const EVENTS_LOST: u32 = 4;
    /// First of the error counters, one a hook in the order of [`super::super::maps::PROGRAMS`].
    pub const ERRORS: u32 = 5;
    /// Number of indexes.
    pub const COUNT: u32 = ERRORS + 8;
}

/// Kind and name of the policy behind a service id; read by people only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyName {
    /// 0 = LocalRedirectPolicy, 1 = BalancingPolicy.
    pub kind: u32,
    /// Bytes of the name.
    pub length: u32,
    /// UTF-8; a Kubernetes name has at most 253 bytes.
    pub name: [u8; 256],
}

/// What user space tells programs and readers while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Bits of [`control`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// Seed of [`super::index::hash`]; chosen when the tables are made, 0 before.
    pub seed: u64,
    /// Grace periods that the owner has waited for. Memory that was in use in one is not written again before the
    /// next, so who reads the tables from outside has read nothing torn if the number is the same before and after.
    pub epoch: u64,
    /// The backend id that was given away last. Clients and sockets remember ids for longer than an agent lives.
    pub last_backend_id: u32,
    /// Zero.
    pub pad2: u32,
}

/// Bits of [`Control::flags`].
pub mod control {
    /// Somebody reads the events.
    pub const EVENTS: u32 = 1;
    /// The skip table has rows for every policy.
    pub const EXEMPT: u32 = 1 << 1;
    /// Nothing is redirected any more. Programs go on naming what was, and forget what is dialled itself.
    pub const STOPPED: u32 = 1 << 2;
}

/// One resolution, as a listener sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Monotonic nanoseconds.
    pub time: u64,
    /// Cgroup id of the calling task.
    pub cgroup: u64,
    /// Network namespace cookie of the socket.
    pub netns: u64,
    /// Address dialled.
    pub frontend: [u32; 4],
    /// Address it was resolved to; zero unless [`Event::outcome`] is [`outcome::REDIRECTED`].
    pub backend: [u32; 4],
    /// Port dialled.
    pub frontend_port: u16,
    /// Port it was resolved to.
    pub backend_port: u16,
    /// Policy that decided last.
    pub service_id: u32,
    /// Process id (thread group) of the caller.
    pub pid: u32,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// One of [`outcome`].
    pub outcome: u8,
    /// Why it passed, one of [`reason`]; zero for every other outcome.
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 9],
    /// Name of the calling thread, zero-terminated. Programs that do not tell it write events that end before it.
    pub comm: [u8; 16],
}

/// Values of [`Event::outcome`].
pub mod outcome {
    /// Sent to a backend.
    pub const REDIRECTED: u8 = 0;
    /// Left as dialled.
    pub const PASSED: u8 = 1;
    /// Refused with EHOSTUNREACH, because no backend took it.
    pub const REJECTED: u8 = 2;
}

/// Values of [`Event::reason`]: why the policy that decided last stood aside.
pub mod reason {
    /// Programs that do not tell reasons write this.
    pub const UNKNOWN: u8 = 0;
    /// No backend took the connection.
    pub const NO_BACKEND: u8 = 1;
    /// The QoS limit was reached.
    pub const QOS_LIMIT: u8 = 2;
    /// The client is exempt.
    pub const EXEMPT: u8 = 3;
    /// The policy is for other clients.
    pub const OTHER_CLIENTS: u8 = 4;
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;
    use crate::sockets::maps;

    #[test]
    fn fields_are_where_both_sides_expect_them() {
        assert_eq!((offset_of!(Event, frontend), offset_of!(Event, protocol)), (24, 68));
        assert_eq!((offset_of!(Event, reason), offset_of!(Event, comm)), (70, 80));
        assert_eq!((offset_of!(Control, seed), offset_of!(Control, epoch)), (8, 16));
    }

    #[test]
    fn kernel_names_fit() {
        // BPF_OBJ_NAME_LEN is 16, with the terminating zero.
        assert!(maps::ALL.iter().chain(&maps::PROGRAMS).all(|name| name.len() < 16));
        assert_eq!(maps::PROGRAMS.len() as u32, stat::COUNT - stat::ERRORS);
    }
}
