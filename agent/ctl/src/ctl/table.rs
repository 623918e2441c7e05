//! Tables for people.

use std::net::{IpAddr, SocketAddr};

use comfy_table::{ContentArrangement, Table, TableStyle};

use super::collect::{ExplainView, StatusView, VersionView};
use balancing_core::view::{BackendView, FrontendView, PluginView, PodView, PolicyView};

mod fabric;

pub(super) use fabric::{checks, fabric};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn or_dash(value: Option<&str>) -> &str {
    value.unwrap_or("-")
}

fn yes(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn list(names: &[&str]) -> String {
    let joined = names.join(",");
    if joined.is_empty() { "-".to_owned() } else { joined }
}

pub(super) fn status(view: &StatusView) -> String {
    let mut lines = vec![
        format!("Node:      {}", or_dash(view.node.as_deref())),
        format!("Role:      {}", or_dash(view.role.as_deref())),
        format!("Ready:     {}", yes(view.ready)),
    ];
    if let Some(down) = &view.agent {
        lines.push(format!("Agent:     {down}"));
    }
    if let Some(source) = &view.source {
        let synced = if source.synced { "synced" } else { "not synced" };
        lines.push(format!("Source:    {} ({synced})", source.description));
        lines.extend(source.problems.iter().map(|problem| format!("           {problem}")));
    }
    lines.extend(view.plugin.as_ref().map(plugin));
    let features =
        view.kernel.features.iter().map(|(name, on)| format!("{name}={}", if *on { "yes" } else { "no" }));
    lines.push(format!("Kernel:    {} ({})", view.kernel.release, features.collect::<Vec<_>>().join(" ")));
    lines.push(format!("Hooks:     host: {}; pods: {}", list(&view.hooks.host), view.hooks.pods));
    for (name, address) in [("HTTP:", view.http), ("Metrics:", view.metrics)] {
        lines.extend(address.map(|address| format!("{name:<10} {address}")));
    }
    let mut tables = table(&["TABLE", "USED", "CAPACITY", "DROPPED"]);
    for row in &view.tables {
        let dropped = row.dropped.map_or_else(|| "-".to_owned(), |dropped| dropped.to_string());
        tables.add_row([row.name.to_owned(), row.used.to_string(), row.capacity.to_string(), dropped]);
    }
    lines.push(String::new());
    lines.push(text(&tables));
    if view.overwritten > 0 {
        lines.push(format!(
            "{} records of connections gave way to younger ones, those of closed sockets among them.",
            view.overwritten
        ));
    }
    if view.events_lost > 0 {
        lines.push(format!("{} events were lost: listeners were too slow.", view.events_lost));
    }
    for (hook, count) in view.errors.iter().filter(|(_, count)| **count > 0) {
        lines.push(format!("{hook}: {count} errors"));
    }
    lines.extend(view.differences.iter().map(|difference| format!("Differs: {difference}")));
    lines.extend(view.problems.iter().map(|problem| format!("Problem: {problem}")));
    lines.join("\n")
}

fn plugin(plugin: &PluginView) -> String {
    let why = plugin.problem.as_ref().map(|problem| format!("; {problem}")).unwrap_or_default();
    let file = or_dash(plugin.file.as_deref());
    let state = if plugin.in_force { "in force" } else { "not in force" };
    format!("CNI:       {state} ({file}: {}){why}", plugin.chain.join(", "))
}

pub(super) fn policies(rows: &[PolicyView]) -> String {
    let mut out = table(&[
        "KIND",
        "NAME",
        "ID",
        "ACCEPTED",
        "CONFLICTED",
        "PROGRAMMED",
        "FRONTENDS",
        "BACKENDS",
        "MESSAGE",
    ]);
    for row in rows {
        out.add_row([
            row.kind.clone(),
            row.name.clone(),
            row.service_id.to_string(),
            yes(row.accepted).to_owned(),
            yes(row.conflicted).to_owned(),
            yes(row.programmed).to_owned(),
            row.frontends.len().to_string(),
            row.backends.to_string(),
            format!("{}: {}", row.reason, row.message),
        ]);
    }
    text(&out)
}

pub(super) fn frontends(rows: &[FrontendView]) -> String {
    let mut out = table(&[
        "FRONTEND",
        "PROTOCOL",
        "LAYER",
        "OWNER",
        "ID",
        "BACKENDS",
        "REDIRECTED",
        "QOS",
        "NOBACKEND",
        "SKIPPED",
    ]);
    for row in rows {
        let owner = row.owner.as_ref().map(|o| format!("{}/{}", o.kind, o.name));
        let backends: Vec<String> = row.backends.iter().take(3).map(|b| socket(b.address, b.port)).collect();
        let more = row.backends.len().saturating_sub(3);
        let rest = if more > 0 { format!(" +{more}") } else { String::new() };
        out.add_row([
            socket(row.address, row.port),
            row.protocol.clone(),
            (row.layer + 1).to_string(),
            or_dash(owner.as_deref()).to_owned(),
            row.service_id.to_string(),
            format!("{}{rest}", list(&backends.iter().map(String::as_str).collect::<Vec<_>>())),
            row.counters.redirected.to_string(),
            row.counters.qos_overflow.to_string(),
            row.counters.no_backend.to_string(),
            row.counters.skipped.to_string(),
        ]);
    }
    text(&out)
}

pub(super) fn backends(rows: &[BackendView]) -> String {
    let mut out = table(&["ID", "BACKEND", "WEIGHT", "POD", "NODE"]);
    for row in rows {
        out.add_row([
            row.id.to_string(),
            socket(row.address, row.port),
            row.weight.to_string(),
            or_dash(row.pod.as_deref()).to_owned(),
            or_dash(row.node.as_deref()).to_owned(),
        ]);
    }
    text(&out)
}

pub(super) fn pods(rows: &[PodView], all: bool) -> String {
    let why = all.then_some("STATE");
    let mut out =
        table(&["NAMESPACE", "NAME", "UID", "HOOKS", "CGROUP"].into_iter().chain(why).collect::<Vec<_>>());
    for row in rows {
        let state = || match (row.state.as_deref(), row.why.as_deref()) {
            (Some(state), Some(why)) => format!("{state}: {why}"),
            (state, _) => or_dash(state).to_owned(),
        };
        let cells = [
            or_dash(row.namespace.as_deref()).to_owned(),
            or_dash(row.name.as_deref()).to_owned(),
            row.uid.clone(),
            match row.problem {
                Some(_) => "unknown".to_owned(),
                None => list(&row.hooks.iter().map(String::as_str).collect::<Vec<_>>()),
            },
            or_dash(row.cgroup.as_deref()).to_owned(),
        ];
        out.add_row(cells.into_iter().chain(all.then(state)));
    }
    text(&out)
}

pub(super) fn explain(view: &ExplainView) -> String {
    let frontend =
        format!("{}/{}", socket(view.frontend.address, view.frontend.port), view.frontend.protocol);
    let winner = view.winner.as_ref().map(|w| format!("{}/{}", w.kind, w.name));
    let mut lines = vec![
        format!("Frontend:  {frontend}"),
        format!("Winner:    {}", or_dash(winner.as_deref())),
        format!("Decision:  {}", view.decision),
    ];
    lines.extend(view.losers.iter().map(|l| format!("Loser:     {}/{}: {}", l.kind, l.name, l.why)));
    for backend in &view.backends {
        let of = match (backend.pods.as_slice(), backend.pod.as_deref()) {
            ([], None) => String::new(),
            ([], Some(pod)) => format!(" (pod {pod})"),
            (pods, _) => {
                let node = or_dash(backend.node.as_deref());
                format!(" (proxy of node {node}, pods {})", pods.join(", "))
            }
        };
        lines.push(format!(
            "Backend:   {} weight {}{of}",
            socket(backend.address, backend.port),
            backend.weight
        ));
    }
    lines.join("\n")
}

pub(super) fn version(view: &VersionView) -> String {
    let agent = or_dash(view.agent.as_deref());
    format!("balancingctl {} (ABI {}), agent {agent}", view.version, view.abi)
}
