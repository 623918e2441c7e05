//! Everything that speaks to an API server: the client, the source of objects, the duties of the controller, Events, and
//! the types of our kinds.
//!
//! It decides nothing about redirection ([`balancing_core`]) and knows no kernel.

pub mod api;
pub mod client;
pub mod cluster;
pub mod events;
pub mod member;
pub mod source;
