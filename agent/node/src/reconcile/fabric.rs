//! The tunnel device of this host, its peers, the filter at its port, and the proxy's place on it.
//!
//! Nothing exists until a TunnelFabric does. What is there stays while something is not known: the lists, the own address, an
//! address of the underlay. The Node is annotated only while the device carries.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use balancing_core::membership::{Member, Membership, membership};
use balancing_dataplane::proxy::Local;
use balancing_kube::member::Wish;
use balancing_tunnel::{AcceptFrom, Facts, Mac, Pair, Plan, plan};

use super::{LOOK, NOT_LISTED, News, Outcome, Reconciler};
use crate::{
    fabric::{Fabric, FabricError, State, Tools, admit, proof, to_fabric, to_member, underlay, wish},
    world::World,
};

/// So long an address of the underlay may be gone before peers are told.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Between two looks at least: a thousand members that come at once are a few looks, the first of them at once.
const PAUSE: Duration = Duration::from_millis(200);

/// And at least so many times as long as the last look took, so that members that change all the time cost a part of a core
/// that does not grow with their number.
const REST: u32 = 12;

/// But not longer: then a peer that has moved is followed late.
const LONGEST: Duration = Duration::from_secs(2);

/// Longest time between two looks that fail, whatever happens: what a look undoes again, as a device that no proxy can be put on,
/// is an event itself.
const FAILING: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Default)]
pub(crate) struct FabricReconciler {
    /// When it looked last, and what it found.
    last: Option<(Instant, Outcome)>,
    /// How long that took.
    took: Duration,
    /// Looks that have failed, one after the other.
    failures: u32,
    /// Somebody has changed rules of the filter since.
    rules_changed: bool,
}

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
        self.rules_changed |= rules == News::PROXY;
        if let Some(outcome) = self.postponed(everything) {
            return (outcome, rules);
        }
        self.rules_changed = false;
        let begun = Instant::now();
        let (outcome, news) = self.look(world, everything);
        self.failures =
            if matches!(outcome, Outcome::Failed(_)) { self.failures.saturating_add(1) } else { 0 };
        self.took = begun.elapsed();
        self.last = Some((Instant::now(), outcome.clone()));
        (outcome, news | rules)
    }
}

impl FabricReconciler {
    /// What it found last, to be looked at again soon, when that was only just now.
    fn postponed(&self, everything: bool) -> Option<Outcome> {
        let (at, outcome) = self.last.as_ref()?;
        let next = *at + self.pause();
        let soon = |until: Option<Instant>| until.map_or(next, |until| until.min(next));
        if everything || Instant::now() >= next {
            return None;
        }
        match outcome {
            Outcome::Done => Some(Outcome::Again(next)),
            Outcome::Again(until) => Some(Outcome::Again(soon(Some(*until)))),
            Outcome::Partly(why, until) => Some(Outcome::Partly(why.clone(), Some(soon(*until)))),
            Outcome::Failed(why) => Some(Outcome::Failed(why.clone())),
            // What waits for the news is done now.
            Outcome::Asleep(_) | Outcome::AsleepUntil(..) => None,
        }
    }

    /// Between the last look and the next. Something in between may have made one fail, so that the second comes at once.
    fn pause(&self) -> Duration {
        match self.failures {
            // Strangers may be let in meanwhile. Our own changes are told, too: members that come and go all the time must not
            // cost a core.
            0 if self.rules_changed => (self.took * 3).clamp(PAUSE, LONGEST),
            0 => (self.took * REST).clamp(PAUSE, LONGEST),
            1 => Duration::ZERO,
            more => (PAUSE * 2_u32.saturating_pow(more - 1)).min(FAILING),
        }
    }

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
        let problem = match &outcome {
            Outcome::Partly(why, _) | Outcome::Failed(why) => Some(why.as_str()),
            _ => None,
        };
        world.fabric.tell_trouble(&world.owner.engine().settings().node_name, problem);
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
            fabric.joins = None;
            fabric.wish(Wish::Outside { is_annotated: !annotated.is_empty() });
            if fabric.has_remains() {
                fabric.remove()?;
                tracing::info!("this host is in no fabric any more: its tunnel is removed");
            }
            return Ok(Standing::Carries(None));
        }
        Membership::Waiting(why) => {
            // Nobody is sent to a host that has no device and makes none.
            if !fabric.has_device() {
                fabric.wish(Wish::Outside { is_annotated: !annotated.is_empty() });
            }
            return Ok(Standing::Lacks(why));
        }
        Membership::Member(member) => member,
    };
    fabric.joins = Some((member.fabric.name.clone(), member.fabric.uid.clone()));
    let joined = join(fabric, &member, &annotated, everything);
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
            underlay: known_underlay(member),
            mac: Mac(member.mac),
            mtu: own.mtu,
        });
        Self { standing: Standing::Lacks(why), proven: Some(Vec::new()), described }
    }

    /// The same, to be looked at again at that time.
    fn until(mut self, again: Option<Instant>) -> Self {
        self.standing = match (self.standing, again) {
            (Standing::Lacks(why), Some(at)) => Standing::Waits(why, at),
            (Standing::Waits(why, until), Some(at)) => Standing::Waits(why, until.min(at)),
            (standing, _) => standing,
        };
        self
    }
}

