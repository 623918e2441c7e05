//! Watches what the elected agent writes: EndpointSlices of ours, and the `status` of the policies.
//!
//! The streams never end; what goes wrong is logged, and the watch starts again after a while.

use balancing_abi::model::PolicyKind;
use futures::{
    Stream, StreamExt as _,
    future::ready,
    stream::{BoxStream, select_all},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};

use super::{
    mirror::Item,
    slices::{Known, wire},
    status::Status,
};
use balancing_core::names::{GROUP, LABEL_MANAGED_BY, MANAGED_BY, VERSION};

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
pub(super) enum News {
    Slice(Event<Item<Known>>),
    Policy(PolicyKind, Event<Item<Observed>>),
}

/// All news.
pub(super) fn news(client: &Client, namespace: &str) -> impl Stream<Item = News> + Unpin {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let slices = heard("EndpointSlices", watcher(slices, ours).default_backoff())
        .map(|event| News::Slice(convert(event, |slice| slice_item(&slice))));
    let policies = [PolicyKind::LocalRedirect, PolicyKind::Balancing].map(|kind| {
        let stream = watcher(policies(client, kind), watcher::Config::default()).default_backoff();
        let news = heard(kind.kind(), stream)
            .map(move |event| News::Policy(kind, convert(event, |policy| policy_item(&policy))));
        news.boxed()
    });
    select_all(policies.into_iter().chain([slices.boxed()]))
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

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

/// What is not a number counts as newer than anything: better looked at twice than missed.
fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

fn heard<K: Send + 'static>(
    what: &'static str,
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> BoxStream<'static, Event<K>> {
    let heard = stream.filter_map(move |event| {
        let event = event.inspect_err(|error| tracing::warn!("watching {what}: {error}; tried again"));
        ready(event.ok())
    });
    heard.boxed()
}

fn convert<K, V>(event: Event<K>, item: impl Fn(K) -> Item<V>) -> Event<Item<V>> {
    match event {
        Event::Apply(object) => Event::Apply(item(object)),
        Event::Delete(object) => Event::Delete(item(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(item(object)),
        Event::InitDone => Event::InitDone,
    }
}
