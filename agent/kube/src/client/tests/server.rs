//! A TLS server whose certificate and taste in tokens change, and a proxy in front of it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// Answers every request of whoever has the right token: 200, else 401. A connection for each.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    tls: Arc<ServerConfig>,
    token: &'static str,
}

impl Server {
    /// A server, and the PEM of the authority that certifies it.
    pub(super) async fn start(token: &'static str) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (authority, tls) = certify();
        let state = Arc::new(Mutex::new(State { tls, token }));
        let server = Self { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, token) = {
                    let state = state.lock().unwrap();
                    (TlsAcceptor::from(Arc::clone(&state.tls)), state.token)
                };
                tokio::spawn(async move {
                    // A client that does not trust us ends here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    answer(stream, token).await.ok();
                });
            }
        });
        (server, authority)
    }

    /// Another authority certifies the server from now on; returns its PEM.
    pub(super) fn rotate(&self) -> String {
        let (authority, tls) = certify();
        self.state.lock().unwrap().tls = tls;
        authority
    }

    /// Only this token is good from now on.
    pub(super) fn accept(&self, token: &'static str) {
        self.state.lock().unwrap().token = token;
    }
}

fn certify() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = ServerConfig::builder().with_no_client_auth();
    (authority.pem(), Arc::new(tls.with_single_cert(vec![certificate.der().clone()], key).unwrap()))
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, token: &str) -> io::Result<()> {
    let head = head(&mut stream).await?.to_lowercase();
    let good = head.contains(&format!("authorization: bearer {token}\r\n"));
    let (status, body) = if good { ("200 OK", "welcome") } else { ("401 Unauthorized", "{}") };
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A proxy that speaks CONNECT and notes what it is asked.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = head(&mut stream).await.unwrap();
                let to = head.split(' ').nth(1).unwrap_or_default().to_owned();
                notes.lock().unwrap().push(head);
                let mut server = TcpStream::connect(to).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut stream, &mut server).await });
            }
        });
        Self { address, asked }
    }
}
