//! T11: nodes are made again under their names and agents are killed at any point while the controller collects, and hears of
//! everything late. Never does an address have two owners, and nothing is left in the end.

use std::{collections::VecDeque, net::IpAddr};

use balancing_core::{
    claims::{candidates, claim_name},
    objects::{ClaimSpec, MemberKind, MemberSpec, Node, Owner, TunnelAddressClaim, TunnelNode},
};

use super::*;

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Room for five.
const POOL: &str = "10.211.0.0/29";
const ROUNDS: u64 = 1000;

/// The same numbers for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        for (left, shift) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << shift } else { self.0 >> shift };
        }
        self.0 % bound
    }
}

/// What the API server has. Names of objects are unique there; uids are for one object.
#[derive(Default)]
struct Server {
    nodes: BTreeMap<String, String>,
    members: BTreeMap<String, TunnelNode>,
    claims: BTreeMap<String, TunnelAddressClaim>,
    made: u64,
    /// What the controller is still to hear, by kind: in order within one.
    news: [VecDeque<Object>; 3],
    gone: [VecDeque<usize>; 3],
}

/// An agent: what it does next.
struct Agent {
    owner: Owner,
    next: Next,
    /// It has taken up a claim that nobody used, and not looked again since.
    is_unchecked: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Next {
    Adopt,
    Claim(usize),
    Describe(IpAddr),
    Look(IpAddr),
}

impl Server {
    fn uid(&mut self) -> String {
        self.made += 1;
        self.made.to_string()
    }

    fn tell(&mut self, kind: usize, object: Object, is_gone: bool) {
        if is_gone {
            self.gone[kind].push_back(self.news[kind].len());
        }
        self.news[kind].push_back(object);
    }

    /// The next thing of a kind that the controller hears.
    fn hear(&mut self, kind: usize, snapshot: &mut Snapshot) {
        let Some(object) = self.news[kind].pop_front() else { return };
        let is_gone = self.gone[kind].front() == Some(&0);
        if is_gone {
            self.gone[kind].pop_front();
        }
        self.gone[kind].iter_mut().for_each(|at| *at -= 1);
        snapshot.apply([(object.key(), (!is_gone).then_some(object))]);
    }

    fn put_node(&mut self, name: &str) -> Owner {
        let uid = self.uid();
        self.nodes.insert(name.to_owned(), uid.clone());
        self.tell(0, Node { name: name.to_owned(), uid: uid.clone(), ..Node::default() }.into(), false);
        Owner { kind: MemberKind::Node, name: name.to_owned(), uid }
    }

    /// Whether the claim is the owner's now.
    fn claim(&mut self, owner: &Owner, address: IpAddr) -> bool {
        let name = claim_name(address);
        if let Some(claim) = self.claims.get(&name) {
            return claim.spec.as_ref().unwrap().owner == *owner;
        }
        let spec = ClaimSpec { fabric: "f".to_owned(), address, owner: owner.clone() };
        let claim =
            TunnelAddressClaim { name: name.clone(), uid: self.uid(), created: Some(1), spec: Ok(spec) };
        self.claims.insert(name, claim.clone());
        self.tell(2, Object::Claim(claim), false);
        true
    }

    fn describe(&mut self, owner: &Owner, address: IpAddr) {
        let name = owner.kind.object_name(&owner.name);
        let spec = MemberSpec {
            fabric: "f".to_owned(),
            kind: owner.kind,
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            underlay_v4: Some([192, 0, 2, owner.name.as_bytes()[1]].into()),
            underlay_v6: None,
            port: 7710,
            mac: mac_of("f", &name),
            addresses: vec![address],
            mtu: 1450,
        };
        let (uid, created) = match self.members.get(&name) {
            Some(known) => (known.uid.clone(), known.created),
            None => (self.uid(), Some(1)),
        };
        let member = TunnelNode { name: name.clone(), uid, created, lacks_claim: false, spec: Ok(spec) };
        self.members.insert(name, member.clone());
        self.tell(1, member.into(), false);
    }

    fn published(&self, owner: &Owner) -> Option<IpAddr> {
        let member = self.members.get(&owner.kind.object_name(&owner.name))?.spec.as_ref().ok()?;
        (member.owner() == *owner).then(|| member.addresses[0])
    }

    /// As `FabricWriter::remove`.
    fn remove(&mut self, it: &Remains) {
        let is_proven = match &it.why {
            Gone::Owner => self.nodes.get(&it.owner.name) != Some(&it.owner.uid),
            Gone::Claimed { address, by } => {
                let claim = self.claims.get(&claim_name(*address));
                claim.is_some_and(|claim| claim.spec.as_ref().unwrap().owner.uid == by.uid)
            }
            Gone::Unused(address) | Gone::Surplus(address) => self.published(&it.owner) != Some(*address),
            other => panic!("{other}"),
        };
        if !is_proven {
            return;
        }
        // Whoever lives loses no claim that he uses, and no TunnelNode whose address is his.
        let lives = self.nodes.get(&it.owner.name) == Some(&it.owner.uid);
        let used = self.published(&it.owner).filter(|_| lives).map(claim_name);
        let is_his = |name: &String| {
            self.claims.get(name).is_none_or(|claim| claim.spec.as_ref().unwrap().owner == it.owner)
        };
        let is_wrong = match it.kind {
            Kind::TunnelNode => used.as_ref().is_some_and(is_his),
            _ => used.as_ref() == Some(&it.name),
        };
        assert!(!is_wrong, "{it:?}");
        if it.kind == Kind::TunnelNode {
            let is_it =
                |known: &TunnelNode| known.uid == it.uid && known.spec.as_ref().unwrap().owner() == it.owner;
            if self.members.get(&it.name).is_some_and(is_it) {
                let gone = self.members.remove(&it.name).unwrap();
                self.tell(1, gone.into(), true);
            }
        } else if self.claims.get(&it.name).is_some_and(|known| known.uid == it.uid) {
            let gone = self.claims.remove(&it.name).unwrap();
            self.tell(2, Object::Claim(gone), true);
        }
    }
}

impl Agent {
    fn new(owner: Owner) -> Self {
        Self { owner, next: Next::Adopt, is_unchecked: false }
    }

