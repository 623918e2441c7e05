//! The layout of the proxy's tables: the program on the tunnel device that leads (own tunnel address, port) to a pod and back.
//!
//! **What is declared.** The writer (user space) keeps a hash map from [`FrontendKey`] to the index of a [`Service`]. A service
//! and its backends never change once the map names it: a change is written into free rows and put into force by one
//! update of the map. What it replaced is used again only after a grace period. The kernel may give the map's element
//! to another key while a program still looks at it; a service therefore holds its own key, and a program that finds another
//! one there looks again. Index 0 names none.
//!
//! **Connections.** Programs write them, user space only removes what has expired. A connection has two rows, one a direction, each
//! keyed by the addresses and ports of a packet as it comes to the hook of that direction ([`ConnectionKey`]). A row says what to make
//! of the packet: ingress replaces the destination, egress the source ([`Connection`]). The key of one row follows from the
//! other row ([`ConnectionKey::reverse`]). The row of the answers is made first, so that nobody can be answered under a
//! name that two connections share; if it is taken, the other end gets another port. Rows are made only where there is
//! none: of two CPUs that meet the same first packet, the later one takes what it finds. A row that has expired does not count; it is
//! removed by who meets it.
//!
//! **A backend that leaves.** The writer adds to [`Control::generation`] after each change by which a backend has left a
//! service. A row bears the generation for which its backend was last found there; a packet of a row of another generation
//! makes the program look again. So nothing has to be removed when a backend leaves, however many rows there are.
//!
//! **Own address.** [`Control::local`] holds two copies; [`Control::active`] says which one counts, and the other one is written
//! after a grace period.
//!
//! Addresses and ports are as everywhere in this crate; packets of IPv6 that carry mapped addresses are dropped, so that no
//! IPv6 packet can stand for an IPv4 one.

mod connection;
pub mod counter;
pub mod maps;
mod rows;

pub use self::{
    connection::{Connection, ConnectionKey, direction, state},
    rows::{AffinityKey, Backend, Control, Fragment, FragmentKey, FrontendKey, Service, flags},
};

/// Number of the layout described by this module; see [`crate::sockets::ABI`].
pub const ABI: u32 = 1;
