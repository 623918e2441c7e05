//! What the thread answers: commands over the socket, scrapes over HTTP. It looks and changes nothing but the switch of events.

use std::collections::BTreeMap;

use balancing_cni_install::keeper::Standing;
use balancing_dataplane::layout::Hook;

use super::Inside;
use crate::{
    control::Pending,
    metrics::{PluginSample, PolicySample, ReconcileSample, Sample, SourceSample, TableSample, Traffic},
    probe,
    reconcile::State,
};
use balancing_core::{
    control::Request,
    explain::Lack,
    health::PolicyHealth,
    kinds,
    objects::{Pod, PolicyRef},
    resolve::Role,
    source::SourceStatus,
    view::{self, AgentView, PluginView, PodName, SourceView, reason_of},
};

/// Why a pod of a directory cannot be hooked.
const NO_UID: &str = "it has no metadata.uid, by which its cgroup would be found";

impl Inside {
    /// Answers a request; whoever asked may be gone by now.
    pub(super) fn answer(&mut self, pending: Pending, status: &SourceStatus) {
        let told = match pending {
            Pending::Ask { request, answer } => answer.send(self.view_of(&request, status)).is_ok(),
            // A sample takes time that nobody has for one that is gone.
            Pending::Sample(answer) => {
                !answer.is_closed() && answer.send(Box::new(self.sample(status))).is_ok()
            }
            Pending::Events { on, done } => {
                // Names first: the first event is to have them.
                self.names.listen(on);
                self.names.tell(&self.world);
                done.send(self.world.owner.set_events(on)).is_ok()
            }
        };
        if !told {
            tracing::debug!("the asker is gone");
        }
    }

    fn view_of(
        &self,
        request: &Request,
        status: &SourceStatus,
    ) -> Result<serde_json::Value, serde_json::Error> {
        let engine = self.world.owner.engine();
        match request {
            Request::Agent => serde_json::to_value(self.view(status)),
            Request::Policies => serde_json::to_value(self.world.owner.policy_views()),
            Request::Origins => {
                let origins: Vec<_> = engine
                    .entries()
                    .flat_map(|(_, entry)| view::origins(&entry).collect::<Vec<_>>())
                    .collect();
                serde_json::to_value(origins)
            }
            Request::Pods => {
                let pods = engine.snapshot().pods_on(&self.world.node).map(|pod| self.pod_name(pod));
                serde_json::to_value(pods.collect::<Vec<_>>())
            }
            Request::Explain { frontend, pod } => {
                let pod = pod.as_ref().map(Request::pod_ref);
                let mut told = self.world.owner.explain(Request::explain_key(frontend), pod.as_ref());
                let client = pod.as_ref().and_then(|pod| engine.snapshot().pod(pod));
                if let Some(lack) = client.and_then(|client| self.lack_of(client)) {
                    told.lacks_hooks(&lack);
                } else if pod.is_none() && !self.world.attacher.is_host_hooked() {
                    told.lacks_hooks(&Lack::Host);
                }
                serde_json::to_value(told)
            }
            Request::Fabric => serde_json::to_value(self.fabric_view()),
            // The runtime asks the network.
            Request::FabricCheck { .. } => Ok(serde_json::Value::Null),
            // What it asks for is no answer, but what follows one.
            Request::Monitor(_) => Ok(serde_json::Value::Null),
        }
    }

    /// What a client pod lacks of hooks, in the kernel's words.
    fn lack_of(&self, client: &Pod) -> Option<Lack> {
        let attacher = &self.world.attacher;
        if self.world.role == Role::Node && client.uid.is_empty() {
            return Some(Lack::All(NO_UID.to_owned()));
        }
        let (state, why) = attacher.state_of(&client.uid)?;
        let why = why.unwrap_or_else(|| "somebody has just taken them away".to_owned());
        let hooks = if state == view::POD_OF_HOST {
            let hooked = attacher.is_host_hooked();
            return (!hooked).then(|| Lack::All("processes of the host are not hooked".to_owned()));
        } else {
            attacher.hooks_of(&client.uid).unwrap_or(0)
        };
        match hooks {
            0 => Some(Lack::All(why)),
            count if count < Hook::ALL.len() => Some(Lack::Some { count, why }),
            _ => None,
        }
    }