    /// One request and what follows from it, as `member::claims` does.
    fn step(&mut self, server: &mut Server) {
        let owner = &self.owner;
        self.next = match self.next {
            Next::Adopt => {
                let is_own = |claim: &&TunnelAddressClaim| claim.spec.as_ref().unwrap().owner == *owner;
                match server.claims.values().find(is_own).map(|claim| claim.spec.as_ref().unwrap().address) {
                    Some(address) => {
                        self.is_unchecked = server.published(owner) != Some(address);
                        Next::Describe(address)
                    }
                    None => Next::Claim(0),
                }
            }
            Next::Claim(tries) => {
                let candidate =
                    candidates(POOL.parse().unwrap(), owner.kind, &owner.name).nth(tries % 5).unwrap();
                if server.claim(owner, candidate) {
                    Next::Describe(candidate)
                } else {
                    Next::Claim(tries + 1)
                }
            }
            Next::Describe(address) => {
                server.describe(owner, address);
                Next::Look(address)
            }
            Next::Look(address) => {
                self.is_unchecked = false;
                match (server.claim(owner, address), server.published(owner)) {
                    (false, _) => Next::Claim(0),
                    (true, Some(shown)) if shown == address => Next::Look(address),
                    (true, _) => Next::Describe(address),
                }
            }
        };
    }
}

struct Round {
    lab: Lab,
    server: Server,
    agents: Vec<Agent>,
    dice: Dice,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut server = Server::default();
        let agents = NAMES.iter().map(|name| Agent::new(server.put_node(name))).collect();
        let lab = Lab::new(&fabric("f", 1, POOL));
        Self { lab, server, agents, dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) }
    }

    fn step(&mut self) {
        let place = usize::try_from(self.dice.below(3)).unwrap();
        match self.dice.below(20) {
            0 => self.agents[place] = Agent::new(self.server.put_node(NAMES[place])),
            1 => self.agents[place] = Agent::new(self.agents[place].owner.clone()),
            2..7 => self.agents[place].step(&mut self.server),
            7..12 => self.server.hear(place, &mut self.lab.snapshot),
            12..16 => self.collect(),
            // Requests end within seconds: time passes while no agent is between two of them.
            16 if self.agents.iter().all(|agent| matches!(agent.next, Next::Look(_))) => {
                self.lab.pass(16 * MINUTE)
            }
            _ => self.lab.pass(Duration::from_secs(self.dice.below(3))),
        }
    }

    fn collect(&mut self) {
        let Lab { snapshot, reading, orphans, now, at, .. } = &mut self.lab;
        let known = Known { snapshot, reading, namespace: "own", now: *now, at: *at };
        for write in known.writes(|_, _| None, orphans, None) {
            if let Write::Remove(remains) = write {
                self.server.remove(&remains);
            }
        }
    }

    /// The addresses of the agents; none is there twice.
    fn owners(&self) -> BTreeMap<IpAddr, &str> {
        let mut owners = BTreeMap::new();
        for agent in self.agents.iter().filter(|agent| !agent.is_unchecked) {
            if let Some(address) = self.server.published(&agent.owner) {
                let other = owners.insert(address, agent.owner.name.as_str());
                assert_eq!(other, None, "{address} is of {}, too", agent.owner.name);
            }
        }
        owners
    }

    /// Everything that is under way comes to its end.
    fn settle(&mut self) {
        for _ in 0..20 {
            for agent in &mut self.agents {
                (0..12).for_each(|_| agent.step(&mut self.server));
            }
            for kind in 0..3 {
                while !self.server.news[kind].is_empty() {
                    self.server.hear(kind, &mut self.lab.snapshot);
                }
            }
            self.collect();
            self.lab.pass(4 * MINUTE);
        }
    }
}

#[test]
fn no_address_has_two_owners_and_none_is_lost_whatever_comes_in_between() {
    for seed in 1..=ROUNDS {
        let mut round = Round::new(seed);
        for _ in 0..150 {
            round.step();
            round.owners();
        }
        round.settle();
        let owners = round.owners();
        assert_eq!(owners.len(), NAMES.len(), "seed {seed}: {owners:?}");
        let claimed: Vec<IpAddr> =
            round.server.claims.values().map(|claim| claim.spec.as_ref().unwrap().address).collect();
        let held: Vec<IpAddr> = owners.into_keys().collect();
        assert_eq!(claimed, held, "seed {seed}");
        assert_eq!(round.server.members.len(), NAMES.len(), "seed {seed}");
    }
}
