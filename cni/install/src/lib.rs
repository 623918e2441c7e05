//! Puts the CNI plugin on a node and keeps it there.

pub mod conflist;
