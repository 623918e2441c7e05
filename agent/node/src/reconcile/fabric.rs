//! The tunnel device of this host, its peers, the filter at its port, and the proxy's place on it.
//!
//! Nothing exists until a TunnelFabric does. What is there stays while something is not known: the lists, the own address, an
//! address of the underlay. The Node is annotated only while the device carries.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use balancing_core::membership::{Member, Membership, membership};
use balancing_dataplane::proxy::Local;
use balancing_kube::member::Wish;
use balancing_tunnel::{Applied, Deletions, Mac, Pair, Plan, mac_of, plan};

use super::{LOOK, NOT_LISTED, News, Outcome, Reconciler};
use crate::{
    fabric::{Fabric, FabricError, State, Tools, to_fabric, to_member, underlay, wish},
    world::World,
};

/// So long an address of the underlay may be gone before peers are told.
const EXCHANGE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Default)]
pub(crate) struct FabricReconciler;

/// How far a look came.
enum Standing {
    /// Everything is as it should be.
    Carries(Option<Instant>),
    /// It is not, in words.
    Lacks(String),
    /// It is not, in words, and may be by itself until then.
    Waits(String, Instant),
}

impl Reconciler<World> for FabricReconciler {
    fn name(&self) -> &'static str {
        "fabric"
    }

    fn listens_to(&self) -> News {
        News::FABRIC | News::NETWORK
    }

    fn period(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn reconcile(&mut self, world: &mut World, everything: bool) -> (Outcome, News) {
        let rules = if world.fabric.rules_changed() { News::PROXY } else { News::NONE };
        let (outcome, news) = self.look(world, everything);
        (outcome, news | rules)
    }
}

