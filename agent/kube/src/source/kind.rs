//! The kinds that are watched, which of them each scope needs, and the requests for them.

use std::time::Duration;

use axum::http::Request as HttpRequest;
use kube::{
    api::{ListParams, WatchParams},
    core::Request,
};

use super::{Scope, backoff::random};
use balancing_abi::model::PolicyKind;
use balancing_core::{
    names::{GROUP, LABEL_MANAGED_BY, MANAGED_BY, VERSION},
    objects::{ObjectKey, ObjectRef, PolicyRef},
};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Seconds after which the server ends a watch: a random number of this range, so that the agents of a cluster do
/// not come back all at once. The client allows less than 295.
const WATCH_SECONDS: (u32, u32) = (230, 290);

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    LocalRedirectPolicy,
    BalancingPolicy,
    Service,
    Node,
    Pod,
    EndpointSlice,
    TunnelFabric,
    TunnelNode,
    ExternalHost,
    TunnelAddressClaim,
}

/// How a consumer gets the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As objects.
    Objects,
    /// As the server's text.
    Texts,
    /// As both.
    Both,
}

/// A request whose answer goes on, and for how long.
pub(super) type Lasting = (HttpRequest<Vec<u8>>, Duration);

/// The objects of one kind that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) api_version: String,
    pub(super) form: Form,
    /// So many watch it that their lists are spread.
    pub(super) is_spread: bool,
    path: String,
    labels: Option<String>,
    fields: Option<String>,
}

impl Kind {
    /// `kind` of the objects.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicy => PolicyKind::LocalRedirect.kind(),
            Self::BalancingPolicy => PolicyKind::Balancing.kind(),
            Self::Service => "Service",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::TunnelFabric => "TunnelFabric",
            Self::TunnelNode => "TunnelNode",
            Self::ExternalHost => "ExternalHost",
            Self::TunnelAddressClaim => "TunnelAddressClaim",
        }
    }

    /// Name of the resource, as RBAC rules have it.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicy => "localredirectpolicies",
            Self::BalancingPolicy => "balancingpolicies",
            Self::Service => "services",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::EndpointSlice => "endpointslices",
            Self::TunnelFabric => "tunnelfabrics",
            Self::TunnelNode => "tunnelnodes",
            Self::ExternalHost => "externalhosts",
            Self::TunnelAddressClaim => "tunneladdressclaims",
        }
    }

    /// API group, empty for the core.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicy
            | Self::BalancingPolicy
            | Self::TunnelFabric
            | Self::TunnelNode
            | Self::ExternalHost
            | Self::TunnelAddressClaim => GROUP,
            Self::EndpointSlice => "discovery.k8s.io",
            Self::Service | Self::Node | Self::Pod => "",
        }
    }

    /// Whether it exists only where the CRDs are installed.
    pub(super) fn is_ours(self) -> bool {
        self.group() == GROUP
    }

    /// Key of an object.
    pub(super) fn key(self, namespace: String, name: String) -> ObjectKey {
        match self {
            Self::LocalRedirectPolicy => {
                ObjectKey::Policy(PolicyRef { kind: PolicyKind::LocalRedirect, name })
            }
            Self::BalancingPolicy => ObjectKey::Policy(PolicyRef { kind: PolicyKind::Balancing, name }),
            Self::Service => ObjectKey::Service(ObjectRef { namespace, name }),
            Self::Node => ObjectKey::Node(name),
            Self::Pod => ObjectKey::Pod(ObjectRef { namespace, name }),
            Self::EndpointSlice => ObjectKey::Endpoints(ObjectRef { namespace, name }),
            Self::TunnelFabric => ObjectKey::Fabric(name),
            Self::TunnelNode => ObjectKey::Member(name),
            Self::ExternalHost => ObjectKey::ExternalHost(name),
            Self::TunnelAddressClaim => ObjectKey::Claim(name),
        }
    }
}

