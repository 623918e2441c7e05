//! Servers that break things in the middle.

use super::*;

/// Streams that break in the middle, or never tell that they are complete.
#[tokio::test]
async fn pages_bring_what_a_stream_does_not() {
    for quirk in [Quirk::CutsStreams, Quirk::WithholdsMarks] {
        let fake = Fake::start().await;
        fake.world().quirk = Some(quirk);
        for name in ["a", "b", "c"] {
            fake.world().put("pods", pod(name, "10.0.0.1"));
        }
        let mut harness = Harness::start(&fake, &node_scope());
        harness.until("synced", |h| h.synced).await;
        assert_eq!((harness.known.len(), harness.problems()), (3, Vec::new()), "{quirk:?}");
        assert_eq!(fake.world().asked.0, RESOURCES.len(), "{quirk:?}: streams are not tried again at once");
        assert!(harness.stats.kinds().all(|kind| kind.errors() == 1), "{quirk:?}");
    }
}

#[tokio::test]
async fn an_object_that_goes_while_it_is_listed_is_gone() {
    let fake = Fake::start().await;
    fake.world().quirk = Some(Quirk::DeletesMeanwhile);
    for name in ["a", "b"] {
        fake.world().put("pods", pod(name, "10.0.0.1"));
    }
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced).await;
    assert_eq!(harness.titles(), ["Pod default/b"]);
}

/// A server, or a proxy before it, that ends everything at once is asked less and less often.
#[tokio::test]
async fn nothing_that_the_server_does_makes_it_spin() {
    for quirk in [Quirk::CutsWatches, Quirk::ForgetsAtOnce] {
        let fake = Fake::start().await;
        fake.world().quirk = Some(quirk);
        let mut harness = Harness::start(&fake, &node_scope());
        harness.until("synced", |h| h.synced).await;
        sleep(Duration::from_secs(4)).await;
        let (streams, watches) = fake.world().asked;
        assert!(streams + watches < 15 * RESOURCES.len(), "{quirk:?}: {streams} streams, {watches} watches");
        assert!(streams + watches > 2 * RESOURCES.len(), "{quirk:?}: it goes on");
    }
}

/// An etcd that was restored gives versions a second time. A watch from a version that is yet to come is silent.
#[tokio::test]
async fn data_that_went_back_are_listed_anew() {
    let fake = Fake::start().await;
    fake.world().put("pods", pod("a", "10.0.0.1"));
    for name in ["b", "c", "d"] {
        fake.world().put("pods", pod(name, "10.0.0.1"));
    }
    let mut harness = Harness::start(&fake, &node_scope());
    harness.until("synced", |h| h.synced && fake.world().watches() == RESOURCES.len()).await;
    {
        let mut world = fake.world();
        world.answers = RESOURCES.iter().map(|resource| (*resource, 503)).collect();
        world.go_back(1, &["b", "c", "d"]);
    }
    harness.until("reported", |h| !h.problems().is_empty()).await;
    fake.world().answers.clear();
    harness.until("gone", |h| h.problems().is_empty() && h.known.len() == 1).await;
    fake.world().put("pods", pod("e", "10.0.0.1"));
    harness.until("changes come again", |h| h.pod("e").is_some()).await;
}
