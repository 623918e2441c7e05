//! Errors of the client → what is wrong, whom it concerns and what to do about it.

use std::{error::Error as _, fmt, io};

use kube::{Error, core::Status};

use super::kind::Kind;

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Watch,
}

/// Why a list or watch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It concerns all kinds alike.
    Server(Trouble, String),
    /// It concerns this kind: the server does not know it.
    Missing(String),
    /// It concerns this kind.
    Kind(String),
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Unreachable,
    Rejects,
    Ails,
    NoCredentials,
}

/// What to do after an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The version is too old; only a new list helps, and nothing is wrong.
    Expired,
    /// Try the same again.
    Again(Failure),
    /// Begin with a list: the version may be what the server does not like.
    Relist(Failure),
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Watch => "watch",
        })
    }
}

impl Trouble {
    /// In words, from a point in time on.
    pub(super) fn since(self, since: impl fmt::Display, cause: &str) -> String {
        let what = match self {
            Self::Unreachable => "not reachable since",
            Self::Rejects => "does not accept the agent's credentials since",
            Self::Ails => "answers with errors since",
            Self::NoCredentials => "no credentials for it since",
        };
        let remedy = match self {
            Self::Unreachable | Self::Ails => "",
            Self::Rejects => "renew the token or certificate; ",
            Self::NoCredentials => "correct the token file or the command that the kubeconfig names; ",
        };
        format!("{what} {since}: {cause}; {remedy}the last known state stays in force")
    }
}

/// Judges an error.
pub(super) fn judge(kind: Kind, verb: Verb, error: &Error) -> Verdict {
    match error {
        Error::Api(status) => judge_status(kind, verb, status),
        Error::Auth(_) => Verdict::Again(Failure::Server(Trouble::NoCredentials, innermost(error))),
        Error::SerdeError(_) | Error::FromUtf8(_) | Error::BuildRequest(_) => {
            Verdict::Relist(Failure::Kind(cannot(kind, verb, &error.to_string())))
        }
        _ => Verdict::Again(Failure::Server(Trouble::Unreachable, innermost(error))),
    }
}

/// Judges an error that the server reports.
pub(super) fn judge_status(kind: Kind, verb: Verb, status: &Status) -> Verdict {
    let text = one_line(if status.message.is_empty() { &status.reason } else { &status.message });
    let code = status.code;
    match code {
        410 => Verdict::Expired,
        401 => Verdict::Again(Failure::Server(Trouble::Rejects, text)),
        403 => Verdict::Again(Failure::Kind(forbidden(kind, verb, &text))),
        404 => Verdict::Relist(Failure::Missing(missing(kind))),
        // "Too large resource version" is one of these: the data of the server is older than ours (Kubernetes,
        // "API Concepts", Unavailable resource versions).
        504 => Verdict::Relist(Failure::Server(Trouble::Ails, format!("{code} {text}"))),
        429 | 500..=599 => Verdict::Again(Failure::Server(Trouble::Ails, format!("{code} {text}"))),
        _ => Verdict::Relist(Failure::Kind(cannot(kind, verb, &format!("{code} {text}")))),
    }
}

fn missing(kind: Kind) -> String {
    if kind.is_ours() {
        "the API server does not know this kind; install the CRDs with \
         `balancing-agent crds | kubectl apply -f -`; what was known of it stays in force"
            .to_owned()
    } else {
        "the API server does not know this kind; check that the URL is that of a Kubernetes API server; what was \
         known of it stays in force"
            .to_owned()
    }
}

fn forbidden(kind: Kind, verb: Verb, text: &str) -> String {
    let (plural, group) = (kind.plural(), kind.group());
    format!(
        "not allowed to {verb} {plural}: {text}; allow the agent list and watch on {plural} of apiGroup {group:?} \
         (RBAC); what was known of them stays in force"
    )
}

fn cannot(kind: Kind, verb: Verb, cause: &str) -> String {
    format!("cannot {verb} {}: {cause}; what was known of them stays in force", kind.plural())
}

/// What to say of an error that a write met.
pub(crate) fn cause(error: &Error) -> String {
    match error {
        Error::Api(status) if status.code == 401 => {
            "the API server does not accept the agent's credentials; renew the \
                                                      token or certificate"
                .to_owned()
        }
        Error::Api(status) if !status.message.is_empty() => one_line(&status.message),
        other => innermost(other),
    }
}

/// The cause at the end of the chain, which is the one that says something.
fn innermost(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.downcast_ref().is_some_and(timed_out) {
            return "no answer in time".to_owned();
        }
        text = cause.to_string();
        source = cause.source();
    }
    one_line(&text)
}

/// An error inside an [`io::Error`] is not among its sources.
fn timed_out(error: &io::Error) -> bool {
    let inner = || error.get_ref().and_then(|inner| inner.downcast_ref());
    error.kind() == io::ErrorKind::TimedOut || inner().is_some_and(timed_out)
}

/// Text that others wrote, on one line and not endless.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} (shortened)", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Verdict {
        judge_status(Kind::BalancingPolicy, Verb::Watch, &Status::failure("no\n way", "Why").with_code(code))
    }

    #[test]
    fn codes_mean_what_they_mean() {
        assert_eq!(status(410), Verdict::Expired);
        assert_eq!(status(503), Verdict::Again(Failure::Server(Trouble::Ails, "503 no way".to_owned())));
        assert!(matches!(status(504), Verdict::Relist(Failure::Server(Trouble::Ails, _))));
        assert!(matches!(status(401), Verdict::Again(Failure::Server(Trouble::Rejects, _))));
        assert!(matches!(status(400), Verdict::Relist(Failure::Kind(_))));
        let Verdict::Relist(Failure::Missing(text)) = status(404) else { panic!("{:?}", status(404)) };
        assert!(text.contains("balancing-agent crds | kubectl apply -f -"), "{text}");
        let Verdict::Again(Failure::Kind(text)) = status(403) else { panic!("{:?}", status(403)) };
        for part in ["watch balancingpolicies", "no way", "RBAC", "balancing.elf.io"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn only_our_kinds_have_crds() {
        let verdict = judge_status(Kind::Pod, Verb::List, &Status::failure("", "NotFound").with_code(404));
        let Verdict::Relist(Failure::Missing(text)) = verdict else { panic!("{verdict:?}") };
        assert!(!text.contains("crds"), "{text}");
    }

    #[test]
    fn the_cause_is_the_innermost_one() {
        let refused = std::io::Error::from_raw_os_error(111);
        let error = Error::Service(Box::new(std::io::Error::other(refused)));
        let verdict = judge(Kind::Pod, Verb::List, &error);
        let Verdict::Again(Failure::Server(Trouble::Unreachable, cause)) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(cause, "Connection refused (os error 111)");
        let line = Trouble::Unreachable.since("2026-01-01T00:00:00Z", &cause);
        assert_eq!(
            line,
            "not reachable since 2026-01-01T00:00:00Z: Connection refused (os error 111); the last known state stays \
             in force"
        );
    }

    #[test]
    fn a_timeout_is_called_one() {
        let error = Error::Service(Box::new(io::Error::other(io::Error::from(io::ErrorKind::TimedOut))));
        assert_eq!(innermost(&error), "no answer in time");
    }

    #[test]
    fn long_texts_are_cut() {
        assert!(one_line(&"ä b\n".repeat(1000)).chars().count() < 320);
    }
}
