//! The VXLAN fabric between members: nodes of a cluster and hosts outside it.
//!
//! Two halves. The pure one decides: which local address peers dial ([`underlay`]), what the host shall have
//! ([`plan`]), what differs from that ([`diff`]), who is there already and has to go ([`kept`]), when deletions wait ([`shrink`]), what
//! the filter's rules say ([`filter::text`]). The other one asks and changes the kernel: [`netlink`] by rtnetlink, [`filter`] by `nft`.
//!
//! It knows nothing of Kubernetes and of our other crates, keeps no state on disk, and touches no kernel object
//! that is not marked as its own: devices by name and alias, routes by protocol, the table by its name.
//!
//! The order that keeps members apart from strangers: a new member is let in by the filter before it is
//! programmed, and one that left is shut out after it was removed.

pub mod diff;
pub mod echo;
pub mod fabric;
pub mod facts;
pub mod filter;
pub mod kept;
pub mod nat;
pub mod netlink;
mod nfnetlink;
pub mod plan;
pub mod shrink;
pub mod underlay;
mod words;

pub use echo::{EchoError, echo};
pub use fabric::{AcceptFrom, Fabric, Mac, Member, Pair};
pub use facts::Facts;
pub use filter::Filter;
pub use nat::Nat;
pub use netlink::{Applied, Netlink};
pub use plan::{Conflict, Plan, plan};
pub use shrink::{Deletions, Shrink};
pub use underlay::{Family, NoUnderlay, Underlay, choose};
