//! Where credentials are, what they say, and whether they still say it.
//!
//! It reads files and the environment. It neither makes connections nor decides when to look.

use std::{
    collections::BTreeMap,
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use http::header::{HeaderValue, USER_AGENT};
use hyper_util::client::proxy::matcher::Intercept;
use kube::{
    Client, Config,
    config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig},
};

use super::{CONNECT_TIMEOUT, ClientError, READ_TIMEOUT, proxy, stack};

/// What a ServiceAccount has in a pod.
const SERVICE_ACCOUNT: [&str; 2] = [
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
];

/// Where credentials are from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// The current context of a file.
    Kubeconfig(PathBuf),
    /// The ServiceAccount of the pod that this is.
    ServiceAccount,
}

/// Credentials, complete.
pub(super) struct Credentials {
    config: Config,
    proxy: Option<Intercept>,
    origin: String,
}

/// The files that credentials were read from, and what was in them.
#[derive(Debug)]
pub(super) struct Seen(BTreeMap<PathBuf, Option<u64>>);

impl Origin {
    pub(super) fn of(kubeconfig: Option<&Path>) -> Self {
        kubeconfig.map_or(Self::ServiceAccount, |path| Self::Kubeconfig(path.to_path_buf()))
    }

    /// Reads everything. Of each file it is noted before it is read what is in it, so that no change gets lost in between.
    pub(super) async fn read(&self) -> (Seen, Result<Credentials, ClientError>) {
        match self {
            Self::Kubeconfig(path) => {
                let mut seen = Seen::of([path.clone()]);
                let outcome = self.read_kubeconfig(path, &mut seen).await;
                (seen, outcome)
            }
            Self::ServiceAccount => {
                let seen = Seen::of(SERVICE_ACCOUNT.map(PathBuf::from));
                let config = Config::incluster().map_err(ClientError::InCluster);
                (seen, config.and_then(|config| self.complete(config, None)))
            }
        }
    }

    async fn read_kubeconfig(&self, path: &Path, seen: &mut Seen) -> Result<Credentials, ClientError> {
        let wrong = |source| ClientError::Kubeconfig { path: path.to_path_buf(), source };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let (cluster, user) = current(&file);
        seen.0.extend(Seen::of(named(cluster.as_ref(), user.as_ref())).0);
        let config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
        self.complete(config, cluster.and_then(|cluster| cluster.proxy_url).as_deref())
    }

    fn complete(&self, mut config: Config, proxy_url: Option<&str>) -> Result<Credentials, ClientError> {
        let origin = match self {
            Self::Kubeconfig(path) => format!("kubeconfig {path:?}"),
            Self::ServiceAccount => "the ServiceAccount".to_owned(),
        };
        // A file without a certificate, or one that is being written, would make every server a stranger.
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(ClientError::NoAuthority { origin });
        }
        let variable = |name: &str| env::var(name).ok();
        let proxy = proxy::choose(&config.cluster_url, proxy_url, variable)
            .map_err(|source| ClientError::Proxy { origin: origin.clone(), source })?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        config.default_retry = false;
        let agent = HeaderValue::from_static(concat!("balancing-agent/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        Ok(Credentials { config, proxy, origin })
    }
}

impl Credentials {
    /// Namespace and server.
    pub(super) fn place(&self) -> (String, String) {
        let server = self.config.cluster_url.to_string();
        (self.config.default_namespace.clone(), server.trim_end_matches('/').to_owned())
    }

    /// Makes a client of them; nothing is asked yet.
    pub(super) fn client(self) -> Result<Client, ClientError> {
        let Self { config, proxy, origin } = self;
        stack::client(config, proxy.as_ref()).map_err(|source| ClientError::Credentials { origin, source })
    }
}

impl Seen {
    fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), content(&path))).collect())
    }

    /// Whether the files say what they said.
    pub(super) fn is_current(&self) -> bool {
        self.0.iter().all(|(path, seen)| content(path) == *seen)
    }
}

/// A hash of what is in a file, `None` when it cannot be read. Times and inodes would miss a file that is written twice
/// within a tick of the clock.
fn content(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    fs::read(path).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

/// Cluster and user of the current context.
fn current(file: &Kubeconfig) -> (Option<Cluster>, Option<AuthInfo>) {
    let named = file.contexts.iter().find(|context| Some(&context.name) == file.current_context.as_ref());
    let Some(context) = named.and_then(|context| context.context.as_ref()) else { return (None, None) };
    let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let user = file.auth_infos.iter().find(|user| Some(&user.name) == context.user.as_ref());
    (cluster.and_then(|it| it.cluster.clone()), user.and_then(|it| it.auth_info.clone()))
}

/// The files that a kubeconfig names.
fn named(cluster: Option<&Cluster>, user: Option<&AuthInfo>) -> Vec<PathBuf> {
    let of_cluster = cluster.and_then(|cluster| cluster.certificate_authority.clone());
    let of_user =
        user.map(|user| [&user.client_certificate, &user.client_key, &user.token_file].map(Clone::clone));
    of_cluster.into_iter().chain(of_user.into_iter().flatten().flatten()).map(PathBuf::from).collect()
}
