//! The container runtime, asked over its socket (CRI, `runtime.v1.RuntimeService`): what it is, and what it has loaded.
//!
//! Of the protocol only two calls are needed, so their messages stand here with the fields that are read.

use std::{collections::HashMap, path::Path, time::Duration};

use balancing_cni_install::directory::Runtime;
use hyper_util::rt::TokioIo;
use prost::Message;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

/// How long a runtime may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Runtimes from these versions on append drop-ins, for they are built with libcni 1.3.0.
const DROP_INS: [(&str, Runtime, (u32, u32)); 2] =
    [("containerd", Runtime::Containerd, (2, 1)), ("cri-o", Runtime::Crio, (1, 33))];

/// Why a runtime does not tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriError {
    /// Nobody listens.
    #[error("cannot connect to the runtime: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// It refused.
    #[error("the runtime answers {0}")]
    Refused(#[from] Status),
    /// It did not answer.
    #[error("the runtime did not answer in time")]
    Silent,
}

#[derive(Clone, PartialEq, Message)]
struct VersionRequest {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

/// What a runtime is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// How it chooses its network; `None` = nobody has looked how this one does.
    pub(crate) runtime: Option<Runtime>,
    /// It appends drop-ins.
    pub(crate) reads_drop_ins: bool,
    /// Its name and version, for people.
    pub(crate) title: String,
}

/// What a runtime has loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Types of the plugins of the network that pods get, in their order; `None` = it does not tell.
    pub(crate) chain: Option<Vec<String>>,
    /// What its last attempt failed with.
    pub(crate) failure: Option<String>,
}

/// What the runtime at a socket is.
pub(crate) async fn known(socket: &Path) -> Result<Known, CriError> {
    let request = VersionRequest { version: "v1".to_owned() };
    let answer: VersionResponse = call(socket, "/runtime.v1.RuntimeService/Version", request).await?;
    Ok(Known::of(&answer.runtime_name, &answer.runtime_version))
}

/// What the runtime at a socket has loaded.
pub(crate) async fn loaded(socket: &Path) -> Result<Loaded, CriError> {
    let request = StatusRequest { verbose: true };
    let answer: StatusResponse = call(socket, "/runtime.v1.RuntimeService/Status", request).await?;
    Ok(Loaded::of(&answer.info))
}

async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, CriError>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let asked = async {
        let mut client = Grpc::new(connect(socket).await?);
        client.ready().await?;
        let method = PathAndQuery::from_static(method);
        Ok(client.unary(Request::new(request), method, ProstCodec::default()).await?.into_inner())
    };
    timeout(PATIENCE, asked).await.unwrap_or(Err(CriError::Silent))
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let dial = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // The name is for the protocol only.
    Endpoint::from_static("http://runtime").connect_with_connector(tower::service_fn(dial)).await
}

impl Known {
    fn of(name: &str, version: &str) -> Self {
        let known = DROP_INS.iter().find(|(known, ..)| *known == name);
        let number = version_of(version);
        Self {
            runtime: known.map(|(_, runtime, _)| *runtime),
            reads_drop_ins: known.is_some_and(|(.., first)| number.is_some_and(|number| number >= *first)),
            title: format!("{name} {version}"),
        }
    }
}

/// Major and minor number of a version such as `v2.1.0-rc.1`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `cniconfig` of containerd's verbose status (go-cni, `ConfigResult`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigResult {
    #[serde(default)]
    networks: Vec<LoadedNetwork>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoadedNetwork {
    config: LoadedList,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoadedList {
    #[serde(default)]
    name: String,
    #[serde(default)]
    plugins: Vec<LoadedPlugin>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoadedPlugin {
    network: PluginType,
}

#[derive(Deserialize)]
struct PluginType {
    #[serde(rename = "type")]
    kind: String,
}

/// go-cni adds this network to each pod by itself.
const LOOPBACK: &str = "cni-loopback";

impl Loaded {
    fn of(info: &HashMap<String, String>) -> Self {
        let config = info.get("cniconfig").and_then(|text| serde_json::from_str::<ConfigResult>(text).ok());
        let chain = config.and_then(|config| {
            let network = config.networks.into_iter().find(|network| network.config.name != LOOPBACK)?;
            Some(network.config.plugins.into_iter().map(|plugin| plugin.network.kind).collect())
        });
        let failure = info.get("lastCNILoadStatus").map(|text| text.trim_matches('"').to_owned());
        Self { chain, failure: failure.filter(|text| !text.is_empty() && text != "OK") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_drop_ins() {
        for (name, version, reads) in [
            ("containerd", "v2.1.0", true),
            ("containerd", "2.1.0-rc.1", true),
            ("containerd", "v2.0.5", false),
            ("containerd", "1.7.28", false),
            ("containerd", "v10.0", true),
            ("cri-o", "1.33.0", true),
            ("cri-o", "1.32.9", false),
            ("docker", "29.0", false),
            ("containerd", "unknown", false),
        ] {
            assert_eq!(Known::of(name, version).reads_drop_ins, reads, "{name} {version}");
        }
        for (name, runtime) in
            [("cri-o", Some(Runtime::Crio)), ("containerd", Some(Runtime::Containerd)), ("docker", None)]
        {
            assert_eq!(Known::of(name, "1.34.1").runtime, runtime);
        }
    }

    #[test]
    fn g40_what_containerd_has_loaded() {
        let config = r#"{"PluginDirs":["/opt/cni/bin"],"Networks":[
            {"Config":{"Name":"cni-loopback","Plugins":[{"Network":{"type":"loopback"},"Source":"{}"}]},"IFName":"lo"},
            {"Config":{"Name":"net","CNIVersion":"1.0.0","Plugins":[
                {"Network":{"type":"bridge","ipam":{}},"Source":"{}"},{"Network":{"type":"balancing-cni"}}]},"IFName":"eth0"}]}"#;
        let info = |config: &str, status: &str| {
            HashMap::from([
                ("cniconfig".to_owned(), config.to_owned()),
                ("lastCNILoadStatus".to_owned(), status.to_owned()),
            ])
        };
        let loaded = Loaded::of(&info(config, "\"OK\""));
        assert_eq!(loaded.chain.unwrap(), ["bridge", "balancing-cni"]);
        assert_eq!(loaded.failure, None);
        let broken = Loaded::of(&info("null", "\"cni config load failed: invalid character\""));
        assert_eq!(broken.chain, None);
        assert_eq!(broken.failure.unwrap(), "cni config load failed: invalid character");
        assert_eq!(Loaded::of(&HashMap::new()), Loaded::default());
    }
}
