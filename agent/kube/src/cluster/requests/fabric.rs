//! The requests of the controller for the fabric.
//!
//! What is deleted is read again just before, and so is whatever else it is deleted for: objects of different kinds are heard of
//! in any order. It is deleted only as it was read.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease as ApiLease,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch,
        PatchParams, Preconditions,
    },
};
use serde::Serialize;
use serde_json::json;

use super::{WriteError, answer, is_outdated};
use crate::{
    cluster::{
        cache::Item,
        fabric::{Gone, Lease, Reading, Remains, Seen, Status, has_no_right},
        watch_event::fabric_item,
    },
    source::Kind,
};
use balancing_core::{
    claims::claim_name,
    manifest,
    names::{EXTERNAL_HOSTS, FIELD_MANAGER, GROUP, VERSION},
    objects::{MemberKind, Object, Owner},
    snapshot::Snapshot,
};

/// Begin of the names of Leases that hosts outside the cluster renew.
const HOST_LEASE: &str = "host.";

/// Sends the requests.
#[derive(Clone)]
pub(in crate::cluster) struct FabricWriter {
    client: Client,
    leases: Api<ApiLease>,
    config_maps: Api<ConfigMap>,
}

impl FabricWriter {
    pub(in crate::cluster) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            client: client.clone(),
            leases: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Reads what is not watched.
    pub(in crate::cluster) async fn read(&self) -> Result<Reading, WriteError> {
        // A moment old is good enough, and costs the API server no question to etcd.
        let leases = answer(self.leases.list(&ListParams::default().match_any())).await?;
        let hosts = answer(self.config_maps.get_opt(EXTERNAL_HOSTS)).await?;
        let hosts = hosts.and_then(|map| map.data).unwrap_or_default();
        let now = Instant::now();
        let leases = leases.items.into_iter().filter_map(|lease| {
            let name = lease.metadata.name.filter(|name| name.starts_with(HOST_LEASE))?;
            let spec = lease.spec?;
            let renewed: Timestamp = spec.renew_time?.0;
            let seconds = spec.lease_duration_seconds.unwrap_or_default().into();
            Some((name, Lease { renewed, seconds, seen: now }))
        });
        Ok(Reading { leases: leases.collect(), hosts })
    }

