//! Tables of the fabric.

use std::fmt::Display;

use balancing_core::fabric_view::{CheckView, FabricView};

use super::{or_dash, table, text};

/// Members that are listed; the others are counted. JSON has all.
const PEERS: usize = 50;

pub(in crate::ctl) fn fabric(view: &FabricView) -> String {
    let mut lines = vec![format!("State:       {}", view.state)];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<12} {value}"));
    if let Some(message) = &view.message {
        line("Message:", message.clone());
    }
    if view.member.is_none() {
        return lines.join("\n");
    }
    line("Fabric:", or_dash(view.fabric.as_deref()).to_owned());
    line("Member:", or_dash(view.member.as_deref()).to_owned());
    let (vni, port, mtu) = (number(view.vni), number(view.port), number(view.mtu));
    line("Device:", format!("{} (VNI {vni}, port {port}, MTU {mtu})", or_dash(view.device.as_deref())));
    line("Underlay:", list(&view.underlay));
    line("Addresses:", list(&view.addresses));
    if !view.overridden.is_empty() {
        line("Overridden:", format!("{} (set by an administrator)", view.overridden.join(", ")));
    }
    if let Some((used, capacity)) = view.connections {
        line("Connections:", format!("{used} of {capacity}"));
    }
    let dropped: Vec<_> = view
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    line("Drops:", if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") });
    lines.extend(view.problems.iter().map(|problem| format!("Problem:     {problem}")));
    lines.push(String::new());
    lines.push(peers(view));
    if !view.forwards.is_empty() {
        lines.push(String::new());
        lines.push(forwards(view));
    }
    lines.join("\n")
}

fn peers(view: &FabricView) -> String {
    let mut rows = table(&["PEER", "UNDERLAY", "ADDRESSES", "MTU"]);
    for peer in view.peers.iter().take(PEERS) {
        rows.add_row([peer.name.clone(), list(&peer.underlay), list(&peer.addresses), peer.mtu.to_string()]);
    }
    let more = view.peers.len().saturating_sub(PEERS);
    let rows = text(&rows);
    if more == 0 { rows } else { format!("{rows}\nand {more} more") }
}

fn forwards(view: &FabricView) -> String {
    let mut rows = table(&["PORT", "POLICY", "PODS"]);
    for forward in &view.forwards {
        rows.add_row([
            format!("{}/{}", forward.port, forward.protocol),
            format!("{} {}", forward.owner.kind, forward.owner.name),
            list(&forward.pods),
        ]);
    }
    text(&rows)
}

pub(in crate::ctl) fn checks(views: &[CheckView]) -> String {
    if views.is_empty() {
        return "There is no other member.".to_owned();
    }
    let mut rows = table(&["PEER", "ADDRESS", "REACHABLE", "ROUND TRIP", "MTU", "PROBLEM"]);
    for view in views {
        let time = view.round_trip.map(|micros| format!("{}.{:03} ms", micros / 1000, micros % 1000));
        rows.add_row([
            view.peer.clone(),
            view.address.to_string(),
            if view.reachable { "yes" } else { "no" }.to_owned(),
            or_dash(time.as_deref()).to_owned(),
            number(view.mtu),
            or_dash(view.problem.as_deref()).to_owned(),
        ]);
    }
    text(&rows)
}

fn number<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn list<T: Display>(values: &[T]) -> String {
    let joined = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if joined.is_empty() { "-".to_owned() } else { joined }
}
