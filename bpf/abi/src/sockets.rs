//! The layout of the socket hooks' tables.
//!
//! A frontend is found through the index ([`index`]): a word names the slot of a [`Frontend`], which names its backends and
//! the slot of the layer below. Slots and sets never change while anything names them. A change is written into free
//! ones and put into force by one store, of the word that names the old slot; what it replaced is used again
//! only after a grace period, when no program that has seen it runs any more.

mod frontend;
pub mod index;
pub mod known;
pub mod maps;
mod observe;
pub mod pick;
pub mod reverse_nat;
mod rows;

pub use self::{
    frontend::{Frontend, FrontendKey, LAYERS, SetHead, Slot, Target, flags},
    observe::{Control, Event, PolicyName, RareCounters, control, outcome, reason, stat},
    rows::{Affinity, AffinityKey, Name, SkipKey, UDP_PEERS, UdpPeer, UdpPeers, Window, bpf_spin_lock},
};

/// Number of the layout described by this module. Every change of a key, a value or a map raises it; the pins of
/// different numbers live side by side in different directories.
pub const ABI: u32 = 2;

/// `SO_PRIORITY` of a socket whose `connect` goes where it was dialled, whatever frontends there are: the agent's own way to
/// the API server. A policy that leads this way astray could not be taken back otherwise.
///
/// The agent sets it before `connect` and takes it away right after. A priority and no mark, because no routing rule looks at
/// it; queueing disciplines look at the low bits, which say "best effort" here. Values above 6 need CAP_NET_ADMIN or
/// CAP_NET_RAW, so a pod with one of these can do the same: for itself alone, as it could dial the backends themselves.
pub const OWN_PRIORITY: u32 = 0x6261_6c00;
