//! The agent on a real control plane: etcd and kube-apiserver, where needed their controllers, and kubectl.
//!
//! Every test has a control plane of its own, for policies belong to the whole cluster. Agents run with the
//! rights of `install/rbac` and no others.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "kube/admission.rs"]
mod admission;
#[path = "kube/chart.rs"]
mod chart;
#[path = "kube/conditions.rs"]
mod conditions;
#[path = "kube/connection.rs"]
mod connection;
#[path = "kube/controller.rs"]
mod controller;
#[path = "kube/dashboard.rs"]
mod dashboard;
#[path = "kube/external.rs"]
mod external;
#[path = "kube/fabric.rs"]
mod fabric;
#[path = "kube/fabric_claims.rs"]
mod fabric_claims;
#[path = "kube/fabric_hosts.rs"]
mod fabric_hosts;
#[path = "kube/fabric_outage.rs"]
mod fabric_outage;
#[path = "kube/fabric_outside.rs"]
mod fabric_outside;
#[path = "kube/fabric_rights.rs"]
mod fabric_rights;
#[path = "kube/flannel.rs"]
mod flannel;
#[path = "kube/generations.rs"]
mod generations;
#[path = "kube/lacking.rs"]
mod lacking;
#[path = "kube/monitoring.rs"]
mod monitoring;
#[path = "kube/nodes.rs"]
mod nodes;
#[path = "kube/outage.rs"]
mod outage;
#[path = "kube/picture.rs"]
mod picture;
#[path = "kube/pods.rs"]
mod pods;
#[path = "kube/restore.rs"]
mod restore;
#[path = "kube/rights.rs"]
mod rights;
#[path = "kube/services.rs"]
mod services;
#[path = "kube/slices.rs"]
mod slices;
#[path = "kube/status.rs"]
mod status;
#[path = "kube/world.rs"]
mod world;
