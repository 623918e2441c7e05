//! Indices of the counters. Every packet on the wire is counted once: as forwarded, or under the reason why it was dropped.

/// Packets that came through the tunnel and went on; the bytes follow.
pub const INGRESS: u32 = 0;
/// Packets that left through the tunnel; the bytes follow.
pub const EGRESS: u32 = 2;
/// Connections to a declared port.
pub const PROXIED: u32 = 4;
/// Connections that the host, its pods and other local addresses started through the tunnel.
pub const STARTED: u32 = 5;
/// Rows of connections that were made.
pub const ROWS_MADE: u32 = 6;
/// Rows of connections that programs have removed. Those that are neither here, nor swept by user space, nor in the table were
/// forgotten by the kernel, which does so in a full table without a word.
pub const ROWS_REMOVED: u32 = 7;
/// First of the reasons.
pub const DROPS: u32 = 8;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)+) => {
        $($(#[$doc])* pub const $name: u32 = $number;)+
        /// The words for the reasons, by number; the first is none.
        pub const REASONS: [&str; [$($number),+].len() + 1] = ["", $($word),+];
        // Numbered without a gap, so that a number is an index.
        const _: () = {
            let (numbers, mut i) = ([$($number),+], 0);
            while i < numbers.len() {
                assert!(numbers[i] == i as u32 + 1);
                i += 1;
            }
        };
    };
}

reasons! {
    /// Neither IPv4 nor IPv6.
    NOT_IP = 1, "not_ip";
    /// A length, a header or a fragment that cannot be.
    MALFORMED = 2, "malformed";
    /// A protocol, an extension header, an option of IPv4 or an ICMP type that does not pass.
    UNSUPPORTED = 3, "unsupported";
    /// Not to the own tunnel address.
    NOT_FOR_US = 4, "not_for_us";
    /// From an address that nobody in the tunnel has.
    BAD_SOURCE = 5, "bad_source";
    /// Belongs to no connection, and nothing is declared at that port.
    UNDECLARED_PORT = 6, "undeclared_port";
    /// TCP to or from the middle of a connection that is not known.
    NO_CONNECTION = 7, "no_connection";
    /// The service has no backend.
    NO_BACKEND = 8, "no_backend";
    /// An ICMP error about a packet that is not known.
    UNRELATED_ICMP = 9, "unrelated_icmp";
    /// A piece whose first piece was not seen.
    EARLY_FRAGMENT = 10, "early_fragment";
    /// No port is free for the connection.
    NO_PORT = 11, "no_port";
    /// The host has no tunnel address of the packet's family.
    NO_ADDRESS = 12, "no_address";
    /// The table of connections took no more.
    TABLE_FULL = 13, "table_full";
    /// The kernel refused to change the packet.
    KERNEL = 14, "kernel";
}

/// Number of counters.
pub const COUNT: u32 = DROPS + REASONS.len() as u32 - 1;

/// The counter of a reason.
#[inline(always)]
#[must_use]
pub const fn drop(reason: u32) -> u32 {
    DROPS + reason - 1
}