/// Makes the tunnel as the member's objects say.
fn join(
    fabric: &mut Fabric,
    member: &Member<'_>,
    annotated: &[IpAddr],
    everything: bool,
) -> Result<Joined, FabricError> {
    let wanted = to_fabric(&member.fabric.name, member.spec);
    if wanted.accept_from == AcceptFrom::Members {
        fabric.watch_rules();
    }
    // What keeps the agent from writing its TunnelNode says more than that there is none.
    let reported = fabric.report().problem;
    let tools = fabric.tools()?;
    let mut facts = tools.netlink.facts()?;
    if member.permission.is_some() {
        // It has no pods to which it would forward.
        (facts.forwards_ipv4, facts.forwards_ipv6) = (None, None);
    }
    let peers: Vec<_> = member.peers.iter().map(|(name, spec)| to_member(name, spec)).collect();
    let chosen = underlay(member, &facts);
    let local = chosen.as_ref().copied().unwrap_or_else(|_| known_underlay(member));
    let own = own(member, &member.name(), local);
    let plan = match decide(tools, member, reported, chosen, (&wanted, &own, &peers), &facts) {
        Ok(plan) => plan,
        Err(lacking) => {
            // Whoever lost its permission is shut out also where no tunnel can be made.
            admit::shut_out(tools, &wanted, &own, &peers, everything)?;
            return Ok(lacking.until(tools.shrink.until()));
        }
    };
    let applied = admit::apply(tools, &wanted, &own, &peers, (&plan, &facts), everything)?;
    tools.proxy.set_local(&Local { ipv4: own.addresses.v4, ipv6: own.addresses.v6 })?;
    applied.devices.iter().try_for_each(|device| admit::attach(tools, *device))?;
    let until = tools.shrink.until();
    let mtu = plan.mtu();
    let described = Some(Described { underlay: local, mac: own.mac, mtu });
    let missing = missing(tools, &own, applied.device, facts)?;
    let subject = applied.device.filter(|_| missing.is_none()).map(|device| proof::Subject {
        device,
        mtu,
        underlay: own.underlay,
        addresses: own.addresses,
    });
    let finding = subject.map(|subject| fabric.prove(&subject, &peers, annotated)).unwrap_or_default();
    let mut problems = member.problems.clone();
    problems.extend(false_underlay(member, local));
    // Those of the plan are among them.
    problems.extend(applied.problems);
    problems.extend(finding.problems);
    if member.permission.is_none() {
        problems.extend(fabric.obstacles(everything));
    }
    fabric.addresses = own.addresses.iter().collect();
    fabric.state =
        Some(State { fabric: member.fabric.name.clone(), own, mtu, device: applied.device, peers, problems });
    let again = until.into_iter().chain(finding.again).min();
    let joined = match missing.or(finding.fault) {
        None => Joined { standing: Standing::Carries(again), proven: finding.proven, described },
        Some(why) => Joined { standing: Standing::Lacks(why), proven: Some(Vec::new()), described },
    };
    Ok(joined.until(again))
}

/// The plan, or why there is none.
fn decide(
    tools: &mut Tools,
    member: &Member<'_>,
    reported: Option<String>,
    chosen: Result<Pair, String>,
    (fabric, own, peers): (&balancing_tunnel::Fabric, &balancing_tunnel::Member, &[balancing_tunnel::Member]),
    facts: &Facts,
) -> Result<Plan, Joined> {
    if let Some(until) = waits_for_address(tools, member, chosen.as_ref().copied().unwrap_or_default()) {
        let gone = "an address of the underlay is gone that peers dial: it is waited for";
        let standing = Standing::Waits(chosen.err().unwrap_or_else(|| gone.to_owned()), until);
        return Err(Joined { standing, proven: None, described: None });
    }
    let local = chosen.map_err(|why| Joined::lacking(why, member))?;
    let has_address = !own.addresses.is_empty();
    // Before there is an address, what depends on none is known already: whether the tunnel can be, and its MTU.
    let planned = if has_address { own.clone() } else { with_any_address(own, fabric) };
    let plan = plan(fabric, &planned, peers, facts)
        .map_err(|conflict| Joined::lacking(conflict.to_string(), member))?;
    if !has_address {
        let described = Some(Described { underlay: local, mac: own.mac, mtu: plan.mtu() });
        let lacking = Joined::lacking(reported.unwrap_or_else(|| without_address(member, &own.name)), member);
        return Err(Joined { proven: None, described, ..lacking });
    }
    Ok(plan)
}

