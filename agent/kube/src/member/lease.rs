//! The Lease of a host outside the cluster: nothing else tells that it lives. Nodes have their own (Kubernetes, "Leases").

use std::time::Duration;

use balancing_core::objects::{MemberKind, Owner};
use tokio::time::Instant;

use super::requests::{Requests, WriteError};

/// Time between renewals, and how long one counts, as for nodes.
const RENEW: Duration = Duration::from_secs(10);
pub(super) const DURATION: Duration = Duration::from_secs(40);

/// When the Lease is due.
#[derive(Default)]
pub(super) struct Renewal {
    last: Option<Instant>,
}

impl Renewal {
    /// Renews what is due; when it is due again. A node renews none.
    pub(super) async fn renew(
        &mut self,
        requests: &Requests,
        owner: &Owner,
        now: Instant,
    ) -> Result<Option<Instant>, WriteError> {
        if owner.kind == MemberKind::Node {
            return Ok(None);
        }
        if self.last.is_none_or(|last| now >= last + RENEW) {
            requests.renew(&owner.kind.object_name(&owner.name), DURATION).await?;
            self.last = Some(now);
        }
        Ok(self.last.map(|last| last + RENEW))
    }
}
