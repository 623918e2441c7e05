//! The writes of the controller, one request each.
//!
//! A slice is replaced or deleted only as the one that was seen, so that no write undoes a newer one. A status is
//! applied as a whole by its field manager.

use std::time::Duration;

use balancing_abi::model::PolicyKind;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    cache::Item,
    slices::{Known, SliceOp, wire},
    status::Status,
    watch_event::{Observed, policies, policy_item, slice_item},
};
use balancing_core::{
    names::{FIELD_MANAGER, GROUP, VERSION},
    objects::PolicyRef,
};

mod fabric;

pub(super) use fabric::FabricWriter;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Request(#[from] Box<kube::Error>),
    #[error("the API server does not answer")]
    NoAnswer,
}

/// What is known of a slice after a write.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is as written.
    Written(Item<Known>),
    /// It is deleted.
    Deleted,
    /// The write was refused because the slice is another by now: this one, or none at all.
    Outdated(Option<Item<Known>>),
    /// The name belongs to an object of somebody else.
    Taken,
}

/// Sends the writes.
#[derive(Clone)]
pub(super) struct Writer {
    namespace: String,
    slices: Api<EndpointSlice>,
    local: Api<DynamicObject>,
    balancing: Api<DynamicObject>,
}

impl Writer {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            slices: Api::namespaced(client.clone(), namespace),
            local: policies(client, PolicyKind::LocalRedirect),
            balancing: policies(client, PolicyKind::Balancing),
        }
    }

    /// Writes a slice; `known` is the one that was seen.
    pub(super) async fn slice(&self, op: SliceOp, known: Option<Known>) -> Result<Outcome, WriteError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let request = async {
            match &op {
                SliceOp::Create(slice) => {
                    let object = wire::to_api(slice, &self.namespace, None);
                    self.slices.create(&params, &object).await.map(Some)
                }
                SliceOp::Update(slice) => {
                    let object = wire::to_api(slice, &self.namespace, known.as_ref());
                    self.slices.replace(&slice.name, &params, &object).await.map(Some)
                }
                SliceOp::Delete(name) => {
                    let params =
                        DeleteParams { preconditions: preconditions(known), ..DeleteParams::default() };
                    self.slices.delete(name, &params).await.map(|_| None)
                }
            }
        };
        match answer(request).await {
            Ok(Some(object)) => Ok(Outcome::Written(slice_item(&object))),
            Ok(None) => Ok(Outcome::Deleted),
            Err(WriteError::Request(error)) if is_outdated(&error) && !lacks_namespace(&error, &op) => {
                self.look(op.name()).await
            }
            Err(error) => Err(error),
        }
    }

    async fn look(&self, name: &str) -> Result<Outcome, WriteError> {
        match answer(self.slices.get_opt(name)).await? {
            Some(object) if !wire::is_ours(&object) => Ok(Outcome::Taken),
            found => Ok(Outcome::Outdated(found.as_ref().map(slice_item))),
        }
    }

    /// Writes the status of the policy with this uid; `None` = there is no such policy any more.
    pub(super) async fn status(
        &self,
        policy: &PolicyRef,
        uid: &str,
        status: &Status,
    ) -> Result<Option<Item<Observed>>, WriteError> {
        let api = match policy.kind {
            PolicyKind::LocalRedirect => &self.local,
            PolicyKind::Balancing => &self.balancing,
        };
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": policy.kind.kind(),
            "metadata": { "name": policy.name, "uid": uid },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match answer(api.patch_status(&policy.name, &params, &Patch::Apply(patch))).await {
            Ok(object) => Ok(Some(policy_item(&object))),
            Err(WriteError::Request(error)) if is_outdated(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl SliceOp {
    /// Name of the slice.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Create(slice) | Self::Update(slice) => &slice.name,
            Self::Delete(name) => name,
        }
    }
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    let answer = timeout(ANSWER, request).await.ok().ok_or(WriteError::NoAnswer)?;
    Ok(answer.map_err(Box::new)?)
}

fn preconditions(known: Option<Known>) -> Option<Preconditions> {
    known.map(|known| Preconditions { uid: Some(known.uid), resource_version: Some(known.version) })
}

fn is_outdated(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.is_conflict() || status.is_already_exists() || status.is_not_found())
}

/// What is to be created cannot be missing.
fn lacks_namespace(error: &kube::Error, op: &SliceOp) -> bool {
    let missing = matches!(error, kube::Error::Api(status) if status.is_not_found());
    missing && matches!(op, SliceOp::Create(_))
}
