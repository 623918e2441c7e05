//! This host's end of the fabric: the tools with which the tunnel is kept, and what is known of it.
//!
//! It belongs to the data-plane thread; [`crate::reconcile::fabric`] and [`crate::reconcile::forwards`] are its only users. The tools are
//! made when a fabric appears for the first time: a host without one pays nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use balancing_core::{
    membership::Member,
    objects::{AcceptFrom, FabricSpec, MemberSpec, UnderlayFamily},
};
use balancing_dataplane::proxy::{self, Proxy};
use balancing_kube::{
    events::fabric::{Subject, Troubles, note},
    member::{MemberWish, Report, Wish},
};
use balancing_tunnel as tunnel;
use balancing_tunnel::{Facts, Filter, Nat, Netlink, NoUnderlay, Pair, Shrink};
use tokio::sync::{Notify, watch};

pub(crate) mod admit;
pub(crate) mod check;
pub(crate) mod proof;

/// Where the kernel lists the devices of this network namespace; what is below /sys may be of another one.
const DEVICES: &str = "/proc/self/net/dev";

/// Why something of the fabric could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] tunnel::netlink::Error),
    /// The filter at the tunnel port.
    #[error(transparent)]
    Filter(#[from] tunnel::filter::Error),
    /// The proxy's programs or tables.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
}

/// What the runtime and the thread tell each other of the fabric.
pub(crate) struct Channels {
    /// What this host wants to be; whoever writes to the API server listens.
    pub wishes: watch::Sender<Wish>,
    /// What keeps it from that, for Events.
    pub troubles: watch::Sender<Troubles>,
    /// How that goes.
    pub reports: watch::Receiver<Report>,
    /// Told when links, addresses, routes or neighbours changed.
    pub news: Arc<Notify>,
}

/// What is kept of the fabric.
pub(crate) struct Fabric {
    bpffs: PathBuf,
    channels: Channels,
    tools: Option<Tools>,
    /// Proxy addresses of an administrator on other interfaces.
    pub(crate) nat: Nat,
    /// The table of those was changed by somebody since it was looked at.
    pub(crate) nat_is_due: bool,
    proof: proof::Proof,
    rules: Option<Rules>,
    /// Tunnel addresses of this host at which the proxy takes connections.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Name and uid of the fabric in which it shall be.
    pub(crate) joins: Option<(String, String)>,
    /// How the tunnel is, for views; `None` = this host is in no fabric.
    pub(crate) state: Option<State>,
}

/// Hears of changes of our rules.
struct Rules {
    /// `None` = that cannot be.
    watch: Option<tunnel::filter::Watch>,
    /// Changes that were acted upon.
    seen: u64,
}

/// The tools.
pub(crate) struct Tools {
    pub(crate) netlink: Netlink,
    pub(crate) filter: Filter,
    pub(crate) proxy: Proxy,
    pub(crate) shrink: Shrink,
    /// Members that are let in, those included that are about to go; `None` = the kernel knows.
    pub(crate) admitted: Option<BTreeMap<String, tunnel::Member>>,
    /// Since when an address of the underlay is gone that peers dial.
    pub(crate) lost_since: Option<Instant>,
    /// The filter is as it should be, as far as is known.
    pub(crate) is_guarded: bool,
    /// What the filter was made for last, and for whom.
    pub(crate) guards: Option<(tunnel::Fabric, tunnel::Member)>,
    /// Others' rules that keep packets from pods, in words; `None` = not looked at yet.
    pub(crate) obstacles: Option<Vec<String>>,
}

/// How the tunnel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) fabric: String,
    pub(crate) own: tunnel::Member,
    pub(crate) mtu: u32,
    /// Index of the device.
    pub(crate) device: Option<u32>,
    pub(crate) peers: Vec<tunnel::Member>,
    pub(crate) problems: Vec<String>,
}

