//! Symbolic links, as a mounted ConfigMap has them and as people make them.

use std::fs;

use super::{DEADLINE, Harness, nodes, one, symlink, write};

/// Writes a new version of a mounted ConfigMap the way the kubelet does: a new directory, then one rename.
fn publish(h: &Harness, stamp: &str, files: &[(&str, &str)]) {
    for (name, text) in files {
        write(&h.path(&format!("..{stamp}/{name}")), text);
    }
    symlink(format!("..{stamp}"), h.path("..data_tmp")).unwrap();
    fs::rename(h.path("..data_tmp"), h.path("..data")).unwrap();
}

#[tokio::test]
async fn a_mounted_config_map() {
    let mut h = Harness::with(&[]).await;
    publish(&h, "v1", &[("a.yaml", &one("a")), ("b.yaml", &one("b")), ("sub/c.yaml", &one("c"))]);
    for name in ["a.yaml", "b.yaml", "sub"] {
        symlink(format!("..data/{name}"), h.path(name)).unwrap();
    }
    h.expect(&["a", "b", "c"]).await;
    h.log.clear();
    let c2 = nodes(&[("c", "2"), ("d", "1")]);
    publish(&h, "v2", &[("a.yaml", &nodes(&[("a", "2")])), ("b.yaml", &one("b")), ("sub/c.yaml", &c2)]);
    h.expect(&["a", "b", "c", "d"]).await;
    h.expect_version("a", "2").await;
    h.expect_version("c", "2").await;
    fs::remove_dir_all(h.path("..v1")).unwrap();
    publish(&h, "v3", &[("a.yaml", &nodes(&[("a", "3")])), ("sub/c.yaml", &c2)]);
    h.expect_version("a", "3").await;
    h.expect_problems(&[("b.yaml", "cannot be read")]).await;
    h.expect(&["a", "b", "c", "d"]).await;
    fs::remove_file(h.path("b.yaml")).unwrap();
    h.expect(&["a", "c", "d"]).await;
    assert_eq!(h.log, ["+a", "+c", "+d", "+a", "-b"]);
}

#[tokio::test]
async fn a_link_is_replaced() {
    let mut h = Harness::with(&[(".1", &one("a")), (".2", &nodes(&[("a", "2")]))]).await;
    symlink(".1", h.path("a.yaml")).unwrap();
    h.expect(&["a"]).await;
    symlink(".2", h.path(".new")).unwrap();
    fs::rename(h.path(".new"), h.path("a.yaml")).unwrap();
    h.expect_version("a", "2").await;
    // The file behind the link is written; its name is hidden, the link's is not.
    fs::write(h.path(".2"), nodes(&[("a", "3")])).unwrap();
    h.expect_version("a", "3").await;
}

#[tokio::test]
async fn a_link_out_of_the_directory_is_followed_by_the_rescan() {
    let temp = tempfile::TempDir::new().unwrap();
    let outside = temp.path().join("outside.yaml");
    write(&outside, &one("a"));
    fs::create_dir(temp.path().join("root")).unwrap();
    symlink("../outside.yaml", temp.path().join("root/a.yaml")).unwrap();
    let mut h = Harness::start(temp, |source| source.rescan = std::time::Duration::from_millis(10));
    h.expect(&["a"]).await;
    fs::write(&outside, nodes(&[("a", "2")])).unwrap();
    h.expect_version("a", "2").await;
}

#[tokio::test]
async fn a_linked_directory_that_vanishes_keeps_its_objects() {
    let temp = tempfile::TempDir::new().unwrap();
    let (outside, away) = (temp.path().join("outside"), temp.path().join("away"));
    write(&outside.join("deep/a.yaml"), &one("a"));
    write(&temp.path().join("root/b.yaml"), &one("b"));
    symlink("../outside", temp.path().join("root/sub")).unwrap();
    let mut h = Harness::start(temp, |source| source.rescan = std::time::Duration::from_millis(10));
    h.expect(&["a", "b"]).await;
    fs::rename(&outside, &away).unwrap();
    h.expect_problems(&[("sub", "what was known below it is kept")]).await;
    h.put("b.yaml", &nodes(&[("b", "2")]));
    h.expect_version("b", "2").await;
    h.expect(&["a", "b"]).await;
    fs::write(away.join("deep/a.yaml"), nodes(&[("a", "2")])).unwrap();
    fs::rename(&away, &outside).unwrap();
    h.expect_version("a", "2").await;
    h.expect_problems(&[]).await;
    assert_eq!(h.log, ["+a", "+b", "+b", "+a"]);
}

#[tokio::test]
async fn links_in_circles() {
    let mut h = Harness::with(&[("sub/a.yaml", &one("a"))]).await;
    symlink("..", h.path("sub/up")).unwrap();
    h.expect_problems(&[("sub/up", "is a link to a directory above it")]).await;
    symlink("self.yaml", h.path("self.yaml")).unwrap();
    h.expect_problems(&[("self.yaml", "cannot be read"), ("sub/up", "")]).await;
    fs::remove_file(h.path("self.yaml")).unwrap();
    fs::remove_file(h.path("sub/up")).unwrap();
    h.expect_problems(&[]).await;
    h.expect(&["a"]).await;
}

#[tokio::test]
async fn a_link_to_nowhere_is_reported_and_may_be_mended() {
    let mut h = Harness::with(&[]).await;
    symlink(".target", h.path("a.yaml")).unwrap();
    h.expect_problems(&[("a.yaml", "cannot be read")]).await;
    fs::write(h.path(".target"), one("a")).unwrap();
    h.expect(&["a"]).await;
    h.expect_problems(&[]).await;
    let waited = std::time::Instant::now();
    fs::remove_file(h.path("a.yaml")).unwrap();
    h.expect(&[]).await;
    assert!(waited.elapsed() < DEADLINE);
}
