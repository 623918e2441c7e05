//! Which frontend port goes to which backend port.
//!
//! One frontend port and one backend port of the same protocol pair whatever their names;
//! otherwise equal name and protocol pair. Where the frontend is a whole Service, one backend
//! port serves every Service port of its protocol.

use crate::{objects::Port, resolve::Frontends};

/// The pairs and what is left over, by position in the two lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pairing {
    /// Frontend and backend; a frontend port occurs once at most.
    pub(super) pairs: Vec<(usize, usize)>,
    lone_frontends: Vec<usize>,
    lone_backends: Vec<usize>,
}

impl Pairing {
    /// Pairs two lists.
    pub(super) fn of(frontends: &[Port], whole_service: bool, backends: &[&Port]) -> Self {
        let by_protocol = backends.len() == 1 && (whole_service || frontends.len() == 1);
        let suits = |frontend: &Port, backend: &Port| {
            frontend.protocol == backend.protocol
                && (by_protocol || (!frontend.name.is_empty() && frontend.name == backend.name))
        };
        let mut pairing = Self { pairs: Vec::new(), lone_frontends: Vec::new(), lone_backends: Vec::new() };
        for (at, frontend) in frontends.iter().enumerate() {
            match backends.iter().position(|backend| suits(frontend, backend)) {
                Some(backend) => pairing.pairs.push((at, backend)),
                None => pairing.lone_frontends.push(at),
            }
        }
        let used = |at: &usize| pairing.pairs.iter().any(|(_, backend)| backend == at);
        pairing.lone_backends = (0..backends.len()).filter(|at| !used(at)).collect();
        pairing
    }

    /// One sentence for each way in which frontend ports were left alone.
    pub(super) fn unpaired_frontends(&self, frontends: &Frontends<'_>) -> Vec<String> {
        let mut sentences = Vec::new();
        let ports = &frontends.ports;
        if self.lone_frontends.is_empty() && self.pairs.is_empty() {
            sentences.push("the Service has no TCP or UDP port".to_owned());
        }
        let lone = self.lone_frontends.iter().map(|&at| &ports[at]);
        let (lone, mut unknown): (Vec<&Port>, Vec<&Port>) = lone.partition(|port| frontends.offers(port));
        unknown.extend(self.pairs.iter().map(|&(at, _)| &ports[at]).filter(|port| !frontends.offers(port)));
        if !lone.is_empty() {
            let list = list(&lone);
            sentences
                .push(format!("frontend ports without a backend port of the same name and protocol: {list}"));
        }
        if !unknown.is_empty() {
            sentences.push(format!("ports that the Service does not have: {}", list(&unknown)));
        }
        sentences
    }

    /// One sentence about backend ports that serve no frontend port.
    pub(super) fn unused_backends(&self, backends: &[&Port]) -> Option<String> {
        let unused: Vec<&Port> = self.lone_backends.iter().map(|&at| backends[at]).collect();
        (!unused.is_empty()).then(|| format!("backend ports that serve no frontend port: {}", list(&unused)))
    }
}

fn list(ports: &[&Port]) -> String {
    let words: Vec<String> = ports.iter().map(|port| describe(port)).collect();
    words.join(", ")
}

fn describe(port: &Port) -> String {
    if port.name.is_empty() {
        return format!("{}/{}", port.port, port.protocol);
    }
    format!("{} ({}/{})", port.name, port.port, port.protocol)
}
