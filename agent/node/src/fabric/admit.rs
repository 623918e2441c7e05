//! Who is let in: the filter and the kernel's entries in the order that keeps strangers out.
//!
//! Whoever is new is let in before packets go there, and whoever has left is shut out after none goes any more. A list that lost many
//! at once is held, also by an agent that has just started: it asks the kernel whom the one before it let in.

use std::{collections::BTreeMap, time::Instant};

use balancing_tunnel::{Applied, Deletions, Fabric, Facts, Member, Plan, diff, kept};

use super::{FabricError, Tools};

type Members = BTreeMap<String, Member>;

/// Puts the proxy on the device. Without it members could reach every port of this host, so there is no device then.
pub(crate) fn attach(tools: &mut Tools, device: u32) -> Result<(), FabricError> {
    let Err(error) = tools.proxy.attach(device) else { return Ok(()) };
    if !tools.proxy.is_attached(device).unwrap_or(false) {
        tools.netlink.remove()?;
    }
    Err(error.into())
}

/// Brings the kernel in line with a plan that was made of what was there before. The proxy is on a device before anything can come through it.
pub(crate) fn apply(
    tools: &mut Tools,
    fabric: &Fabric,
    own: &Member,
    peers: &[Member],
    (plan, before): (&Plan, &Facts),
    everything: bool,
) -> Result<Applied, FabricError> {
    let (known, wished) = (admitted(tools, fabric, peers)?, by_name(peers));
    let deletions = judge(tools, &known, &wished);
    let mut admitted = known.clone();
    admitted.extend(wished.clone());
    // The filter is asked by a process, which is too much for each change of some pod's device.
    let must_ask = everything || !tools.is_guarded || !is_of(tools, fabric, own);
    tools.is_guarded = false;
    let must_filter = must_ask || admitted != known;
    if must_filter {
        let filtered = tools.filter.apply(&Vec::from_iter(admitted.values().cloned()), fabric, own);
        if let (Err(_), Deletions::Allowed) = (&filtered, deletions) {
            // The filter may fail for long. Whoever has left gets no packets at least.
            reduce(tools, fabric, peers)?;
        }
        filtered?;
    }
    // Somebody may have removed the device while the filter was asked.
    let is_shaped = !must_filter && diff::is_shaped(&plan.devices, &before.links);
    let applied = make(tools, plan, deletions, is_shaped);
    // Also where the device cannot be made as it should be.
    if deletions == Deletions::Allowed && admitted != wished {
        tools.filter.apply(peers, fabric, own)?;
        admitted = wished;
    }
    let applied = applied?;
    tools.admitted = Some(admitted);
    tools.is_guarded = true;
    tools.guards = Some((fabric.clone(), own.clone()));
    Ok(applied)
}

/// Makes devices and entries, and puts the proxy on what is down before it is set up.
fn make(
    tools: &mut Tools,
    plan: &Plan,
    deletions: Deletions,
    is_shaped: bool,
) -> Result<Applied, FabricError> {
    if !is_shaped {
        for device in tools.netlink.shape(plan, deletions)? {
            attach(tools, device)?;
        }
    }
    Ok(tools.netlink.apply(plan, deletions)?)
}

/// Shuts out who is no peer any more, where the tunnel cannot be made as it should be. Nobody is let in, nothing is made.
pub(crate) fn shut_out(
    tools: &mut Tools,
    fabric: &Fabric,
    own: &Member,
    peers: &[Member],
    everything: bool,
) -> Result<(), FabricError> {
    let (known, wished) = (admitted(tools, fabric, peers)?, by_name(peers));
    let deletions = judge(tools, &known, &wished);
    let stay: Members = match deletions {
        Deletions::Allowed => wished.into_iter().filter(|(name, _)| known.contains_key(name)).collect(),
        Deletions::Held => known.clone(),
    };
    if !everything && tools.is_guarded && is_of(tools, fabric, own) && stay == known {
        tools.admitted = Some(known);
        return Ok(());
    }
    tools.is_guarded = false;
    let members: Vec<_> = stay.values().cloned().collect();
    let kept = tools.netlink.kept()?;
    if deletions == Deletions::Allowed {
        reduce(tools, fabric, &members)?;
    }
    // Without a device there is nothing to guard, and nothing is made.
    if !kept.is_empty() {
        tools.filter.apply(&members, fabric, own)?;
    }
    tools.admitted = Some(stay);
    tools.is_guarded = true;
    tools.guards = Some((fabric.clone(), own.clone()));
    Ok(())
}

/// Takes from the kernel's entries whoever is not one of these.
fn reduce(tools: &mut Tools, fabric: &Fabric, members: &[Member]) -> Result<(), FabricError> {
    let removals = kept::reductions(&tools.netlink.kept()?, fabric, members);
    let reduced = tools.netlink.reduce(removals)?;
    reduced.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    Ok(())
}

/// Whether the filter was made for the fabric and this host as they are now: who may send is a setting of the fabric.
fn is_of(tools: &Tools, fabric: &Fabric, own: &Member) -> bool {
    tools.guards.as_ref().is_some_and(|(of, host)| (of, host) == (fabric, own))
}

/// Who is let in now. Left to the caller to put back: what fails in between is read from the kernel again.
fn admitted(tools: &mut Tools, fabric: &Fabric, peers: &[Member]) -> Result<Members, FabricError> {
    let Some(known) = tools.admitted.take() else {
        return Ok(kept::members(&tools.netlink.kept()?, fabric, peers));
    };
    // The kernel told no name of those that are held. Once they are back they have one.
    let names: BTreeMap<_, _> = peers.iter().map(|peer| (peer.mac, &peer.name)).collect();
    let named = |(name, member): (String, Member)| {
        (names.get(&member.mac).map_or(name, |name| (*name).clone()), member)
    };
    Ok(known.into_iter().map(named).collect())
}

fn by_name(peers: &[Member]) -> Members {
    peers.iter().map(|peer| (peer.name.clone(), peer.clone())).collect()
}

fn judge(tools: &mut Tools, known: &Members, wished: &Members) -> Deletions {
    let remaining = known.keys().filter(|name| wished.contains_key(*name)).count();
    tools.shrink.judge(known.len(), remaining, Instant::now())
}
