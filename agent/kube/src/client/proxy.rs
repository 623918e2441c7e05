//! Whether a proxy is between us and the API server: what a kubeconfig and the environment say about it.
//!
//! The rules are those of client-go: `proxy-url` of a kubeconfig counts before the environment, and `NO_PROXY` is about the
//! environment's proxies only. It makes no connection.

use std::net::IpAddr;

use http::{Uri, uri::Scheme};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// The proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its URL is none, or has a scheme that nobody here speaks. The URL itself may hold a password.
    #[error("{origin} names no proxy: its value must be a URL with scheme http, https or socks5")]
    Unusable {
        /// The field or the variable.
        origin: String,
    },
}

/// The proxy for a server: `given` is what the kubeconfig says, `environment` gives values of variables.
pub(super) fn choose(
    server: &Uri,
    given: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Intercept>, ProxyError> {
    if let Some(url) = given.filter(|url| !url.is_empty()) {
        return usable(server, url, "proxy-url of the kubeconfig").map(Some);
    }
    let either = |upper: &str| {
        let names = [upper.to_owned(), upper.to_lowercase()];
        names.into_iter().find_map(|name| Some((environment(&name).filter(|value| !value.is_empty())?, name)))
    };
    let is_plain = server.scheme() == Some(&Scheme::HTTP);
    let Some((url, origin)) = either(if is_plain { "HTTP_PROXY" } else { "HTTPS_PROXY" }) else {
        return Ok(None);
    };
    let proxy = usable(server, &url, &format!("variable {origin}"))?;
    let exempt = either("NO_PROXY").map(|(value, _)| value).unwrap_or_default();
    let exempted = Matcher::builder().all(url).no(exempt).build().intercept(server).is_none();
    Ok((!exempted && !is_loopback(server)).then_some(proxy))
}

fn usable(server: &Uri, url: &str, origin: &str) -> Result<Intercept, ProxyError> {
    let unusable = || ProxyError::Unusable { origin: origin.to_owned() };
    let proxy = Matcher::builder().all(url).build().intercept(server).ok_or_else(unusable)?;
    match proxy.uri().scheme_str() {
        Some("http" | "https" | "socks5" | "socks5h") => Ok(proxy),
        _ => Err(unusable()),
    }
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(server: &str, given: Option<&str>, environment: &[(&str, &str)]) -> Option<String> {
        let value = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let proxy = choose(&server.parse().unwrap(), given, value).unwrap_or_else(|error| panic!("{error}"));
        proxy.map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn the_kubeconfig_counts_first_then_the_environment() {
        let api = "https://api.example:6443";
        let environment = [("HTTPS_PROXY", "http://env:3128"), ("NO_PROXY", "api.example")];
        assert_eq!(chosen(api, Some("http://given:3128"), &environment).unwrap(), "http://given:3128/");
        assert_eq!(chosen(api, None, &environment), None);
        assert_eq!(chosen(api, Some(""), &environment[..1]).unwrap(), "http://env:3128/");
        assert_eq!(chosen(api, None, &[("https_proxy", "env:3128")]).unwrap(), "http://env:3128/");
        assert_eq!(chosen(api, None, &[("HTTP_PROXY", "http://env:3128")]), None);
        assert_eq!(chosen("http://api", None, &[("HTTP_PROXY", "http://env")]).unwrap(), "http://env/");
        assert_eq!(chosen(api, None, &[("HTTPS_PROXY", "")]), None);
    }

    #[test]
    fn whom_no_proxy_exempts() {
        let proxy = ("HTTPS_PROXY", "http://env:3128");
        for (server, exempt, expected) in [
            ("https://10.96.0.1", "10.96.0.0/16", false),
            ("https://10.97.0.1", "10.96.0.0/16, localhost", true),
            ("https://[fd00::1]:6443", "fd00::/64", false),
            ("https://a.cluster.local", ".cluster.local", false),
            ("https://api.example", "*", false),
            ("https://api.example", "example.com", true),
            ("https://127.0.0.1:6443", "", false),
            ("https://[::1]:6443", "", false),
            ("https://localhost:6443", "", false),
        ] {
            let found = chosen(server, None, &[proxy, ("no_proxy", exempt)]);
            assert_eq!(found.is_some(), expected, "{server} with {exempt:?}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_named_without_its_password() {
        let server = Uri::from_static("https://api.example");
        for url in ["ftp://user:secret@proxy", "socks4://user:secret@proxy"] {
            let error = choose(&server, Some(url), |_| None).unwrap_err().to_string();
            assert!(error.contains("proxy-url") && !error.contains("secret"), "{error}");
            let error = choose(&server, None, |name| (name == "https_proxy").then(|| url.to_owned()));
            assert!(error.unwrap_err().to_string().contains("https_proxy"));
        }
    }
}