impl Fabric {
    pub(crate) fn new(bpffs: &Path, channels: Channels) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            channels,
            tools: None,
            nat: Nat::new(),
            nat_is_due: false,
            proof: proof::Proof::default(),
            rules: None,
            addresses: BTreeSet::new(),
            joins: None,
            state: None,
        }
    }

    /// The tools, made when they are needed first.
    pub(crate) fn tools(&mut self) -> Result<&mut Tools, FabricError> {
        let tools = match self.tools.take() {
            Some(tools) => tools,
            None => {
                let news = Arc::clone(&self.channels.news);
                Tools {
                    netlink: Netlink::start(move || news.notify_one())?,
                    filter: Filter::new(),
                    proxy: Proxy::load(&proxy::Options::new(&self.bpffs))?,
                    shrink: Shrink::default(),
                    admitted: None,
                    lost_since: None,
                    is_guarded: false,
                    guards: None,
                    obstacles: None,
                }
            }
        };
        Ok(self.tools.insert(tools))
    }

    /// Whether the tunnel carries, as far as is known. The others are asked meanwhile, and the answers are news. `annotated`: addresses
    /// to which others are sent now.
    pub(crate) fn prove(
        &mut self,
        subject: &proof::Subject,
        peers: &[tunnel::Member],
        annotated: &[IpAddr],
    ) -> proof::Finding {
        let news = Arc::clone(&self.channels.news);
        let ask = |questions| proof::ask(questions, move || news.notify_one());
        self.proof.look(subject, peers, annotated, Instant::now(), ask)
    }

    /// Listens to changes of our rules from now on. Where that cannot be, they are noticed by the slow look.
    pub(crate) fn watch_rules(&mut self) {
        if self.rules.is_some() {
            return;
        }
        let news = Arc::clone(&self.channels.news);
        let started = tunnel::filter::Watch::start(move || news.notify_one());
        if let Err(error) = &started {
            tracing::warn!(%error, "changes of nftables are noticed late");
        }
        self.rules = Some(Rules { watch: started.ok(), seen: 0 });
    }

    /// Others' rules that keep packets from pods. There may be many rules, so they are read at the slow look only.
    pub(crate) fn obstacles(&mut self, everything: bool) -> Vec<String> {
        let Some(tools) = &mut self.tools else { return Vec::new() };
        if everything || tools.obstacles.is_none() {
            // A kernel without nftables has none of these either.
            let found = tunnel::filter::forward::drops(&devices());
            let none = |error| tracing::debug!(%error, "the rules of others cannot be read");
            tools.obstacles = Some(found.map_err(none).unwrap_or_default());
        }
        tools.obstacles.clone().unwrap_or_default()
    }

    /// Whether somebody changed our rules since the last call. They are looked at then.
    pub(crate) fn rules_changed(&mut self) -> bool {
        let Some(rules) = &mut self.rules else { return false };
        let Some(watch) = &rules.watch else { return false };
        let changes = watch.changes();
        let changed = std::mem::replace(&mut rules.seen, changes) != changes;
        if changed {
            self.nat_is_due = true;
            self.tools.iter_mut().for_each(|tools| tools.is_guarded = false);
        }
        changed
    }

    /// The tools, if they were ever needed.
    pub(crate) fn known_tools(&self) -> Option<&Tools> {
        self.tools.as_ref()
    }

    /// The same, to be used.
    pub(crate) fn known_tools_mut(&mut self) -> Option<&mut Tools> {
        self.tools.as_mut()
    }

    /// Whether something of a fabric may be on this host.
    pub(crate) fn has_remains(&self) -> bool {
        self.tools.is_some() || !devices().is_empty() || proxy::is_pinned(&self.bpffs)
    }

    /// Whether a device of ours is on this host, whoever made it.
    pub(crate) fn has_device(&self) -> bool {
        !devices().is_empty()
    }

    /// Removes device, filter and proxy.
    pub(crate) fn remove(&mut self) -> Result<(), FabricError> {
        self.tools = None;
        self.proof = proof::Proof::default();
        self.addresses.clear();
        self.state = None;
        remove_tunnel(&self.bpffs).map(drop)
    }

    /// Tells the runtime what this host wants to be.
    pub(crate) fn wish(&self, wish: Wish) {
        self.channels.wishes.send_if_modified(|old| {
            let differs = *old != wish;
            *old = wish;
            differs
        });
    }

    /// Tells what keeps this host out of the fabric that it joins, for Events; `None` = nothing.
    pub(crate) fn tell_trouble(&self, host: &str, problem: Option<&str>) {
        self.channels.troubles.send_if_modified(|troubles| {
            let before = troubles.len();
            troubles.retain(|known, _| self.joins.as_ref().is_some_and(|(name, _)| known.fabric == *name));
            let is_less = troubles.len() != before;
            let Some((name, uid)) = &self.joins else { return is_less };
            let problem = problem.map(|why| format!("{host} cannot join: {why}"));
            let subject = Subject { fabric: name.clone(), reason: "JoinFailed" };
            note(troubles, subject, uid, problem, Instant::now()) || is_less
        });
    }

    /// What cannot be written.
    pub(crate) fn report(&self) -> Report {
        self.channels.reports.borrow().clone()
    }
}

