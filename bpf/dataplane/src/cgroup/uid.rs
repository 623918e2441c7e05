//! The UID of a pod as a part of file names.

use std::{fmt, str::FromStr};

use super::Error;

/// Prefix of temporary names; no UID begins with it.
const RESERVED: &str = "tmp-";

/// A pod UID that is safe in every path: 1 to 64 characters of `[0-9A-Za-z-]`, no dash first.
///
/// The API server's UIDs are RFC 4122; those of static pods are 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// Checks a UID.
    ///
    /// # Errors
    /// [`Error::InvalidUid`].
    pub fn new(uid: &str) -> Result<Self, Error> {
        let fits = (1..=64).contains(&uid.len())
            && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !uid.starts_with('-')
            && !uid.starts_with(RESERVED);
        if fits { Ok(Self(uid.to_owned())) } else { Err(Error::InvalidUid { uid: uid.to_owned() }) }
    }

    /// The UID as Kubernetes writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UID as the systemd driver writes it, where a dash means a parent slice.
    #[must_use]
    pub(super) fn underscored(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PodUid {
    type Err = Error;

    fn from_str(uid: &str) -> Result<Self, Error> {
        Self::new(uid)
    }
}
