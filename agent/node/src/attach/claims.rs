//! Which object speaks for a pod that runs here. Pure.
//!
//! The object of a static pod is its mirror, and claims the pod's UID by an annotation. Anybody who may make pods can write that;
//! so the plugin's record decides who it is, and where several claim one UID without a record nothing is done to the pod.

use std::collections::BTreeMap;

use balancing_core::objects::Pod;
use balancing_dataplane::cgroup::PodUid;

/// An object and the pod that it speaks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub(super) pod: &'a Pod,
    /// The UID that the node knows.
    pub(super) uid: PodUid,
    /// Others claim the same, and nothing tells who is right.
    pub(super) is_contested: bool,
}

/// One claim for each pod. `is_known`: the object has spoken for the pod before; `recorded`: namespace and name of the pod in the
/// plugin's record.
pub(super) fn settle<'a>(
    pods: &[&'a Pod],
    is_known: impl Fn(&Pod, &PodUid) -> bool,
    recorded: impl Fn(&PodUid) -> Option<(String, String)>,
) -> Vec<Claim<'a>> {
    let mut claims: BTreeMap<PodUid, Vec<&'a Pod>> = BTreeMap::new();
    for pod in pods.iter().copied().filter(|pod| !pod.uid.is_empty() && !pod.finished) {
        if let Ok(uid) = PodUid::new(pod.node_uid()) {
            claims.entry(uid).or_default().push(pod);
        }
    }
    let settle_one = |(uid, mut pods): (PodUid, Vec<&'a Pod>)| {
        if let Some((namespace, name)) = recorded(&uid) {
            pods.retain(|pod| pod.static_uid.is_none() || (pod.namespace == namespace && pod.name == name));
        }
        let known = pods.iter().copied().find(|pod| is_known(pod, &uid));
        let is_contested = known.is_none() && pods.len() > 1;
        let pod = known.or_else(|| pods.first().copied())?;
        Some(Claim { pod, uid, is_contested })
    };
    claims.into_iter().filter_map(settle_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str, static_uid: Option<&str>) -> Pod {
        Pod {
            namespace: "ns".into(),
            name: name.into(),
            uid: uid.into(),
            static_uid: static_uid.map(Into::into),
            ..Pod::default()
        }
    }

    fn names(claims: &[Claim<'_>]) -> Vec<(String, bool)> {
        claims.iter().map(|claim| (claim.pod.name.clone(), claim.is_contested)).collect()
    }

    #[test]
    fn nobody_speaks_for_the_static_pod_of_another() {
        let (liar, mirror) = (pod("a-liar", "1", Some("s")), pod("mirror", "2", Some("s")));
        let both = [&liar, &mirror];
        let record = |name: &'static str| move |_: &PodUid| Some(("ns".to_owned(), name.to_owned()));
        let (nobody, nothing) = (|_: &Pod, _: &PodUid| false, |_: &PodUid| None);
        assert_eq!(names(&settle(&both, nobody, record("mirror"))), [("mirror".to_owned(), false)]);
        assert_eq!(names(&settle(&[&liar], nobody, record("mirror"))), []);
        assert_eq!(
            names(&settle(&both, |pod, _| pod.name == "mirror", nothing)),
            [("mirror".to_owned(), false)]
        );
        assert_eq!(names(&settle(&both, nobody, nothing)), [("a-liar".to_owned(), true)]);
        assert_eq!(names(&settle(&[&mirror], nobody, nothing)), [("mirror".to_owned(), false)]);
    }

    #[test]
    fn other_pods_are_who_they_are() {
        let pods = [pod("a", "1", None), pod("b", "2", None), pod("none", "", None)];
        let pods: Vec<&Pod> = pods.iter().collect();
        // A record without names, or with those that the pod had before, changes nothing.
        let told = |_: &PodUid| Some((String::new(), "x".to_owned()));
        let found = settle(&pods, |_, _| false, told);
        assert_eq!(names(&found), [("a".to_owned(), false), ("b".to_owned(), false)]);
    }
}