/// What the device lacks in the kernel's list, in words. One that is up has the port: it cannot be set up without.
fn missing(
    tools: &Tools,
    own: &balancing_tunnel::Member,
    device: Option<u32>,
    before: Facts,
) -> Result<Option<String>, FabricError> {
    let Some(device) = device else { return Ok(Some("there is no tunnel device yet".to_owned())) };
    let lacks = |facts: &Facts| {
        let link = facts.link(device).filter(|link| link.is_ours() && link.up);
        let has = |ip: IpAddr| {
            facts.addresses.iter().any(|has| (has.link, has.ip, has.lasting) == (device, ip, true))
        };
        match link.and_then(|link| link.vxlan.as_ref()) {
            None => Some("the tunnel device is not up yet".to_owned()),
            Some(vxlan) if vxlan.port != own.port => {
                Some("the tunnel device has another port yet".to_owned())
            }
            Some(_) => {
                let address = own.addresses.iter().find(|address| !has(*address))?;
                Some(format!("the tunnel device does not have its own address {address} yet"))
            }
        }
    };
    // What was made just now is not in a list from before.
    if lacks(&before).is_none() { Ok(None) } else { Ok(lacks(&tools.netlink.facts()?)) }
}

/// Which addresses peers were told to dial.
fn known_underlay(member: &Member<'_>) -> Pair {
    member.own.map(|own| Pair { v4: own.underlay_v4, v6: own.underlay_v6 }).unwrap_or_default()
}

/// A TunnelNode of a file that names another address than peers could dial, in words. Agents write theirs anew.
fn false_underlay(member: &Member<'_>, local: Pair) -> Option<String> {
    let told = known_underlay(member);
    let is_false = |told: Option<IpAddr>, has: Option<IpAddr>| told.is_some() && told != has;
    let differs = is_false(told.v4.map(IpAddr::V4), local.v4.map(IpAddr::V4))
        || is_false(told.v6.map(IpAddr::V6), local.v6.map(IpAddr::V6));
    let list = |pair: Pair| pair.iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" and ");
    (member.is_by_hand && differs).then(|| {
        format!(
            "TunnelNode {} has spec.underlay {}, and this host is at {}: peers dial an address that is not its own; correct the file",
            member.name(),
            list(told),
            list(local)
        )
    })
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

/// This host as a member: what the fabric knows of it, but for the underlay, which is as it is now.
fn own(member: &Member<'_>, name: &str, underlay: Pair) -> balancing_tunnel::Member {
    let addresses = member.own.map(|own| to_member(name, own).addresses).unwrap_or_default();
    balancing_tunnel::Member {
        name: name.to_owned(),
        underlay,
        port: member.spec.port,
        mac: Mac(member.mac),
        addresses,
        mtu: 0,
    }
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
        None if member.is_by_hand => {
            format!("it has no tunnel address: there is no TunnelNode {name}; write it into the directory")
        }
        None => format!("it has no tunnel address yet: TunnelNode {name} is still to be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_takes_long_or_fails_becomes_rare_whatever_wakes_it() {
        let mut reconciler = FabricReconciler::default();
        let pauses: Vec<_> = (0..9)
            .map(|failures| {
                reconciler.failures = failures;
                reconciler.pause().as_millis()
            })
            .collect();
        assert_eq!(pauses, [200, 0, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        reconciler.failures = 0;
        for (took, pause) in [(5, 200), (20, 240), (100, 1200), (5000, 2000)] {
            reconciler.took = Duration::from_millis(took);
            assert_eq!(reconciler.pause().as_millis(), pause);
        }
        reconciler.rules_changed = true;
        reconciler.took = Duration::from_millis(300);
        assert_eq!(reconciler.pause().as_millis(), 900, "a filter that was flushed is looked at soon");
        (reconciler.rules_changed, reconciler.took) = (false, Duration::ZERO);
        (reconciler.failures, reconciler.last) =
            (9, Some((Instant::now(), Outcome::Failed("why".to_owned()))));
        assert!(matches!(reconciler.postponed(false), Some(Outcome::Failed(_))));
        assert!(reconciler.postponed(true).is_none(), "the slow look is not put off");
    }
}
