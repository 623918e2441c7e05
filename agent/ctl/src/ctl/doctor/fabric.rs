//! The fabric, in the agent's words. Without an agent, and where there is none, nothing is said.

use balancing_core::{
    control::{Request, socket_path},
    fabric_view::FabricView,
};

use super::{Finding, Host, Level};
use crate::socket::ask;

const MORE: &str = "`balancingctl fabric` shows the whole, `balancingctl fabric check` asks the others";

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    if host.agent.is_err() {
        return Vec::new();
    }
    match ask::<FabricView>(&socket_path(host.run_dir), &Request::Fabric) {
        Ok(view) => judge(&view),
        // An agent of before knows no fabric.
        Err(_) => Vec::new(),
    }
}

fn judge(view: &FabricView) -> Vec<Finding> {
    let message = || view.message.clone().unwrap_or_default();
    match view.state.as_str() {
        // Most hosts are in none.
        "outside" if view.message.as_ref().is_none_or(|why| why.starts_with("there is no TunnelFabric")) => {
            Vec::new()
        }
        "outside" => {
            vec![Finding::of(Level::Note, "fabric", format!("this host is in none: {}", message()), "")]
        }
        "waiting" => vec![Finding::of(Level::Problem, "fabric", message(), MORE)],
        _ => of_member(view),
    }
}

fn of_member(view: &FabricView) -> Vec<Finding> {
    let failing = view.message.iter().map(|why| Finding::of(Level::Problem, "fabric", why.clone(), MORE));
    let problems = view.problems.iter().map(|why| Finding::of(Level::Warning, "fabric", why.clone(), MORE));
    let findings: Vec<Finding> = failing.chain(problems).collect();
    if findings.is_empty() {
        let name = view.fabric.as_deref().unwrap_or_default();
        return vec![Finding::ok("fabric", format!("member of {name}, {} peers", view.peers.len()))];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(state: &str, message: Option<&str>, problems: &[&str]) -> Vec<Level> {
        let view = FabricView {
            state: state.to_owned(),
            message: message.map(str::to_owned),
            problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            ..FabricView::default()
        };
        judge(&view).into_iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn what_the_agent_says_of_the_fabric_is_found() {
        assert_eq!(levels("outside", Some("there is no TunnelFabric"), &[]), []);
        assert_eq!(levels("outside", Some("paused by spec.paused"), &[]), [Level::Note]);
        assert_eq!(levels("waiting", Some("not accepted"), &[]), [Level::Problem]);
        assert_eq!(levels("member", None, &[]), [Level::Ok]);
        assert_eq!(levels("member", Some("no address"), &["mtu"]), [Level::Problem, Level::Warning]);
    }
}
