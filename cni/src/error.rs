//! Errors as the CNI specification wants them: a code, a message, details.

use std::io::ErrorKind;

use balancing_dataplane::{cgroup, links, mount, records};

use crate::version::Version;

/// Codes of the CNI specification (section "Error") below 100, our own from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration's version is not spoken, or has no such command.
    Version = 1,
    /// Nothing is known of the container.
    UnknownContainer = 3,
    /// A variable is missing or malformed.
    Environment = 4,
    /// A system call failed.
    Io = 5,
    /// The input is not JSON of the expected shape.
    Decode = 6,
    /// A key of the configuration is missing or has a value that is not allowed.
    Config = 7,
    /// Later it may work: the agent has not pinned its programs yet, the pod's cgroup is being replaced.
    TryAgain = 11,
    /// STATUS: pods cannot be attached now.
    NotAvailable = 50,
    /// STATUS: nor do pods have their links that were attached before.
    Degraded = 51,
    /// The pod has no cgroup, or nothing tells which pod it is.
    CgroupNotFound = 100,
    /// The pod's cgroup is not on cgroup2.
    NotCgroup2 = 101,
    /// A program attached to an ancestor tolerates no other.
    Exclusive = 102,
    /// The kernel lacks a feature.
    Kernel = 104,
    /// 64 programs are attached already.
    TooMany = 105,
    /// CHECK: the links are not those that ADD made.
    Links = 106,
    /// A bug.
    Internal = 999,
}

/// Who may have denied a system call.
const DENIED: &str = "; the container runtime has to run its plugins as root with CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN), \
                      and no rule of SELinux, AppArmor or lockdown may deny them bpf(2)";

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{msg}: {details} (code {})", *.code as u32)]
pub(crate) struct CniError {
    pub(crate) code: Code,
    msg: String,
    details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The error object of the specification, one line.
    pub(crate) fn to_json(&self, version: Version) -> String {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        format!(
            "{{\"cniVersion\":\"{}\",\"code\":{},\"msg\":{},\"details\":{}}}\n",
            version.as_str(),
            self.code as u32,
            text(&self.msg),
            text(&self.details)
        )
    }
}

impl From<cgroup::Error> for CniError {
    fn from(error: cgroup::Error) -> Self {
        use cgroup::Error as E;
        let code = match &error {
            E::InvalidUid { .. } => Code::Environment,
            E::InvalidPath { .. } => Code::Config,
            E::NotFound { .. } | E::Ambiguous { .. } => Code::CgroupNotFound,
            E::NotCgroup2 { .. } => Code::NotCgroup2,
            E::Io { .. } => Code::Io,
        };
        Self::new(code, "cannot find the pod's cgroup", error.to_string())
    }
}

impl From<mount::Error> for CniError {
    fn from(error: mount::Error) -> Self {
        use mount::Error as E;
        let code = match &error {
            E::NoCgroup2 { .. } => Code::NotCgroup2,
            E::Table { .. } | E::Examine { .. } | E::MountBpffs { .. } => Code::Io,
        };
        Self::new(code, "cannot use the host's file systems", error.to_string())
    }
}

impl From<links::Error> for CniError {
    fn from(error: links::Error) -> Self {
        use links::Error as E;
        let code = match &error {
            E::ProgramsMissing { .. } | E::CgroupGone { .. } | E::Locked { .. } => Code::TryAgain,
            E::Exclusive { .. } => Code::Exclusive,
            E::TooMany { .. } => Code::TooMany,
            E::Unsupported { .. } => Code::Kernel,
            E::Foreign { .. } | E::Cgroup(_) | E::Io { .. } => Code::Io,
        };
        let hint = match &error {
            E::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => DENIED,
            _ => "",
        };
        Self::new(code, "cannot attach the pod", format!("{error}{hint}"))
    }
}

impl From<records::Error> for CniError {
    fn from(error: records::Error) -> Self {
        Self::new(Code::Io, "cannot use the record of the attachment", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use super::*;

    #[test]
    fn a15_the_object_survives_any_text() {
        let error = CniError::new(Code::Config, "a \"b\"\n\u{1}", "\\ é");
        let value: serde_json::Value = serde_json::from_str(&error.to_json(Version::V0_3_1)).unwrap();
        let expected = serde_json::json!({
            "cniVersion": "0.3.1", "code": 7, "msg": "a \"b\"\n\u{1}", "details": "\\ é",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn e23_codes_of_what_only_a_broken_host_shows() {
        let source = || io::Error::from_raw_os_error(22);
        let path = || PathBuf::from("/p");
        let cases: [(CniError, u32); 6] = [
            (links::Error::TooMany { hook: "connect4", cgroup: path() }.into(), 105),
            (
                links::Error::Exclusive { hook: "connect4", cgroup: path(), holder: "x".to_owned() }.into(),
                102,
            ),
            (links::Error::Unsupported { hook: "connect4", source: source() }.into(), 104),
            (links::Error::CgroupGone { cgroup: path() }.into(), 11),
            (mount::Error::NoCgroup2 { v1: vec![path()] }.into(), 101),
            (links::Error::Io { operation: "pin", path: path(), source: source() }.into(), 5),
        ];
        for (error, code) in cases {
            assert_eq!(error.code as u32, code, "{error}");
        }
    }
}