impl Scope {
    /// What this scope watches; the EndpointSlices of `namespace`.
    pub(super) fn targets(&self, namespace: &str) -> Vec<Target> {
        let slices = || {
            let mut target = Target::new(Kind::EndpointSlice, Some(namespace));
            target.labels = Some(format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
            target
        };
        let selected = |kind, fields: String| Target { fields: Some(fields), ..Target::new(kind, None) };
        let plain = |kinds: &[Kind]| kinds.iter().map(|kind| Target::new(*kind, None)).collect::<Vec<_>>();
        match self {
            // Nodes report all the time; what an agent needs of the others is in the slices.
            Self::Node { name } => {
                let mut targets = plain(&[Kind::LocalRedirectPolicy, Kind::BalancingPolicy, Kind::Service]);
                targets.push(selected(Kind::Node, format!("metadata.name={name}")));
                targets.push(selected(Kind::Pod, format!("spec.nodeName={name}")));
                targets.push(slices());
                targets.extend(plain(&[Kind::TunnelFabric, Kind::TunnelNode]));
                targets
            }
            Self::External { name } => {
                let mut targets = plain(&[Kind::BalancingPolicy, Kind::Service]);
                targets.push(slices());
                targets.extend(plain(&[Kind::TunnelFabric, Kind::TunnelNode]));
                targets.push(selected(Kind::ExternalHost, format!("metadata.name={name}")));
                targets
            }
            Self::Cluster => {
                // What it writes, `status` and slices, the controller reads itself.
                let with_status = plain(&[
                    Kind::LocalRedirectPolicy,
                    Kind::BalancingPolicy,
                    Kind::TunnelFabric,
                    Kind::TunnelNode,
                    Kind::ExternalHost,
                ]);
                let with_status = with_status.into_iter();
                let mut targets: Vec<_> = with_status
                    .map(|target| Target { form: Form::Both, is_spread: false, ..target })
                    .collect();
                targets.extend(plain(&[Kind::Service, Kind::Node, Kind::TunnelAddressClaim]));
                targets.push(Target { form: Form::Texts, ..slices() });
                // Finished pods are no backends, and a cluster with many jobs has many of them.
                let unfinished = "status.phase!=Succeeded,status.phase!=Failed".to_owned();
                targets.push(selected(Kind::Pod, unfinished));
                targets
            }
        }
    }
}

impl Target {
    fn new(kind: Kind, namespace: Option<&str>) -> Self {
        let (group, plural) = (kind.group(), kind.plural());
        let (root, api_version) = match group {
            "" => ("api", "v1".to_owned()),
            GROUP => ("apis", format!("{GROUP}/{VERSION}")),
            _ => ("apis", format!("{group}/v1")),
        };
        let within = namespace.map(|n| format!("namespaces/{n}/")).unwrap_or_default();
        let path = format!("/{root}/{api_version}/{within}{plural}");
        Self {
            kind,
            api_version,
            path,
            form: Form::Objects,
            is_spread: kind == Kind::TunnelNode,
            labels: None,
            fields: None,
        }
    }

    /// Gives the consumer the server's text too.
    pub(super) fn add_texts(&mut self) {
        if self.form == Form::Objects {
            self.form = Form::Both;
        }
    }

    /// Whether the consumer gets the server's text.
    pub(super) fn has_texts(&self) -> bool {
        self.form != Form::Objects
    }

    /// The request for a page: the first one, or the one that `token` stands for.
    ///
    /// Without a version the server answers with what is in force when it is asked, from its cache where it can make sure
    /// of that (Kubernetes, "API Concepts", Semantics for get and list).
    pub(super) fn list(&self, token: Option<String>) -> Result<HttpRequest<Vec<u8>>, kube::Error> {
        let params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            continue_token: token,
            ..ListParams::default()
        };
        Request::new(&self.path).list(&params).map_err(kube::Error::BuildRequest)
    }

    /// The request for any one object, whose answer tells how new the data of the server is. A selector would make the server
    /// search for one that matches.
    pub(super) fn probe(&self) -> Result<HttpRequest<Vec<u8>>, kube::Error> {
        let params = ListParams { limit: Some(1), ..ListParams::default() };
        Request::new(&self.path).list(&params).map_err(kube::Error::BuildRequest)
    }

    /// The request for everything that exists when it is asked, and all that happens after; and how long the server lets it
    /// stand.
    pub(super) fn stream(&self) -> Result<Lasting, kube::Error> {
        self.lasting(&self.watch_params().initial_events(), "")
    }

    /// The request for everything that happens after `version`, as [`Self::stream`].
    pub(super) fn watch(&self, version: &str) -> Result<Lasting, kube::Error> {
        self.lasting(&self.watch_params(), version)
    }

    fn lasting(&self, params: &WatchParams, version: &str) -> Result<Lasting, kube::Error> {
        let time = Duration::from_secs(params.timeout.unwrap_or_default().into());
        let request = Request::new(&self.path).watch(params, version).map_err(kube::Error::BuildRequest)?;
        Ok((request, time))
    }

    fn watch_params(&self) -> WatchParams {
        let (least, most) = WATCH_SECONDS;
        WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(least + random(most - least)),
            ..WatchParams::default()
        }
    }
}
