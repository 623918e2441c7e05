//! Annotations of Nodes. They stay on the Node, so there is nothing to convert, only to say.

use super::{Report, metadata::field};
use balancing_core::manifest::{raw::RawObject, read_tree};

/// The original numbered its nodes.
const NODE_ID: &str = "balancing.elf.io/nodeId";
/// Both families of the proxy address.
const PROXY: [&str; 2] = ["balancing.elf.io/nodeProxyIpv4", "balancing.elf.io/nodeProxyIpv6"];

/// Says what the annotations of a Node mean.
pub(super) fn explain(node: &RawObject, report: &mut Report<'_>) {
    let annotation = |name: &str| node.tree.get("metadata")?.get("annotations")?.get(name);
    if annotation(NODE_ID).is_some() {
        report.note(field(NODE_ID), "is not used; remove it from the Node");
    }
    if PROXY.iter().all(|name| annotation(name).is_none()) {
        return;
    }
    let problems = read_tree(node.tree.clone(), "v1", "Node").problems;
    let wrong: Vec<_> = problems.iter().filter(|problem| problem.message.contains("nodeProxyIp")).collect();
    for problem in &wrong {
        report.warn("", &problem.message);
    }
    for name in PROXY.iter().filter(|name| annotation(name).is_some()) {
        if !wrong.iter().any(|problem| problem.message.contains(*name)) {
            report.note(
                field(name),
                "keeps its meaning and counts as set by the administrator; remove it from the Node if the \
                 original's agent wrote it",
            );
        }
    }
}
