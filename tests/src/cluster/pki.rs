//! Keys and certificates of a control plane, and the kubeconfig files that name them.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::{ADDRESS, server_url};
use crate::{TempDir, must::Must};

/// The first address of the Service range, which the API server gives to its own Service.
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// Files of a control plane. Every user has an own kubeconfig with a client certificate.
#[derive(Debug)]
pub(super) struct Pki {
    authority: Authority,
    /// Certificate and key of the API server.
    pub(super) server: (PathBuf, PathBuf),
    /// Public and private key of the tokens of ServiceAccounts.
    pub(super) tokens: (PathBuf, PathBuf),
    /// Kubeconfig of a user who may do everything.
    pub(super) admin: PathBuf,
    /// Kubeconfig of the controller manager.
    pub(super) controller_manager: PathBuf,
    /// Kubeconfig of the scheduler.
    pub(super) scheduler: PathBuf,
}

impl Pki {
    /// Makes everything anew.
    pub(super) fn create(files: &TempDir) -> Self {
        let authority = Authority::create(files);
        let server = authority.certify(files, "api-server", params("kube-apiserver", None, server_names()));
        let user = |file: &str, name: &str, group: Option<&str>| {
            authority.user_kubeconfig(files, file, (name, group), "default")
        };
        let tokens = new_key();
        Self {
            server,
            tokens: (
                files.write("tokens.pub", tokens.public_key_pem()),
                files.write("tokens.key", tokens.serialize_pem()),
            ),
            admin: user("admin", "admin", Some("system:masters")),
            controller_manager: user("controllers", "system:kube-controller-manager", None),
            scheduler: user("scheduler", "system:kube-scheduler", None),
            authority,
        }
    }

    /// Certificate of the authority that signed everything.
    pub(super) fn authority(&self) -> &PathBuf {
        &self.authority.certificate
    }

    /// Writes a kubeconfig with a new client certificate of a user of a group.
    pub(super) fn user_kubeconfig(
        &self,
        files: &TempDir,
        name: &str,
        group: &str,
        namespace: &str,
    ) -> PathBuf {
        self.authority.user_kubeconfig(files, &format!("user-{name}"), (name, Some(group)), namespace)
    }

    /// Writes a kubeconfig for the bearer of a token.
    pub(super) fn token_kubeconfig(
        &self,
        files: &TempDir,
        file: &str,
        namespace: &str,
        token: &str,
    ) -> PathBuf {
        write_kubeconfig(files, file, self.authority(), &json!({"token": token}), namespace)
    }
}

#[derive(Debug)]
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    fn create(files: &TempDir) -> Self {
        let mut params = params("test-authority", None, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clear();
        let key = new_key();
        let certificate = params.self_signed(&key).must("sign the authority's certificate");
        let certificate = files.write("authority.crt", certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Writes a new certificate and its key.
    fn certify(&self, files: &TempDir, file: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).must(format_args!("certify {file}"));
        let certificate = files.write(&format!("{file}.crt"), certificate.pem());
        (certificate, files.write(&format!("{file}.key"), key.serialize_pem()))
    }

    /// Writes the kubeconfig of a user, who may be of a group.
    fn user_kubeconfig(
        &self,
        files: &TempDir,
        file: &str,
        (name, group): (&str, Option<&str>),
        namespace: &str,
    ) -> PathBuf {
        let (certificate, key) = self.certify(files, file, params(name, group, Vec::new()));
        let user = json!({"client-certificate": certificate, "client-key": key});
        write_kubeconfig(files, file, &self.certificate, &user, namespace)
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().must("generate a key")
}

fn server_names() -> Vec<String> {
    let names = ["localhost", "127.0.0.1", ADDRESS, SERVICE_ADDRESS, "kubernetes.default.svc"];
    names.map(str::to_owned).into()
}

/// A certificate of a user or server. The API server takes CN as the user and O as the group:
/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates>
fn params(user: &str, group: Option<&str>, names: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(names).must(format_args!("describe the certificate of {user}"));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn write_kubeconfig(
    files: &TempDir,
    file: &str,
    authority: &PathBuf,
    user: &Value,
    namespace: &str,
) -> PathBuf {
    let cluster = json!({"server": server_url(), "certificate-authority": authority});
    // YAML is a superset of JSON.
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": file, "namespace": namespace}}],
        "current-context": "test",
    });
    files.write(&format!("{file}.kubeconfig"), kubeconfig.to_string())
}
