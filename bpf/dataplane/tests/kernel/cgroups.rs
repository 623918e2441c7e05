//! Finding pods on a real cgroup2.

use std::{fs, time::Duration};

use balancing_dataplane::cgroup::{self, CgroupDir, Error, PodUid};

use crate::fixture::{Fixture, UID};

fn uid() -> PodUid {
    PodUid::new(UID).unwrap()
}

#[test]
fn c10_by_the_runtimes_path_then_by_uid_then_by_search() {
    let Some(fixture) = Fixture::new("find") else { return };
    let find = |hint| cgroup::find(&fixture.cgroups, &uid(), hint, Duration::ZERO);
    assert!(matches!(find(None), Err(Error::NotFound { .. })));

    let searched = fixture.make_cgroup(&format!("custom/kubepods/pod{UID}"));
    assert_eq!(find(None).unwrap().id(), searched.id());
    let expected = fixture.make_pod(UID);
    assert_eq!(find(None).unwrap().id(), expected.id());
    let named = fixture.make_cgroup("somewhere/else");
    assert_eq!(find(Some("/somewhere/else/")).unwrap().id(), named.id());
    let slice = fixture.make_cgroup("x.slice/x-y.slice");
    assert_eq!(find(Some("x-y.slice")).unwrap().id(), slice.id());
    assert_eq!(find(Some("/not/there")).unwrap().id(), expected.id());
    assert!(matches!(find(Some("/../..")), Err(Error::InvalidPath { .. })));
}

#[test]
fn d17_a_directory_that_appears_late_is_awaited() {
    let Some(fixture) = Fixture::new("late") else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            fixture.make_pod(UID)
        });
        let found = cgroup::find(&fixture.cgroups, &uid(), None, Duration::from_secs(20)).unwrap();
        assert_eq!(found.id(), CgroupDir::open(found.path()).unwrap().id());
    });
}

#[test]
fn d19_two_places_of_one_pod_are_an_error() {
    let Some(fixture) = Fixture::new("ambiguous") else { return };
    fixture.make_pod(UID);
    fixture.make_cgroup(&format!("kubepods/pod{UID}"));
    let error = cgroup::find(&fixture.cgroups, &uid(), None, Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
}

#[test]
fn d16_d21_a_search_enters_no_other_pod() {
    let Some(fixture) = Fixture::new("many") else { return };
    for number in 0..100 {
        fs::create_dir_all(fixture.cgroups.join(format!("r/kubepods/pod{number:032}/c"))).unwrap();
    }
    let error = cgroup::find(&fixture.cgroups, &uid(), None, Duration::ZERO).unwrap_err();
    // The root, `r` and `kubepods`: no pod is entered.
    assert!(matches!(error, Error::NotFound { directories: 3, .. }), "{error}");
}
