//! Behaviour of the decisions, one topic a module. Every step of a [`fixtures::Lab`] also checks
//! that the incremental state equals one made from scratch.

use super::fixtures;

mod backends;
mod balancing;
mod cluster;
mod external;
mod frontends;
mod generations;
mod lacking;
mod laws;
mod pairing;
mod precedence;
mod skip;
mod standing;
mod work;