impl FabricReconciler {
    fn look(&self, world: &mut World, everything: bool) -> (Outcome, News) {
        if !world.owner.is_synced() {
            return (Outcome::Asleep(NOT_LISTED), News::NONE);
        }
        if !world.owner.engine().snapshot().fabric_lacking().is_empty() {
            // Whoever has no fabric does not miss it; what an earlier agent made of one stays.
            return (Outcome::Done, News::NONE);
        }
        let before = world.fabric.addresses.clone();
        let outcome = match look(world, everything) {
            Ok(Standing::Carries(None)) => Outcome::Done,
            Ok(Standing::Carries(Some(at))) => Outcome::Again(at),
            Ok(Standing::Lacks(why)) => Outcome::Partly(why, None),
            Ok(Standing::Waits(why, until)) => Outcome::Partly(why, Some(until)),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let news = if world.fabric.addresses == before { News::NONE } else { News::PROXY };
        (outcome, news)
    }
}

fn look(world: &mut World, everything: bool) -> Result<Standing, FabricError> {
    let World { owner, fabric, .. } = world;
    let engine = owner.engine();
    let snapshot = engine.snapshot();
    let node = snapshot.node(&engine.settings().node_name);
    let annotated: Vec<IpAddr> = node.map(|node| node.proxy_ips.to_vec()).unwrap_or_default();
    let member = match membership(snapshot, engine.settings()) {
        Membership::Outside(_) => {
            fabric.wish(Wish::Outside { is_annotated: !annotated.is_empty() });
            if fabric.has_remains() {
                fabric.remove()?;
                tracing::info!("this host is in no fabric any more: its tunnel is removed");
            }
            return Ok(Standing::Carries(None));
        }
        Membership::Waiting(why) => return Ok(Standing::Lacks(why)),
        Membership::Member(member) => member,
    };
    let joined = join(fabric, &member, everything);
    // Nobody is sent to a host whose tunnel cannot be kept up.
    let (told, failed) = match joined {
        Ok(joined) => (joined, None),
        Err(error) => (Joined::lacking(String::new(), &member), Some(error)),
    };
    let Joined { standing, proven, described } = told;
    if let Some(Described { underlay, mac, mtu }) = described {
        fabric.wish(wish(&member, underlay, mac, mtu, proven, annotated));
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if let (Standing::Carries(_), Some(problem)) = (&standing, fabric.report().problem) {
        return Ok(Standing::Lacks(problem));
    }
    Ok(standing)
}

/// What peers need to know of this host.
struct Described {
    underlay: Pair,
    mac: Mac,
    mtu: u32,
}

/// How a host stands in its fabric.
struct Joined {
    standing: Standing,
    /// Its addresses that carry; `None` = not known yet.
    proven: Option<Vec<IpAddr>>,
    described: Option<Described>,
}

impl Joined {
    /// Peers go on with what they know, but nobody is sent here.
    fn lacking(why: String, member: &Member<'_>) -> Self {
        let described = member.own.map(|own| Described {
            underlay: Pair { v4: own.underlay_v4, v6: own.underlay_v6 },
            mac: Mac(own.mac),
            mtu: own.mtu,
        });
        Self { standing: Standing::Lacks(why), proven: Some(Vec::new()), described }
    }
}

/// Makes the tunnel as the member's objects say.
fn join(fabric: &mut Fabric, member: &Member<'_>, everything: bool) -> Result<Joined, FabricError> {
    let name = member.name();
    let wanted = to_fabric(&member.fabric.name, member.spec);
    fabric.watch_rules();
    let tools = fabric.tools()?;
    let mut facts = tools.netlink.facts()?;
    if member.permission.is_some() {
        // It has no pods to which it would forward.
        (facts.forwards_ipv4, facts.forwards_ipv6) = (None, None);
    }
    let chosen = underlay(member, &facts);
    if let Some(until) = waits_for_address(tools, member, chosen.as_ref().copied().unwrap_or_default()) {
        let gone = "an address of the underlay is gone that peers dial: it is waited for";
        let standing = Standing::Waits(chosen.err().unwrap_or_else(|| gone.to_owned()), until);
        return Ok(Joined { standing, proven: None, described: None });
    }
    let local = match chosen {
        Ok(local) => local,
        Err(why) => return Ok(Joined::lacking(why, member)),
    };
    let own = own(member, &name, dialled_from(local));
    let peers: Vec<_> = member.peers.iter().map(|(name, spec)| to_member(name, spec)).collect();
    let has_address = !own.addresses.is_empty();
    // Before there is an address, what depends on none is known already: whether the tunnel can be, and its MTU.
    let planned = if has_address { own.clone() } else { with_any_address(&own, &wanted) };
    let plan = match plan(&wanted, &planned, &peers, &facts) {
        Ok(plan) => plan,
        Err(conflict) => return Ok(Joined::lacking(conflict.to_string(), member)),
    };
    let mtu = plan.mtu();
    if !has_address {
        let described = Some(Described { underlay: local, mac: own.mac, mtu });
        let lacking = Joined::lacking(without_address(member, &name), member);
        return Ok(Joined { proven: None, described, ..lacking });
    }
    let applied = apply(tools, &wanted, &own, &peers, &plan, everything)?;
    if let Some(device) = applied.device {
        tools.proxy.set_local(&Local { ipv4: own.addresses.v4, ipv6: own.addresses.v6 })?;
        attach(tools, device)?;
    }
    let until = tools.shrink.until();
    let proven: Vec<IpAddr> = own.addresses.iter().filter(|address| answers(*address)).collect();
    let is_whole = applied.device.is_some() && proven.len() == own.addresses.iter().count();
    let mut problems = member.problems.clone();
    // Those of the plan are among them.
    problems.extend(applied.problems.iter().cloned());
    fabric.addresses = own.addresses.iter().collect();
    let described = Some(Described { underlay: local, mac: own.mac, mtu });
    fabric.state =
        Some(State { fabric: member.fabric.name.clone(), own, mtu, device: applied.device, peers, problems });
    let standing = match is_whole {
        true => Standing::Carries(until),
        false => Standing::Lacks("the tunnel device does not have its own address yet".to_owned()),
    };
    Ok(Joined { standing, proven: Some(proven), described })
}

/// The family by which this host dials and is dialled: there is one device with the proxy's programs on it.
fn dialled_from(local: Pair) -> Pair {
    if local.v4.is_some() { Pair { v6: None, ..local } } else { local }
}

/// Puts the proxy on the device. Without it members could reach every port of this host, so there is no device then.
fn attach(tools: &mut Tools, device: u32) -> Result<(), FabricError> {
    let Err(error) = tools.proxy.attach(device) else { return Ok(()) };
    if !tools.proxy.is_attached(device).unwrap_or(false) {
        tools.netlink.remove()?;
    }
    Err(error.into())
}

/// Until when an address is waited for that this host had: one that is exchanged is gone for a moment, and the device of its
/// family would be made anew for nothing.
fn waits_for_address(tools: &mut Tools, member: &Member<'_>, local: Pair) -> Option<Instant> {
    let is_lost = member.own.is_some_and(|known| {
        known.underlay_v4.is_some() && local.v4.is_none() || known.underlay_v6.is_some() && local.v6.is_none()
    });
    if !is_lost {
        tools.lost_since = None;
        return None;
    }
    let now = Instant::now();
    let until = *tools.lost_since.get_or_insert(now) + EXCHANGE;
    (now < until).then_some(until)
}

/// Brings the kernel in line. Whoever is new is let in before packets go there, and whoever has left is shut out after none
/// goes any more.
fn apply(
    tools: &mut Tools,
    wanted: &balancing_tunnel::Fabric,
    own: &balancing_tunnel::Member,
    peers: &[balancing_tunnel::Member],
    plan: &Plan,
    everything: bool,
) -> Result<Applied, FabricError> {
    let wished: BTreeMap<_, _> = peers.iter().map(|peer| (peer.name.clone(), peer.clone())).collect();
    let remaining = tools.admitted.keys().filter(|name| wished.contains_key(*name)).count();
    let deletions = tools.shrink.judge(tools.admitted.len(), remaining, Instant::now());
    let mut admitted = tools.admitted.clone();
    admitted.extend(wished.clone());
    // The filter is asked by a process, which is too much for each change of some pod's device.
    let must_ask = everything || !tools.is_guarded;
    tools.is_guarded = false;
    if must_ask || admitted != tools.admitted {
        tools.filter.apply(&Vec::from_iter(admitted.values().cloned()), wanted, own)?;
    }
    tools.admitted = admitted;
    let applied = tools.netlink.apply(plan, deletions)?;
    if deletions == Deletions::Allowed && tools.admitted != wished {
        tools.filter.apply(peers, wanted, own)?;
        tools.admitted = wished;
    }
    tools.is_guarded = true;
    Ok(applied)
}

/// This host as a member: what the fabric knows of it, but for the underlay, which is as it is now.
fn own(member: &Member<'_>, name: &str, underlay: Pair) -> balancing_tunnel::Member {
    let known = member.own.map(|own| to_member(name, own));
    let mac = known.as_ref().map_or_else(|| mac_of(&member.fabric.name, name), |known| known.mac);
    let addresses = known.map(|known| known.addresses).unwrap_or_default();
    balancing_tunnel::Member {
        name: name.to_owned(),
        underlay,
        port: member.spec.port,
        mac,
        addresses,
        mtu: 0,
    }
}

/// Whether the host has the address, by the means of any application.
fn answers(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The member as it may be once it has its addresses.
fn with_any_address(
    own: &balancing_tunnel::Member,
    fabric: &balancing_tunnel::Fabric,
) -> balancing_tunnel::Member {
    let addresses = fabric.pools().filter_map(|pool| pool.iter().nth(2)).collect();
    balancing_tunnel::Member { addresses, ..own.clone() }
}

/// Who makes the TunnelNode, and what is wrong with it.
fn without_address(member: &Member<'_>, name: &str) -> String {
    let broken = member.problems.iter().find(|problem| problem.contains(&format!(" {name} ")));
    match broken {
        Some(problem) => problem.clone(),
        None if member.owner.uid.is_empty() => {
            format!("it has no tunnel address: there is no TunnelNode {name}; write it into the directory")
        }
        None => format!("it has no tunnel address yet: TunnelNode {name} is still to be written"),
    }
}