    fn pod_name(&self, pod: &Pod) -> PodName {
        let attacher = &self.world.attacher;
        let nobody =
            || if pod.uid.is_empty() { ("leftAlone", Some(NO_UID.to_owned())) } else { Default::default() };
        let (state, why) = attacher.state_of(&pod.uid).unwrap_or_else(nobody);
        PodName {
            // Another object may speak for the pod whose UID this one claims.
            uid: attacher.node_uid_of(&pod.uid).unwrap_or(&pod.uid).to_owned(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            cgroup: attacher.cgroup_of(&pod.uid).map(|path| path.display().to_string()),
            state: state.to_owned(),
            why,
        }
    }

    fn view(&self, status: &SourceStatus) -> AgentView {
        // What the tables lack is told frontend by frontend, what links lack by the attacher.
        let lists_fabric = self.world.owner.is_synced();
        let is_told = |state: &&State| {
            state.is_failing && state.name != "tables" || lists_fabric && state.name == "fabric"
        };
        let failing = self.scheduler.states().filter(is_told);
        let lacking = self.world.owner.lacking().iter().map(|kind| kinds::describe(*kind));
        let lacks = self.plugin.as_ref().and_then(probe::plugin_lacks);
        let mut problems: Vec<String> =
            lacking.chain(failing.filter_map(|state| state.problem.clone())).collect();
        problems.extend(self.world.owner.problems());
        problems.extend(self.world.attacher.problems());
        let blind = self.world.attacher.blindness();
        problems.extend(blind.map(|why| format!("new pods are hooked up to 30 s late: {why}")));
        AgentView {
            node: self.world.node.clone(),
            role: match self.world.role {
                Role::Node => "node",
                Role::External => "external",
                Role::Cluster => "cluster",
            }
            .to_owned(),
            // As `/readyz` says.
            ready: self.report.borrow().is_ready() && lacks.is_none(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SourceView { last_contact: self.counters.last_contact(), ..SourceView::from(status) },
            problems,
            http: self.addresses.http,
            metrics: self.addresses.metrics,
            dropped: told(self.world.owner.tables().usage())
                .into_iter()
                .filter_map(|usage| Some((usage.name.to_owned(), usage.dropped?)))
                .collect(),
            plugin: self.plugin.as_ref().map(|plugin| plugin_view(&plugin.borrow())),
        }
    }

    fn sample(&mut self, status: &SourceStatus) -> Sample {
        let has_plugin = self.plugin.as_ref().is_none_or(|plugin| probe::plugin_lacks(plugin).is_none());
        let ready = self.report.borrow().is_ready() && has_plugin;
        Sample {
            abi: self.abi,
            ready,
            source: SourceSample {
                synced: status.synced,
                problems: status.problems.len(),
                last_change: self.last_change,
                state_confirmed: status.stored.map(|stored| stored.confirmed),
                state_in_force: status.stored.is_some_and(|stored| stored.in_force),
                objects: self.world.owner.engine().snapshot().counts(),
                watches: self.counters.watches(),
            },
            policies: self.policy_sample(),
            tables: self.table_sample(),
            reconcile: ReconcileSample {
                rounds: self.rounds.clone(),
                states: self.scheduler.states().cloned().collect(),
            },
            links: self.world.attacher.sample(),
            fabric: self.fabric_sample(),
            plugin: PluginSample::of(self.plugin.as_ref().map(|plugin| plugin.borrow()).as_deref()),
        }
    }

    fn policy_sample(&mut self) -> PolicySample {
        let totals = self.world.owner.count().clone();
        let verdicts = self.world.owner.engine().verdicts();
        let failures = self.world.owner.failures();
        let mut reasons = BTreeMap::new();
        let mut traffic = Traffic::new();
        for (policy, verdict) in verdicts {
            *reasons.entry((policy.kind.kind(), reason_of(verdict, failures))).or_default() += 1;
            let total = totals.get(policy).copied().unwrap_or_default();
            // A counter that was told once is told for as long as the policy is known.
            if !verdict.frontends.is_empty() || total != Default::default() {
                traffic.push((policy.clone(), total));
            }
        }
        let health = self.world.owner.health();
        let failed = |(policy, health): (&PolicyRef, &PolicyHealth)| {
            Some((policy.clone(), health.problem.as_ref()?.reason))
        };
        let failed = health.borrow().iter().filter_map(failed).collect();
        PolicySample { reasons, failed, traffic }
    }

    fn table_sample(&self) -> TableSample {
        let tables = self.world.owner.tables();
        TableSample {
            frontends: tables.entries().len(),
            failed: self.world.owner.failures().len(),
            usage: told(tables.usage()),
            overwritten: told(tables.overwritten().map(Some)),
            events_lost: told(tables.events_lost().map(Some)),
            hook_errors: told(tables.hook_errors()),
            operations: self.world.owner.operations().clone(),
        }
    }
}

fn plugin_view(standing: &Standing) -> PluginView {
    PluginView {
        in_force: standing.is_ready(),
        file: standing.file.clone(),
        chain: standing.chain.clone(),
        problem: standing.problem.clone(),
        writes: standing.writes,
        fights: standing.fights,
    }
}

/// What cannot be read is left out of a sample.
fn told<T: Default>(read: Result<T, balancing_dataplane::tables::TableError>) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!("a part of the metrics is missing: {error}");
        T::default()
    })
}