/// Our devices that there are.
fn devices() -> Vec<&'static str> {
    let list = fs::read_to_string(DEVICES).unwrap_or_default();
    let names: Vec<&str> = list.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    let ours = [tunnel::facts::DEVICE_IPV4, tunnel::facts::DEVICE_IPV6];
    ours.into_iter().filter(|device| names.contains(device)).collect()
}

/// Removes what any agent has made of a fabric on this host; whether there was anything.
pub(crate) fn remove_remains(bpffs: &Path) -> Result<bool, FabricError> {
    let removed = remove_tunnel(bpffs)?;
    Ok(Nat::new().remove()? | removed)
}

/// The device goes first: nothing may come through it once its filter or its proxy is gone. The proxy's pins go last; by them
/// another attempt sees that something is left.
fn remove_tunnel(bpffs: &Path) -> Result<bool, FabricError> {
    let mut removed = !devices().is_empty() && Netlink::start(|| {})?.remove()? > 0;
    removed |= Filter::new().remove()?.changed;
    proxy::unload(bpffs)?;
    Ok(removed)
}

/// The fabric in the tunnel's words.
pub(crate) fn to_fabric(name: &str, spec: &FabricSpec) -> tunnel::Fabric {
    tunnel::Fabric {
        name: name.to_owned(),
        vni: spec.vni,
        port: spec.port,
        ipv4_pool: spec.ipv4_pool,
        ipv6_pool: spec.ipv6_pool,
        mtu: spec.mtu,
        accept_from: match spec.accept_from {
            AcceptFrom::Members => tunnel::AcceptFrom::Members,
            AcceptFrom::Anyone => tunnel::AcceptFrom::Anyone,
        },
    }
}

/// A member in the tunnel's words.
pub(crate) fn to_member(name: &str, spec: &MemberSpec) -> tunnel::Member {
    tunnel::Member {
        name: name.to_owned(),
        underlay: Pair { v4: spec.underlay_v4, v6: spec.underlay_v6 },
        port: spec.port,
        mac: tunnel::Mac(spec.mac),
        addresses: spec.addresses.iter().copied().collect(),
        mtu: spec.mtu,
    }
}

/// Which of this host's addresses peers dial. A host outside is held to what its permission names.
pub(crate) fn underlay(member: &Member<'_>, facts: &Facts) -> Result<Pair, String> {
    let wish = &member.spec.underlay;
    let cidrs = match member.permission {
        Some(permission) => permission.underlay_cidrs.clone(),
        None => wish.cidrs.clone(),
    };
    let wish = tunnel::Underlay {
        cidrs,
        interfaces: if member.permission.is_some() { Vec::new() } else { wish.interfaces.clone() },
        family: match wish.family {
            UnderlayFamily::Auto => tunnel::Family::Auto,
            UnderlayFamily::Ipv4 => tunnel::Family::Ipv4,
            UnderlayFamily::Ipv6 => tunnel::Family::Ipv6,
        },
    };
    tunnel::choose(&wish, &member.node_ips, facts).map_err(|error| match (&error, member.permission) {
        (NoUnderlay::Unmet { family, wish, have }, Some(_)) => format!(
            "no {family}address of this host is in spec.underlayCIDRs ({wish}) of ExternalHost {}; it has {have}: correct \
             underlayCIDRs, or give the host such an address",
            member.owner.name
        ),
        _ => error.to_string(),
    })
}

/// What this host wants to be.
pub(crate) fn wish(
    member: &Member<'_>,
    underlay: Pair,
    mac: tunnel::Mac,
    mtu: u32,
    proven: Option<Vec<IpAddr>>,
    annotated: Vec<IpAddr>,
) -> Wish {
    Wish::Member(Box::new(MemberWish {
        fabric: member.fabric.name.clone(),
        owner: member.owner.clone(),
        pools: member.spec.pools().collect(),
        underlay_v4: underlay.v4,
        underlay_v6: underlay.v6,
        port: member.spec.port,
        mac: mac.0,
        mtu,
        seen: member.own.cloned(),
        lacks_claim: member.lacks_claim,
        proven,
        annotated,
    }))
}
