//! The layout of the socket hooks' tables.
//!
//! A frontend is found through the index ([`index`]): a word names the slot of a [`Frontend`], which names its backends and
//! the slot of the layer below. Slots and sets never change while anything names them. A change is written into free
//! ones and put into force by one store, of the word that names the old slot; what it replaced is used again
//! only after a grace period, when no program that has seen it runs any more.

pub mod conn;
mod frontend;
pub mod index;
pub mod known;
pub mod maps;
mod observe;
pub mod pick;
mod rows;

pub use self::{
    frontend::{Frontend, FrontendKey, LAYERS, SetHead, Slot, Target, flags},
    observe::{Control, Event, PolicyName, RareCounters, control, outcome, stat},
    rows::{Affinity, AffinityKey, Name, SkipKey, UDP_PEERS, UdpPeer, UdpPeers, Window, bpf_spin_lock},
};

/// Number of the layout described by this module. Every change of a key, a value or a map raises it; the pins of
/// different numbers live side by side in different directories.
pub const ABI: u32 = 2;
