//! `CNI_ARGS`: what the runtime tells about the pod.
//!
//! Accepts what the Go loader of libcni accepts: pairs separated by `;`, one `=` each, and keys that are not
//! known only with `IgnoreUnknown`.

use balancing_dataplane::cgroup::PodUid;

use crate::error::{CniError, Code};

/// Keys that a runtime sends and that say nothing to us.
const UNUSED: [&str; 1] = ["K8S_POD_INFRA_CONTAINER_ID"];

/// The pod of a call, as far as the runtime told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `K8S_POD_UID`: containerd 1.5.3 and CRI-O 1.22 and later.
    pub(crate) uid: Option<PodUid>,
    /// `K8S_POD_NAMESPACE`; empty when not told.
    pub(crate) namespace: String,
    /// `K8S_POD_NAME`; empty when not told.
    pub(crate) name: String,
}

impl Args {
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        if text.is_empty() {
            return Ok(args);
        }
        for pair in text.split(';') {
            let (key, value) = pair
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| invalid(format!("{pair:?} is not KEY=VALUE")))?;
            match key {
                "K8S_POD_UID" if value.is_empty() => args.uid = None,
                "K8S_POD_UID" => {
                    args.uid =
                        Some(PodUid::new(value).map_err(|error| invalid(format!("K8S_POD_UID: {error}")))?);
                }
                "K8S_POD_NAMESPACE" => args.namespace = value.to_owned(),
                "K8S_POD_NAME" => args.name = value.to_owned(),
                "IgnoreUnknown" => ignore_unknown = boolean(value)?,
                key if UNUSED.contains(&key) => {}
                key => unknown.push(key),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            Ok(args)
        } else {
            Err(invalid(format!("unknown keys {} without IgnoreUnknown=1", unknown.join(", "))))
        }
    }
}

fn boolean(value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(invalid(format!("IgnoreUnknown is {value:?}, not 1, true, 0 or false"))),
    }
}

fn invalid(details: String) -> CniError {
    CniError::new(Code::Environment, "CNI_ARGS is malformed", details)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [&str; 5] = [
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_NAME=web-0",
        "K8S_POD_INFRA_CONTAINER_ID=abc",
        "K8S_POD_UID=0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0",
    ];

    fn permutations(pairs: &[&str]) -> Vec<Vec<String>> {
        if pairs.is_empty() {
            return vec![Vec::new()];
        }
        (0..pairs.len())
            .flat_map(|first| {
                let rest: Vec<&str> = [&pairs[..first], &pairs[first + 1..]].concat();
                permutations(&rest).into_iter().map(move |mut tail| {
                    tail.insert(0, pairs[first].to_owned());
                    tail
                })
            })
            .collect()
    }

    #[test]
    fn c1_every_order_of_a_runtime() {
        let all = permutations(&PAIRS);
        assert_eq!(all.len(), 120);
        for order in all {
            let args = Args::parse(&order.join(";")).unwrap();
            assert_eq!(args.uid.unwrap().as_str(), "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0");
            assert_eq!((args.namespace.as_str(), args.name.as_str()), ("default", "web-0"));
        }
    }

    #[test]
    fn c2_sets_of_other_runtimes() {
        let uid = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
        let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc";
        for (runtime, text, told) in [
            ("CRI-O", format!("IgnoreUnknown=1;{pod};K8S_POD_UID={uid}"), Some(uid)),
            ("Multus", format!("IgnoreUnknown=true;{pod};K8S_POD_UID={uid}"), Some(uid)),
            ("cri-dockerd", format!("IgnoreUnknown=1;{pod}"), None),
            (
                "a delegate",
                format!("IgnoreUnknown=1;{pod};K8S_POD_UID={uid};MAC=0a:58:0a:01:00:05"),
                Some(uid),
            ),
        ] {
            let args = Args::parse(&text).unwrap();
            assert_eq!(args.uid.as_ref().map(PodUid::as_str), told, "{runtime}");
            assert_eq!((args.namespace.as_str(), args.name.as_str()), ("default", "web-0"), "{runtime}");
        }
    }

    #[test]
    fn c3_nothing_told_is_fine() {
        assert_eq!(Args::parse("").unwrap(), Args::default());
        assert_eq!(Args::parse("K8S_POD_UID=").unwrap(), Args::default());
    }

    #[test]
    fn c5_unknown_keys_need_permission() {
        for ignore in ["1", "true", "TRUE", "True"] {
            assert!(Args::parse(&format!("X=1;IgnoreUnknown={ignore};Y=2")).is_ok(), "{ignore}");
        }
        for text in ["X=1", "IgnoreUnknown=0;X=1", "X=1;IgnoreUnknown=false", "k8s_pod_uid=a"] {
            assert_eq!(Args::parse(text).unwrap_err().code, Code::Environment, "{text}");
        }
    }

    #[test]
    fn c6_malformed_pairs() {
        for text in ["a", "IgnoreUnknown=1;a=b=c", "IgnoreUnknown=1;", ";", "IgnoreUnknown=2", "K8S_POD_UID"]
        {
            assert_eq!(Args::parse(text).unwrap_err().code, Code::Environment, "{text}");
        }
    }

    #[test]
    fn c7_forms_of_uids() {
        let dashed = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
        for uid in [dashed, &dashed.to_uppercase(), &dashed.replace('-', "")] {
            assert_eq!(Args::parse(&format!("K8S_POD_UID={uid}")).unwrap().uid.unwrap().as_str(), uid);
        }
        for uid in [&dashed.replace('-', "_"), &"a".repeat(300)] {
            let error = Args::parse(&format!("K8S_POD_UID={uid}")).unwrap_err();
            assert_eq!(error.code, Code::Environment, "{uid}");
        }
    }

    #[test]
    fn c8_a_uid_that_could_climb_is_refused() {
        for uid in ["../x", "..", "a/b", "*", "[a]", ".*", "a?", "a b", "a\\b", "a_b", &"a".repeat(65)] {
            let error = Args::parse(&format!("K8S_POD_UID={uid}")).unwrap_err();
            assert!(error.to_string().contains("K8S_POD_UID"), "{error}");
        }
    }
}
