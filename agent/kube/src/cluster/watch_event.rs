//! What the controller reads itself of what its source hears: EndpointSlices of ours, and the `status` of the policies
//! and of the fabric.

use balancing_abi::model::PolicyKind;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    cache::Item,
    fabric::Seen,
    slices::{Known, wire},
    status::Status,
};
use crate::source::{Event, Kind, Text};
use balancing_core::names::{GROUP, VERSION};

/// A policy, as far as its status goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observed {
    /// `metadata.uid`
    pub(super) uid: String,
    /// `metadata.generation`
    pub(super) generation: i64,
    /// Our part of `status`.
    pub(super) status: Option<Status>,
}

/// Something new.
pub(super) enum WatchEvent {
    Slice(Event<Item<Known>>),
    Policy(PolicyKind, Event<Item<Observed>>),
    Fabric(Kind, Event<Item<Seen>>),
}

impl WatchEvent {
    /// What a text says; nothing where it is not what the API server would store.
    pub(super) fn read(Text { kind, event }: Text) -> Option<Self> {
        let policy = |kind, event| Some(Self::Policy(kind, read(event, policy_item)?));
        match kind {
            Kind::LocalRedirectPolicy => policy(PolicyKind::LocalRedirect, event),
            Kind::BalancingPolicy => policy(PolicyKind::Balancing, event),
            Kind::EndpointSlice => Some(Self::Slice(read(event, slice_item)?)),
            Kind::TunnelFabric | Kind::TunnelNode | Kind::ExternalHost => {
                Some(Self::Fabric(kind, read(event, fabric_item)?))
            }
            Kind::Service | Kind::Node | Kind::Pod | Kind::TunnelAddressClaim => None,
        }
    }
}

/// The policies of a kind, whatever their spec looks like.
pub(super) fn policies(client: &Client, kind: PolicyKind) -> Api<DynamicObject> {
    let plural = match kind {
        PolicyKind::LocalRedirect => "localredirectpolicies",
        PolicyKind::Balancing => "balancingpolicies",
    };
    let kind = GroupVersionKind::gvk(GROUP, VERSION, kind.kind());
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
}

pub(super) fn slice_item(slice: &EndpointSlice) -> Item<Known> {
    (name(&slice.metadata), version(&slice.metadata), wire::from_api(slice))
}

pub(super) fn policy_item(policy: &DynamicObject) -> Item<Observed> {
    let meta = &policy.metadata;
    let observed = Observed {
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        status: Status::read(policy.data.get("status")),
    };
    (name(meta), version(meta), observed)
}

pub(super) fn fabric_item(object: &DynamicObject) -> Item<Seen> {
    let meta = &object.metadata;
    let generation = meta.generation.unwrap_or_default();
    let seen = Seen::new(meta.uid.clone().unwrap_or_default(), generation, object.data.get("status"));
    (name(meta), version(meta), seen)
}

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

/// What is not a number counts as newer than anything: better looked at twice than missed.
fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

fn read<T: for<'a> Deserialize<'a>, V>(
    event: Event<Box<RawValue>>,
    item: impl Fn(&T) -> Item<V>,
) -> Option<Event<Item<V>>> {
    let read = |text: Box<RawValue>| {
        let object = serde_json::from_str(text.get());
        let object =
            object.inspect_err(|error| tracing::warn!("an object of the API server is left out: {error}"));
        object.ok().map(|object| item(&object))
    };
    Some(match event {
        Event::Begin => Event::Begin,
        Event::Listed(text) => Event::Listed(read(text)?),
        Event::End(version) => Event::End(version),
        Event::Put(text) => Event::Put(read(text)?),
        Event::Gone(text) => Event::Gone(read(text)?),
    })
}
