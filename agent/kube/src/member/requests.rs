//! The requests of a member, one function each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use balancing_core::{
    claims::claim_name,
    names::{FIELD_MANAGER, GROUP, VERSION},
    objects::{ClaimSpec, MemberKind, MemberSpec, Owner},
};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::source::cause;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Times that a claim is created which is deleted in the moment in which it is met.
const CREATES: usize = 3;
/// Label of a claim with the uid of its owner: by it a host finds its own.
const LABEL_OWNER: &str = "balancing.elf.io/owner-uid";

/// Why something is not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A request was refused or failed.
    #[error("cannot {what}: {}", cause(source))]
    Request {
        /// Verb and object.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("cannot {what}: the API server does not answer")]
    NoAnswer {
        /// Verb and object.
        what: String,
    },
    /// A pool is full.
    #[error("{0}")]
    Exhausted(String),
    /// Others were always faster.
    #[error("no address of {0} could be claimed, others are faster: it is tried again")]
    Contended(IpNetwork),
}

/// How a claim went.
pub(super) struct Taken {
    pub(super) is_ours: bool,
    pub(super) is_new: bool,
}

/// How an apply went.
pub(super) enum Applied {
    Done,
    /// Another field manager owns something of it, as the server says.
    Conflict(String),
}

/// Sends them.
pub(super) struct Requests {
    claims: Api<DynamicObject>,
    members: Api<DynamicObject>,
    nodes: Api<Node>,
    leases: Api<Lease>,
}

impl Requests {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let ours = |kind: &str, plural: &str| {
            let kind = GroupVersionKind::gvk(GROUP, VERSION, kind);
            Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
        };
        Self {
            claims: ours("TunnelAddressClaim", "tunneladdressclaims"),
            members: ours("TunnelNode", "tunnelnodes"),
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Creates a claim, or finds that it is this owner's already.
    pub(super) async fn claim(&self, claim: &ClaimSpec) -> Result<Taken, WriteError> {
        let name = claim_name(claim.address);
        let what = || format!("create TunnelAddressClaim {name}");
        let object: DynamicObject = from_json(claim_object(claim), what)?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        for _ in 0..CREATES {
            match answer(what, self.claims.create(&params, &object)).await {
                Ok(_) => return Ok(Taken { is_ours: true, is_new: true }),
                Err(WriteError::Request { source, .. }) if is_there(&source) => {}
                Err(error) => return Err(error),
            }
            let what = || format!("read TunnelAddressClaim {name}");
            // Deleted meanwhile: it is free.
            let Some(found) = answer(what, self.claims.get_opt(&name)).await? else { continue };
            return Ok(Taken { is_ours: read_claim(&found).as_ref() == Some(claim), is_new: false });
        }
        Ok(Taken { is_ours: false, is_new: false })
    }

    /// The claims of an owner, as they are now: the API server makes sure that its cache is new enough (Kubernetes 1.31).
    pub(super) async fn claims_of(&self, owner: &Owner) -> Result<Vec<ClaimSpec>, WriteError> {
        let params = ListParams::default().labels(&format!("{LABEL_OWNER}={}", owner.uid));
        let list = answer(|| "list own TunnelAddressClaims".to_owned(), self.claims.list(&params)).await?;
        Ok(list.items.iter().filter_map(read_claim).filter(|claim| claim.owner == *owner).collect())
    }

    /// Every address that is claimed, as the API server's cache has them: only the attempt to create a claim shows what is free.
    pub(super) async fn taken(&self) -> Result<BTreeSet<IpAddr>, WriteError> {
        let params = ListParams::default().match_any();
        let list = answer(|| "list TunnelAddressClaims".to_owned(), self.claims.list(&params)).await?;
        Ok(list.items.iter().filter_map(read_claim).map(|claim| claim.address).collect())
    }

    /// Writes the TunnelNode of this host.
    pub(super) async fn describe(&self, spec: &MemberSpec) -> Result<(), WriteError> {
        let name = spec.kind.object_name(&spec.name);
        let patch = Patch::Apply(member_object(spec));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        answer(|| format!("write TunnelNode {name}"), self.members.patch(&name, &params, &patch))
            .await
            .map(drop)
    }

    /// Applies annotations to the Node as all that this field manager has there.
    pub(super) async fn annotate(
        &self,
        node: &str,
        annotations: &BTreeMap<&'static str, String>,
    ) -> Result<Applied, WriteError> {
        let patch = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node, "annotations": annotations },
        }));
        let params = PatchParams::apply(FIELD_MANAGER);
        match answer(|| format!("annotate Node {node}"), self.nodes.patch_metadata(node, &params, &patch))
            .await
        {
            Ok(_) => Ok(Applied::Done),
            Err(WriteError::Request { source, .. }) if is_conflict(&source) => {
                Ok(Applied::Conflict(source.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Renews the Lease of this host.
    pub(super) async fn renew(&self, name: &str, duration: Duration) -> Result<(), WriteError> {
        let patch = Patch::Apply(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name },
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": duration.as_secs(),
                "renewTime": MicroTime(Timestamp::now()),
            },
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        answer(|| format!("renew Lease {name}"), self.leases.patch(name, &params, &patch)).await.map(drop)
    }
}

async fn answer<T>(
    what: impl Fn() -> String,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, WriteError> {
    let answer = timeout(ANSWER, request).await.map_err(|_elapsed| WriteError::NoAnswer { what: what() })?;
    answer.map_err(|source| WriteError::Request { what: what(), source: Box::new(source) })
}

fn from_json(object: Value, what: impl Fn() -> String) -> Result<DynamicObject, WriteError> {
    serde_json::from_value(object).map_err(|source| WriteError::Request {
        what: what(),
        source: Box::new(kube::Error::SerdeError(source)),
    })
}

fn claim_object(claim: &ClaimSpec) -> Value {
    let ClaimSpec { fabric, address, owner: Owner { kind, name, uid } } = claim;
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "TunnelAddressClaim",
        "metadata": { "name": claim_name(*address), "labels": { LABEL_OWNER: uid } },
        "spec": { "fabric": fabric, "address": address, "owner": { "kind": kind.kind(), "name": name, "uid": uid } },
    })
}

fn member_object(spec: &MemberSpec) -> Value {
    let [a, b, c, d, e, f] = spec.mac;
    let mut underlay = serde_json::Map::new();
    underlay.extend(spec.underlay_v4.map(|address| ("ipv4".to_owned(), json!(address))));
    underlay.extend(spec.underlay_v6.map(|address| ("ipv6".to_owned(), json!(address))));
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "TunnelNode",
        "metadata": { "name": spec.kind.object_name(&spec.name) },
        "spec": {
            "fabric": spec.fabric, "kind": spec.kind.kind(), "name": spec.name, "uid": spec.uid,
            "underlay": underlay, "port": spec.port,
            "mac": format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            "addresses": spec.addresses, "mtu": spec.mtu,
        },
    })
}

fn read_claim(object: &DynamicObject) -> Option<ClaimSpec> {
    let spec = object.data.get("spec")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let owner = spec.get("owner")?;
    let kind = [MemberKind::Node, MemberKind::ExternalHost];
    let kind =
        kind.into_iter().find(|kind| owner.get("kind").and_then(Value::as_str) == Some(kind.kind()))?;
    Some(ClaimSpec {
        fabric: text(spec.get("fabric")?)?,
        address: spec.get("address")?.as_str()?.parse().ok()?,
        owner: Owner { kind, name: text(owner.get("name")?)?, uid: text(owner.get("uid")?)? },
    })
}

fn is_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}
