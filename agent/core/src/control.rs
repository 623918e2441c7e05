//! What is asked of the agent over its socket, and how it answers: one JSON line each, and for a monitor more of them. Both ends take it from here, so that they
//! cannot drift apart.

use std::path::{Path, PathBuf};

use balancing_abi::model::{FrontendKey, Protocol};
use serde::{Deserialize, Serialize};

use crate::{monitor::Filter, objects::ObjectRef, view::KeyView};

/// Exit status for wrong arguments (`EX_USAGE` of `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    /// [`balancing_core::view::AgentView`]
    Agent,
    /// List of [`balancing_core::view::PolicyView`]
    Policies,
    /// List of [`balancing_core::view::Origin`]
    Origins,
    /// List of [`balancing_core::view::PodName`]
    Pods,
    /// [`balancing_core::explain::Explanation`]
    Explain {
        /// The frontend.
        frontend: KeyView,
        /// Namespace and name of the client.
        pod: Option<(String, String)>,
    },
    /// [`crate::fabric_view::FabricView`]
    Fabric,
    /// List of [`crate::fabric_view::CheckView`]
    FabricCheck {
        /// Name of a TunnelNode or of its Node or ExternalHost; `None` = every member.
        peer: Option<String>,
    },
    /// Nothing; [`crate::monitor::Line`]s follow until one end closes.
    Monitor(Filter),
}

impl Request {
    /// The frontend and client of `Explain` in plain types.
    #[must_use]
    pub fn explain_key(frontend: &KeyView) -> FrontendKey {
        let protocol = if frontend.protocol == "UDP" { Protocol::Udp } else { Protocol::Tcp };
        FrontendKey { address: frontend.address, port: frontend.port, protocol }
    }

    /// A namespace and name as a reference.
    #[must_use]
    pub fn pod_ref(pod: &(String, String)) -> ObjectRef {
        ObjectRef { namespace: pod.0.clone(), name: pod.1.clone() }
    }
}

/// An answer as it goes over the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why there is none.
    Error(String),
}

/// The agent's socket.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}