    /// Replaces the list of hosts.
    pub(in crate::cluster) async fn hosts(&self, hosts: &BTreeMap<String, String>) -> Result<(), WriteError> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": EXTERNAL_HOSTS },
            "data": hosts,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        answer(self.config_maps.patch(EXTERNAL_HOSTS, &params, &Patch::Apply(patch))).await.map(drop)
    }

    /// Writes the status of the object with this uid; `None` = there is no such object any more.
    pub(in crate::cluster) async fn status(
        &self,
        kind: Kind,
        name: &str,
        uid: &str,
        status: &Status,
    ) -> Result<Option<Item<Seen>>, WriteError> {
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": kind.name(),
            "metadata": { "name": name, "uid": uid },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match answer(self.objects(kind).patch_status(name, &params, &Patch::Apply(patch))).await {
            Ok(object) => Ok(Some(fabric_item(&object))),
            Err(WriteError::Request(error)) if is_outdated(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes what nobody owns; whether it was there and had no owner.
    pub(in crate::cluster) async fn remove(&self, remains: &Remains) -> Result<bool, WriteError> {
        let api = self.objects(remains.kind);
        let Some(object) = answer(api.get_opt(&remains.name)).await? else { return Ok(false) };
        if !is_still(&object, remains) || !self.is_proven(remains, &object).await? {
            return Ok(false);
        }
        let ObjectMeta { uid, resource_version, .. } = object.metadata;
        let preconditions = Some(Preconditions { uid, resource_version });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match answer(api.delete(&remains.name, &params)).await {
            Ok(_) => Ok(true),
            Err(WriteError::Request(error)) if is_outdated(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether what is said of other objects is so now.
    async fn is_proven(&self, remains: &Remains, object: &DynamicObject) -> Result<bool, WriteError> {
        let owner = &remains.owner;
        match &remains.why {
            Gone::Owner => Ok(!self.lives(owner).await?),
            Gone::Claimed { address, by } => {
                let claim =
                    answer(self.objects(Kind::TunnelAddressClaim).get_opt(&claim_name(*address))).await?;
                let uid = claim.as_ref().and_then(|claim| claim.data.pointer("/spec/owner/uid")?.as_str());
                Ok(uid == Some(&by.uid))
            }
            Gone::UnderlayOf { address, node } => {
                let its_own =
                    owner.kind == MemberKind::Node && self.has_address(&owner.name, *address).await?;
                Ok(!its_own && self.has_address(node, *address).await?)
            }
            // A claim never changes, so a member that has just taken it up again is to be seen in its TunnelNode only.
            Gone::Unused(address) | Gone::Surplus(address) => {
                let name = owner.kind.object_name(&owner.name);
                let member = answer(self.objects(Kind::TunnelNode).get_opt(&name)).await?;
                Ok(!member.is_some_and(|member| has_tunnel_address(&member, owner, *address)))
            }
            Gone::Silent(renewed) => Ok(self.renewed(owner).await? == Some(*renewed)),
            Gone::Paused | Gone::Underlay | Gone::Mac | Gone::Outside | Gone::NoFabric => {
                self.is_still_so(remains, object).await
            }
        }
    }

    /// Judges a TunnelNode again, by its owner and the fabrics as they are now.
    async fn is_still_so(&self, remains: &Remains, object: &DynamicObject) -> Result<bool, WriteError> {
        let Some(Object::Member(member)) = read(object, Kind::TunnelNode) else {
            return Ok(false);
        };
        let owner = &remains.owner;
        let owner = match owner.kind {
            MemberKind::Node => {
                let node = answer(Api::<Node>::all(self.client.clone()).get_opt(&owner.name)).await?;
                node.map(|node| read(&node, Kind::Node))
            }
            MemberKind::ExternalHost => {
                let host = answer(self.objects(Kind::ExternalHost).get_opt(&owner.name)).await?;
                host.map(|host| read(&host, Kind::ExternalHost))
            }
        };
        // All of them: which one is a Node's depends on the older ones.
        let fabrics = answer(self.objects(Kind::TunnelFabric).list(&ListParams::default())).await?;
        let fabrics = fabrics.items.iter().map(|fabric| read(fabric, Kind::TunnelFabric)).map(Some);
        // What cannot be read proves nothing.
        let Some(objects) = fabrics.chain([owner]).flatten().collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let mut now = Snapshot::new(None);
        let accepted = remains.accepted.clone().map(|fabric| Object::Fabric(*fabric));
        now.apply(accepted.map(|object| (object.key(), Some(object))));
        now.apply(objects.into_iter().map(|object| (object.key(), Some(object))));
        let why = member.spec.as_ref().ok().and_then(|spec| has_no_right(&now, &member, spec));
        Ok(why.as_ref() == Some(&remains.why))
    }

    /// When a host has renewed its Lease last.
    async fn renewed(&self, owner: &Owner) -> Result<Option<Timestamp>, WriteError> {
        // By a list, for which the controller has the right already.
        let one =
            ListParams::default().fields(&format!("metadata.name={}", owner.kind.object_name(&owner.name)));
        let leases = answer(self.leases.list(&one)).await?;
        Ok(leases.items.into_iter().find_map(|lease| Some(lease.spec?.renew_time?.0)))
    }

    async fn has_address(&self, node: &str, address: IpAddr) -> Result<bool, WriteError> {
        let node = answer(Api::<Node>::all(self.client.clone()).get_opt(node)).await?;
        let addresses = node.and_then(|node| node.status?.addresses).unwrap_or_default();
        Ok(addresses.iter().any(|it| it.address.parse() == Ok(address)))
    }

    async fn lives(&self, owner: &Owner) -> Result<bool, WriteError> {
        let meta = match owner.kind {
            MemberKind::Node => {
                let nodes = Api::<Node>::all(self.client.clone());
                answer(nodes.get_metadata_opt(&owner.name)).await?.map(|node| node.metadata)
            }
            MemberKind::ExternalHost => {
                answer(self.objects(Kind::ExternalHost).get_metadata_opt(&owner.name))
                    .await?
                    .map(|host| host.metadata)
            }
        };
        Ok(meta.is_some_and(|meta| meta.uid.as_deref() == Some(&owner.uid)))
    }

    fn objects(&self, kind: Kind) -> Api<DynamicObject> {
        let resource = GroupVersionKind::gvk(GROUP, VERSION, kind.name());
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&resource, kind.plural()))
    }
}

/// An object as the rules read it; `None` where they cannot.
fn read(object: &impl Serialize, kind: Kind) -> Option<Object> {
    let api_version = if kind == Kind::Node { "v1".to_owned() } else { format!("{GROUP}/{VERSION}") };
    let mut tree = serde_json::to_value(object).ok()?;
    // The items of a list do not say what they are.
    let fields = tree.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), api_version.clone().into());
    fields.insert("kind".to_owned(), kind.name().into());
    manifest::read_tree(tree, &api_version, kind.name()).objects.pop()
}

fn has_tunnel_address(member: &DynamicObject, owner: &Owner, address: IpAddr) -> bool {
    let uid = member.data.pointer("/spec/uid").and_then(|uid| uid.as_str());
    let addresses = member.data.pointer("/spec/addresses").and_then(|addresses| addresses.as_array());
    let is_it = |it: &serde_json::Value| it.as_str().and_then(|it| it.parse().ok()) == Some(address);
    uid == Some(&owner.uid) && addresses.is_some_and(|addresses| addresses.iter().any(is_it))
}

/// The object is the one that was judged, and names the same owner.
fn is_still(object: &DynamicObject, remains: &Remains) -> bool {
    let owner = match remains.kind {
        Kind::TunnelAddressClaim => object.data.pointer("/spec/owner"),
        _ => object.data.pointer("/spec"),
    };
    let names = owner.and_then(|owner| owner.get("uid")).and_then(|uid| uid.as_str());
    object.metadata.uid.as_deref() == Some(&remains.uid) && names == Some(&remains.owner.uid)
}

#[cfg(test)]
mod tests;
