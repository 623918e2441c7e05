//! Rows of connections, and how long they live.

use crate::{TCP, is_mapped, plain};

plain!(ConnectionKey = 40, Connection = 40);

/// Values of [`ConnectionKey::direction`].
pub mod direction {
    /// The packet came through the tunnel.
    pub const INGRESS: u8 = 0;
    /// The packet leaves through the tunnel.
    pub const EGRESS: u8 = 1;
}

/// Bits of [`Connection::state`]. They are only ever set.
pub mod state {
    /// Who was called has answered.
    pub const REPLIED: u32 = 1;
    /// The caller has answered that.
    pub const ESTABLISHED: u32 = 2;
    /// FIN in the direction of ingress; that of egress is the next bit.
    pub const FIN: u32 = 4;
    /// FIN in both directions.
    pub const FINS: u32 = 3 * FIN;
    /// RST in any direction.
    pub const RESET: u32 = 16;
}

/// A packet of a connection, as it comes to the hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionKey {
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// [`direction`].
    pub direction: u8,
    /// Zero.
    pub pad: u16,
}

/// What to make of the packets of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Time of the last packet of either direction in nanoseconds, at most a second late.
    pub seen: u64,
    /// Replaces the destination (ingress) or the source (egress).
    pub address: [u32; 4],
    /// Port beside that address.
    pub port: u16,
    /// Replaces the port of the other end.
    pub other_port: u16,
    /// Bits of [`state`], of the connection and not of the direction.
    pub state: u32,
    /// Id of the backend that a member of the tunnel was led to; 0 = somebody on this host started the connection.
    pub backend: u32,
    /// [`super::Control::generation`] for which the backend was found declared.
    pub generation: u32,
}

impl ConnectionKey {
    /// The key of the other direction, given the row of this one.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(&self, row: &Connection) -> Self {
        let (source, source_port, destination, destination_port) = if self.direction == direction::INGRESS {
            (row.address, row.port, self.source, row.other_port)
        } else {
            (self.destination, row.other_port, row.address, row.port)
        };
        Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.protocol,
            direction: self.direction ^ 1,
            pad: 0,
        }
    }

    /// The row of the other direction, given the row of this one: it takes back what this one does.
    #[inline(always)]
    #[must_use]
    pub const fn reverse_row(&self, row: &Connection) -> Connection {
        let (address, port, other_port) = if self.direction == direction::INGRESS {
            (self.destination, self.destination_port, self.source_port)
        } else {
            (self.source, self.source_port, self.destination_port)
        };
        Connection {
            seen: row.seen,
            address,
            port,
            other_port,
            state: row.state,
            backend: row.backend,
            generation: row.generation,
        }
    }

    /// Whether packets of the key are IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        is_mapped(&self.destination)
    }
}

const SECOND: u64 = 1_000_000_000;

impl Connection {
    /// A row is not written more often than this for its time alone.
    pub const REFRESH: u64 = SECOND;
    /// TCP that both ends have agreed on.
    pub const ESTABLISHED: u64 = 8_000 * SECOND;
    /// TCP that both ends have ended, or one of them at once.
    pub const CLOSED: u64 = 10 * SECOND;
    /// Everything else.
    pub const OTHER: u64 = 60 * SECOND;

    /// Nanoseconds from the last packet on.
    #[inline(always)]
    #[must_use]
    pub const fn lifetime(protocol: u8, bits: u32) -> u64 {
        if protocol != TCP {
            return Self::OTHER;
        }
        if Self::is_closed(bits) {
            return Self::CLOSED;
        }
        if bits & state::ESTABLISHED != 0 { Self::ESTABLISHED } else { Self::OTHER }
    }

    /// Whether a new connection of TCP may take the place of this one.
    #[inline(always)]
    #[must_use]
    pub const fn is_closed(bits: u32) -> bool {
        bits & state::RESET != 0 || bits & state::FINS == state::FINS
    }

    /// Whether packets of the row, by which a member talks to a backend, go on only while the backend is declared. TCP that the
    /// backend has answered drains, unless it begins anew: then the caller knows of no connection any more.
    #[inline(always)]
    #[must_use]
    pub const fn follows(protocol: u8, bits: u32, starts: bool) -> bool {
        protocol != TCP || bits & state::REPLIED == 0 || starts
    }

    /// Whether the row counts. Another CPU may have read its clock a little later than this one.
    #[inline(always)]
    #[must_use]
    pub const fn is_alive(seen: u64, protocol: u8, bits: u32, now: u64) -> bool {
        now < seen || now - seen <= Self::lifetime(protocol, bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UDP, mapped};

    fn key(direction: u8) -> ConnectionKey {
        ConnectionKey {
            source: mapped(1),
            destination: mapped(2),
            source_port: 3,
            destination_port: 4,
            protocol: TCP,
            direction,
            pad: 0,
        }
    }

    fn row() -> Connection {
        Connection {
            seen: 9,
            address: mapped(5),
            port: 6,
            other_port: 7,
            state: state::REPLIED,
            backend: 8,
            generation: 1,
        }
    }

    #[test]
    fn the_other_direction_leads_back() {
        for direction in [direction::INGRESS, direction::EGRESS] {
            let (key, row) = (key(direction), row());
            let (other, other_row) = (key.reverse(&row), key.reverse_row(&row));
            assert_eq!((other.reverse(&other_row), other.reverse_row(&other_row)), (key, row));
            assert_ne!(other.direction, key.direction);
        }
    }

    #[test]
    fn a_member_that_calls_is_answered_by_the_name_it_dialled() {
        let (key, row) = (key(direction::INGRESS), row());
        let answer = key.reverse(&row);
        assert_eq!((answer.source, answer.source_port), (row.address, row.port));
        assert_eq!((answer.destination, answer.destination_port), (key.source, row.other_port));
        let named = key.reverse_row(&row);
        assert_eq!((named.address, named.port), (key.destination, key.destination_port));
        assert_eq!(named.other_port, key.source_port);
    }

    #[test]
    fn who_follows_the_set_of_backends() {
        assert!(Connection::follows(UDP, state::REPLIED, false));
        assert!(Connection::follows(TCP, 0, true) && Connection::follows(TCP, 0, false));
        assert!(!Connection::follows(TCP, state::REPLIED | state::ESTABLISHED, false), "it drains");
        assert!(Connection::follows(TCP, state::REPLIED | state::ESTABLISHED, true), "it begins anew");
    }

    #[test]
    fn lifetimes() {
        let life = |bits| Connection::lifetime(TCP, bits) / SECOND;
        assert_eq!(life(0), 60);
        assert_eq!(life(state::REPLIED), 60);
        assert_eq!(life(state::REPLIED | state::ESTABLISHED), 8000);
        assert_eq!(life(state::ESTABLISHED | state::FIN), 8000, "half closed");
        assert_eq!(life(state::ESTABLISHED | state::FINS), 10);
        assert_eq!(life(state::RESET), 10);
        assert_eq!(Connection::lifetime(UDP, state::REPLIED | state::RESET) / SECOND, 60);
        assert!(Connection::is_alive(5, UDP, 0, 4), "another CPU was later");
        assert!(Connection::is_alive(0, UDP, 0, 60 * SECOND));
        assert!(!Connection::is_alive(0, UDP, 0, 60 * SECOND + 1));
    }
}
