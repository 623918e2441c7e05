//! Pods of every kind, and what the contract says of each.

use std::{os::fd::AsFd as _, path::Path};

use balancing_dataplane::{cgroup::CgroupDir, layout::Hook, links::Programs, sys};
use balancing_tests::*;
use serde_json::json;

pub(crate) const FRONTEND: &str = "10.96.0.1:80";
/// As many as there are.
pub(crate) const PODS: usize = 500;
/// The namespace that the agent's setting excludes.
pub(crate) const QUIET: &str = "quiet";
/// The namespace that the plugin's own configuration excludes.
const OWN: &str = "own";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Ordinary,
    Static,
    HostNetwork,
    Annotated,
    /// In a namespace that the agent's setting excludes.
    Excluded,
    /// In a namespace that the plugin's own configuration excludes.
    ExcludedByPlugin,
}

/// What makes a difference, or must not make one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Part of the cgroup's name; empty for guaranteed pods.
    pub(crate) qos: &'static str,
    pub(crate) driver: Driver,
    pub(crate) sort: Sort,
    /// Older than the agent.
    pub(crate) before: bool,
    pub(crate) plugin: bool,
}

pub(crate) struct Pod {
    pub(crate) kind: Kind,
    pub(crate) object: Object,
    pub(crate) cgroup: Option<Cgroup>,
    /// With a network namespace of its own, to connect from.
    pub(crate) sandbox: Option<Sandbox>,
    /// The plugin has written a record of it, which is still there.
    pub(crate) recorded: bool,
}

impl Kind {
    /// Every combination, then ordinary pods until the node is full.
    pub(crate) fn table() -> Vec<Self> {
        use Sort::*;
        let sorts = [Ordinary, Static, HostNetwork, Annotated, Excluded, ExcludedByPlugin];
        let yes_no = [true, false];
        let mut kinds = Vec::new();
        for (qos, driver) in Self::places() {
            for sort in sorts {
                for before in yes_no {
                    kinds.extend(yes_no.map(|plugin| Self { qos, driver, sort, before, plugin }));
                }
            }
        }
        let more = Self::places().cycle().zip(kinds.len()..PODS);
        kinds.extend(more.map(|((qos, driver), number)| {
            // Neither has a divisor in common with the number of places.
            let (before, plugin) = (number % 5 < 2, number % 7 < 2);
            Self { qos, driver, sort: Ordinary, before, plugin }
        }));
        kinds
    }

    pub(crate) fn places() -> impl Iterator<Item = (&'static str, Driver)> + Clone {
        let classes = ["burstable", "besteffort", ""];
        classes.into_iter().flat_map(|qos| [Driver::Cgroupfs, Driver::Systemd].map(|driver| (qos, driver)))
    }

    /// The cgroup below the root, as a kubelet names it.
    pub(crate) fn place(self, uid: &str) -> String {
        let classes: Vec<&str> = ["kubepods", self.qos].into_iter().filter(|part| !part.is_empty()).collect();
        match self.driver {
            Driver::Cgroupfs => format!("{}/pod{uid}", classes.join("/")),
            Driver::Systemd => {
                let slices =
                    (1..=classes.len()).map(|count| format!("{}.slice/", classes[..count].join("-")));
                let uid = uid.replace('-', "_");
                format!("{}{}-pod{uid}.slice", slices.collect::<String>(), classes.join("-"))
            }
        }
    }

    pub(crate) fn object(self, name: &str) -> Object {
        let pod = Object::pod(name, "client", &["10.200.0.2"]);
        match self.sort {
            Sort::Ordinary => pod,
            Sort::Static => pod.mirror(),
            Sort::HostNetwork => pod.with("/spec/hostNetwork", true),
            Sort::Annotated => pod.annotated("balancing.elf.io/redirect", "disabled"),
            Sort::Excluded => pod.with("/metadata/namespace", QUIET),
            Sort::ExcludedByPlugin => pod.with("/metadata/namespace", OWN),
        }
    }

    /// Whether it may be the one of its sort that connects: the harness puts a sandbox at one place only.
    pub(crate) fn may_connect(self) -> bool {
        (self.qos, self.driver) == ("burstable", Driver::Cgroupfs) && self.before != self.plugin
    }
}

impl Pod {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.object.namespace(), self.object.name())
    }

    /// What the contract says of it.
    pub(crate) fn state(&self) -> &'static str {
        match self.kind.sort {
            Sort::Ordinary | Sort::Static => "hooked",
            Sort::HostNetwork => "host",
            Sort::Annotated | Sort::Excluded => "leftAlone",
            // Nobody else knows that configuration.
            Sort::ExcludedByPlugin if self.recorded => "leftAlone",
            Sort::ExcludedByPlugin => "hooked",
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.cgroup.as_ref().unwrap().path()
    }
}

impl Pod {
    pub(crate) fn new(kind: Kind, number: usize) -> Self {
        let object = kind.object(&format!("p{number:03}"));
        Self { kind, object, cgroup: None, sandbox: None, recorded: false }
    }

    pub(crate) fn make_cgroup(&mut self, node: &Node) {
        self.cgroup = Some(node.cgroup().child(&self.kind.place(self.object.node_uid())));
    }

    /// What a runtime does; it calls no plugin for the host's network.
    pub(crate) fn add(&mut self, plugin: &Plugin, netns: &NetNs) {
        if !self.kind.plugin || self.kind.sort == Sort::HostNetwork {
            return;
        }
        let plugin = match self.kind.sort {
            Sort::ExcludedByPlugin => plugin.clone().with("excludeNamespaces", json!([QUIET, OWN])),
            Sort::Annotated => {
                let annotations = json!({"balancing.elf.io/redirect": "disabled"});
                let capabilities = json!({"io.kubernetes.cri.pod-annotations": annotations});
                plugin.clone().with("runtimeConfig", capabilities)
            }
            _ => plugin.clone(),
        };
        let netns = self.sandbox.as_ref().map_or(netns, |sandbox| &sandbox.netns);
        plugin.add(&self.object, &self.container(), Some(netns));
        self.recorded = true;
    }

    pub(crate) fn container(&self) -> String {
        format!("c-{}", self.object.name())
    }

    /// Its cgroup goes, as in a boot.
    pub(crate) fn lose_cgroup(&mut self) {
        self.cgroup.take().unwrap().remove();
        self.recorded = false;
    }

    /// Programs at each hook of its cgroup, in the kernel's words: `true` where they are just the one of ours.
    pub(crate) fn kernel(&self, ours: &Programs) -> Vec<bool> {
        let cgroup = CgroupDir::open(self.path()).unwrap();
        let at = |hook: Hook| sys::prog_query(cgroup.as_fd(), hook.attach_type()).unwrap().programs;
        let runs = |hook| (at(hook), ours.id(hook));
        let found = Hook::ALL.into_iter().map(runs).filter(|(found, _)| !found.is_empty());
        found.map(|(found, own)| found.iter().copied().eq(own)).collect()
    }

    /// Where a connection to the frontend ends.
    pub(crate) fn answer(&self, node: &Node) -> Option<String> {
        let sandbox = self.sandbox.as_ref()?;
        let place = Place::default().in_cgroup(&sandbox.cgroup);
        let own = self.kind.sort != Sort::HostNetwork;
        let place = place.in_netns(if own { &sandbox.netns } else { node.host() });
        Some(Client::start(&place).ask_tcp(address(FRONTEND)).unwrap_or_else(|error| error.to_string()))
    }
}
