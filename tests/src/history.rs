//! What was published and when, to judge what clients saw meanwhile.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    ChurnReport,
    dataplane::{DataPlane, Entry, Protocol, key},
    monotonic_ns,
    must::Must,
};

/// One state of a frontend.
#[derive(Clone, Debug)]
pub struct State {
    /// What is programmed; `None` for a frontend that is not there.
    pub entry: Option<Entry>,
    /// The servers that answer then.
    pub names: BTreeSet<String>,
}

/// A publication.
#[derive(Clone, Copy, Debug)]
struct Published {
    began_ns: u64,
    ended_ns: u64,
    state: usize,
}

/// A frontend that changes, and the states that it had.
#[derive(Debug)]
pub struct History {
    protocol: Protocol,
    to: SocketAddr,
    states: Vec<State>,
    log: Vec<Published>,
}

impl History {
    /// Publishes the first of the states that the frontend will have.
    ///
    /// # Panics
    /// Without a state.
    #[must_use]
    pub fn begin(plane: &mut DataPlane, protocol: Protocol, to: SocketAddr, states: Vec<State>) -> Self {
        let mut history = Self { protocol, to, states, log: vec![] };
        history.publish(plane, 0);
        history
    }

    /// Where clients connect.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Number of states.
    #[must_use]
    pub fn states(&self) -> usize {
        self.states.len()
    }

    /// Puts one of the states into force.
    pub fn publish(&mut self, plane: &mut DataPlane, state: usize) {
        let began_ns = monotonic_ns();
        match &self.states[state].entry {
            Some(entry) => drop(plane.publish(self.protocol, self.to, entry.clone())),
            None => self.remove(plane),
        }
        self.log.push(Published { began_ns, ended_ns: monotonic_ns(), state });
    }

    /// Takes the frontend out. Nothing is judged after that.
    pub fn remove(&self, plane: &mut DataPlane) {
        plane.tables.remove(&key(self.protocol, self.to)).must("remove a frontend");
    }

    /// Changes since the beginning or since they were forgotten.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.log.len() - 1
    }

    /// Forgets all but what is in force: whoever connects from now on has seen nothing of it.
    pub fn forget(&mut self) {
        self.log.drain(..self.changes());
    }

    /// Every sample reached a server of a state that was in force at some time while the sample was taken.
    ///
    /// # Panics
    /// At the caller's line, when one failed or was answered by somebody else.
    #[track_caller]
    pub fn judge(&self, report: &ChurnReport) {
        assert_eq!(report.errors.len(), 0, "{}: {:?}", self.to, report.errors);
        assert!(!report.samples.is_empty(), "nothing to judge");
        for sample in &report.samples {
            let name = sample.outcome.as_ref().must("find only successes");
            // A state is there from the beginning of its publication to the end of the next one.
            let from = self.log.partition_point(|state| state.ended_ns < sample.began_ns).saturating_sub(1);
            let states = self.log[from..].iter().take_while(|state| state.began_ns <= sample.ended_ns);
            let mut states = states.map(|published| published.state);
            let right = states.clone().any(|state| self.states[state].names.contains(name));
            assert!(
                right,
                "{}: {name} in states {:?}: {sample:?}",
                self.to,
                states.by_ref().collect::<Vec<_>>()
            );
        }
    }
}

/// A state of these servers.
#[must_use]
pub fn state<T: Into<String>>(entry: Entry, names: impl IntoIterator<Item = T>) -> State {
    State { entry: Some(entry), names: names.into_iter().map(Into::into).collect() }
}
