//! How this host becomes a member of a fabric and stays one: its claims, its TunnelNode, the annotations of its Node.
//!
//! Level-triggered: the data-plane thread says what it wants and what the source shows of that ([`Wish`]), this module
//! writes what differs. Nothing here looks at the kernel, and nothing is deleted: what a host leaves behind is the
//! controller's to clear.
//!
//! Creating a claim is the lock on an address ([`claims`]). An address of an earlier start is kept where its claim still is this
//! host's, by uid: neither a TunnelNode nor an annotation that was left behind is believed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use balancing_core::objects::{MemberSpec, Owner};
use ipnetwork::IpNetwork;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

mod annotations;
mod claims;
mod dispute;
mod lease;
mod requests;

use annotations::Annotations;
use claims::{Claims, Held};
use dispute::Dispute;
use requests::Requests;

pub use requests::WriteError;

/// First and longest wait after a failure; a Lease counts for longer.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// So long the source may take to show what was written before it is written again.
const SEEN: Duration = Duration::from_secs(30);

/// What the host wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing is known yet: nothing is touched.
    Unknown,
    /// It is in no fabric.
    Outside {
        /// Its Node has proxy addresses; those of ours are taken back.
        is_annotated: bool,
    },
    /// A member.
    Member(Box<MemberWish>),
}

/// A host as it wants to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberWish {
    /// The fabric's name.
    pub fabric: String,
    /// The Node or ExternalHost.
    pub owner: Owner,
    /// An address of each is needed.
    pub pools: Vec<IpNetwork>,
    /// Where peers dial it.
    pub underlay_v4: Option<Ipv4Addr>,
    /// The same.
    pub underlay_v6: Option<Ipv6Addr>,
    /// Port of the tunnel.
    pub port: u16,
    /// MAC of its device.
    pub mac: [u8; 6],
    /// MTU of its device.
    pub mtu: u32,
    /// Its TunnelNode as the source has it.
    pub seen: Option<MemberSpec>,
    /// The controller finds no claim of one of its addresses.
    pub lacks_claim: bool,
    /// The tunnel addresses that carry, once that is known; they become the Node's proxy addresses.
    pub proven: Option<Vec<IpAddr>>,
    /// Proxy addresses of the Node as the source has it.
    pub annotated: Vec<IpAddr>,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What cannot be written, and why.
    pub problem: Option<String>,
    /// Proxy addresses that an administrator has set in place of ours.
    pub overridden: Vec<String>,
}

/// Writes in the name of one host.
pub struct Membership {
    requests: Requests,
    node: Option<String>,
    claims: Claims,
    annotations: Annotations,
    /// What was written last, and when: until the source shows it.
    written: Option<(MemberSpec, Instant)>,
    dispute: Dispute,
}

/// What came of a look.
#[derive(Default)]
struct Look {
    /// When to look again.
    due: Option<Instant>,
    /// What lacks, although nothing failed.
    problem: Option<String>,
}

impl Membership {
    /// Nothing is written before [`Self::run`]. `node`: the Node object that this host is, on a node. `namespace`: where the
    /// Leases of hosts outside are.
    #[must_use]
    pub fn new(client: kube::Client, node: Option<String>, namespace: &str) -> Self {
        Self {
            requests: Requests::new(client, namespace),
            node,
            claims: Claims::default(),
            annotations: Annotations::default(),
            written: None,
            dispute: Dispute::default(),
        }
    }

    /// Does what is wished until nobody wishes any more.
    pub async fn run(mut self, mut wishes: watch::Receiver<Wish>, reports: watch::Sender<Report>) {
        let (mut retry, mut lease) = (RETRY.0, lease::Renewal::default());
        loop {
            let wish = wishes.borrow_and_update().clone();
            let now = Instant::now();
            let due = match self.make_so(&wish, &mut lease, now).await {
                Ok(look) => {
                    retry = RETRY.0;
                    self.report(&reports, look.problem);
                    look.due
                }
                Err(error) => {
                    self.report(&reports, Some(error.to_string()));
                    let due = now + retry;
                    retry = (retry * 2).min(RETRY.1);
                    Some(due)
                }
            };
            tokio::select! {
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // What failed was something else.
                    retry = RETRY.0;
                }
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            }
        }
    }

    fn report(&self, reports: &watch::Sender<Report>, problem: Option<String>) {
        let new = Report { problem, overridden: self.annotations.overridden() };
        reports.send_if_modified(|old| {
            let differs = *old != new;
            if let (true, Some(problem)) = (differs, &new.problem) {
                tracing::warn!("the fabric waits: {problem}");
            }
            *old = new;
            differs
        });
    }

    /// Writes what differs.
    async fn make_so(
        &mut self,
        wish: &Wish,
        lease: &mut lease::Renewal,
        now: Instant,
    ) -> Result<Look, WriteError> {
        match wish {
            Wish::Unknown => Ok(Look::default()),
            Wish::Outside { is_annotated } => {
                // The controller deletes the TunnelNode of whoever is outside: one that is written again is not the one that was.
                self.written = None;
                self.dispute = Dispute::default();
                if let (true, Some(node)) = (*is_annotated, &self.node) {
                    self.annotations.withdraw(&self.requests, node).await?;
                }
                Ok(Look::default())
            }
            Wish::Member(wish) => {
                let renewed = lease.renew(&self.requests, &wish.owner, now).await?;
                // First: what is wrong with claims must not keep an address that does not carry.
                if let (Some(proven), Some(node)) = (&wish.proven, &self.node) {
                    self.annotations.put(&self.requests, node, proven, &wish.annotated).await?;
                }
                let held = self.claims.hold(&self.requests, wish, now).await?;
                let written = self.describe(wish, &held, now).await?;
                let due = [Some(self.claims.due(wish, now)), renewed, written].into_iter().flatten().min();
                let problem = self.dispute.problem(&wish.name()).or_else(|| self.claims.lacking());
                Ok(Look { due, problem })
            }
        }
    }

    /// Writes the TunnelNode where the source shows another one; when to look again whether it does.
    async fn describe(
        &mut self,
        wish: &MemberWish,
        held: &Held,
        now: Instant,
    ) -> Result<Option<Instant>, WriteError> {
        let wanted = wish.spec(held);
        let not_before = self.dispute.look(&wanted, wish.seen.as_ref(), now);
        if wish.seen.as_ref() == Some(&wanted) {
            self.written = None;
            return Ok(None);
        }
        if let Some((written, at)) = &self.written
            && *written == wanted
            && now < *at + SEEN
        {
            return Ok(Some(*at + SEEN));
        }
        if now < not_before {
            return Ok(Some(not_before));
        }
        self.requests.describe(&wanted).await?;
        self.dispute.wrote(&wanted, now);
        tracing::info!(fabric = wish.fabric, addresses = ?wanted.addresses, "described as a member");
        self.written = Some((wanted, now));
        Ok(Some(now + SEEN))
    }
}

impl MemberWish {
    /// Name of its TunnelNode.
    fn name(&self) -> String {
        self.owner.kind.object_name(&self.owner.name)
    }

    fn spec(&self, held: &Held) -> MemberSpec {
        MemberSpec {
            fabric: self.fabric.clone(),
            kind: self.owner.kind,
            name: self.owner.name.clone(),
            uid: self.owner.uid.clone(),
            underlay_v4: self.underlay_v4,
            underlay_v6: self.underlay_v6,
            port: self.port,
            mac: self.mac,
            addresses: held.values().copied().collect(),
            mtu: self.mtu,
        }
    }
}

/// Addresses by pool.
type Addresses = BTreeMap<IpNetwork, IpAddr>;
