//! The client of one set of credentials: what a request passes on its way to a socket.
//!
//! The same layers as kube's own, over sockets of ours. It reads no file and decides nothing about credentials.

use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config, Error,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder};

use super::{CONNECT_TIMEOUT, connector::Connector};

/// Makes the client; nothing is asked yet.
pub(super) fn client(config: Config) -> Result<Client, Error> {
    let mut connector =
        TimeoutConnector::new(config.rustls_https_connector_with_connector(Connector::new(CONNECT_TIMEOUT))?);
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
