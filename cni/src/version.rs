//! The CNI versions that are spoken: those with plugin lists, 0.3.0 to 1.1.0.

/// A version of the CNI specification, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub(crate) const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The version to answer in when none is known.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// All, for people.
    pub(crate) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// Answer to VERSION, in the version of the question where that is known.
pub(crate) fn reply(asked: Option<Version>) -> String {
    let supported = Version::ALL.map(|version| format!("\"{}\"", version.as_str())).join(",");
    let version = asked.unwrap_or(Version::NEWEST).as_str();
    format!("{{\"cniVersion\":\"{version}\",\"supportedVersions\":[{supported}]}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_text_agree() {
        assert!(Version::ALL.is_sorted());
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        for other in ["", "0.1.0", "0.2.0", "0.5.0", "1.1", "1.2.0", "2.0.0", "foo", " 1.0.0"] {
            assert_eq!(Version::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_reply_is_json() {
        let value: serde_json::Value = serde_json::from_str(&reply(Version::parse("0.4.0"))).unwrap();
        assert_eq!(value["cniVersion"], "0.4.0");
        assert_eq!(value["supportedVersions"].as_array().unwrap().len(), 5);
    }
}
