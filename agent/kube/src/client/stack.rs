//! The client of one set of credentials: what a request passes on its way to a socket.
//!
//! The same layers as kube's own, over sockets of ours. It reads no file and decides nothing about credentials.

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::{
        legacy::{
            self,
            connect::{
                Connection,
                proxy::{SocksV5, Tunnel},
            },
        },
        proxy::matcher::Intercept,
    },
    rt::TokioExecutor,
};
use kube::{
    Client, Config, Error,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::AuthInfo,
};
use tower::{BoxError, Service, ServiceBuilder};

use super::{CONNECT_TIMEOUT, connector::Connector};

/// Makes the client; nothing is asked yet.
pub(super) fn client(config: Config, proxy: Option<&Intercept>) -> Result<Client, Error> {
    let direct = Connector::new(CONNECT_TIMEOUT);
    let Some(proxy) = proxy else { return over(direct, config) };
    let uri = proxy.uri().clone();
    match uri.scheme_str() {
        Some("http") => over(tunnel(direct, proxy), config),
        Some("https") => {
            // The proxy has another name than the server, and is not told who we are there.
            let mut to_proxy = config.clone();
            to_proxy.tls_server_name = None;
            to_proxy.auth_info = AuthInfo::default();
            over(tunnel(to_proxy.rustls_https_connector_with_connector(direct)?, proxy), config)
        }
        _ => match proxy.raw_auth() {
            Some((user, password)) => {
                over(SocksV5::new(uri, direct).with_auth(user.to_owned(), password.to_owned()), config)
            }
            None => over(SocksV5::new(uri, direct), config),
        },
    }
}

fn tunnel<C>(to_proxy: C, proxy: &Intercept) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
    match proxy.basic_auth() {
        Some(header) => tunnel.with_auth(header.clone()),
        None => tunnel,
    }
}

fn over<C>(connector: C, config: Config) -> Result<Client, Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
