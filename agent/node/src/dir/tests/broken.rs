//! What cannot be read keeps what was known, and is reported.

use std::{fs, os::unix::net::UnixListener};

use tempfile::TempDir;

use super::{Harness, nodes, one, write};
use crate::dir::Limits;

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let mut h = Harness::with(&[("a.yaml", &one("a")), ("b.yaml", &one("b"))]).await;
    h.put("a.yaml", "kind: [");
    h.expect_problems(&[("a.yaml", "document 1 is not valid YAML")]).await;
    h.put("b.yaml", &nodes(&[("b", "2")]));
    h.expect_version("b", "2").await;
    h.expect(&["a", "b"]).await;
    h.put("a.yaml", &nodes(&[("a", "2")]));
    h.expect_version("a", "2").await;
    h.expect_problems(&[]).await;
    h.put("a.yaml", "kind: [");
    h.expect_problems(&[("a.yaml", "not valid YAML")]).await;
    fs::remove_file(h.path("a.yaml")).unwrap();
    h.expect(&["b"]).await;
    h.expect_problems(&[]).await;
}

#[tokio::test]
async fn a_file_that_is_broken_from_the_start_does_not_hold_up_the_others() {
    let h = Harness::with(&[("a.json", "{"), ("b.yaml", &one("b"))]).await;
    assert_eq!(h.names().len(), 1);
    assert!(h.status.borrow().synced);
    assert!(h.status.borrow().problems[0].message.contains("document 1 is not valid JSON"));
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_self() {
    let mut h = Harness::with(&[("a.yaml", &nodes(&[("a", "1"), ("b", "1"), ("c", "1")]))]).await;
    let broken = "---\n{apiVersion: v1, kind: Node, metadata: {name: b, labels: 5}}\n";
    h.put("a.yaml", &format!("{}{broken}", nodes(&[("a", "2")])));
    h.expect(&["a", "b"]).await;
    assert_eq!((h.version("a").as_deref(), h.version("b").as_deref()), (Some("2"), Some("1")));
    h.expect_problems(&[("a.yaml", "Node b: metadata.labels: invalid type")]).await;
}

#[tokio::test]
async fn no_text_and_too_much_of_it() {
    let temp = TempDir::new().unwrap();
    write(&temp.path().join("root/a.yaml"), &one("a"));
    write(&temp.path().join("root/b.yaml"), &one("b"));
    let mut h = Harness::start(temp, |source| source.limits = Limits { file_size: 200, files: 2 });
    h.expect(&["a", "b"]).await;
    fs::write(h.path(".new"), [b'a', 0xff]).unwrap();
    fs::rename(h.path(".new"), h.path("a.yaml")).unwrap();
    h.expect_problems(&[("a.yaml", "is not UTF-8 text (byte 1)")]).await;
    h.put("a.yaml", &"#".repeat(201));
    h.expect_problems(&[("a.yaml", "has 201 bytes, the limit is 200")]).await;
    h.put("a.yaml", &nodes(&[("a", "2")]));
    h.expect_version("a", "2").await;
    // One file too many: those that are known stay.
    h.put("0.yaml", &one("x"));
    h.expect_problems(&[("", "there are more than 2 files")]).await;
    h.expect(&["a", "b"]).await;
}

#[tokio::test]
async fn too_many_files_from_the_start() {
    let temp = TempDir::new().unwrap();
    for name in ["a", "b", "c"] {
        write(&temp.path().join(format!("root/{name}.yaml")), &one(name));
    }
    let mut h = Harness::start(temp, |source| {
        source.limits.files = 2;
        source.rescan = std::time::Duration::from_millis(10);
    });
    h.expect(&["a", "b"]).await;
    h.expect_problems(&[("", "there are more than 2 files")]).await;
    fs::remove_file(h.path("a.yaml")).unwrap();
    h.expect(&["b", "c"]).await;
    h.expect_problems(&[]).await;
}

#[tokio::test]
async fn what_is_no_file_is_no_problem() {
    let mut h = Harness::with(&[("a.yaml", &one("a"))]).await;
    let _socket = UnixListener::bind(h.path("b.yaml")).unwrap();
    h.barrier("z.yaml", "z").await;
    h.expect_problems(&[]).await;
    assert_eq!(h.names().len(), 2);
}

#[tokio::test]
async fn a_missing_root_is_waited_for() {
    let mut h = Harness::start(TempDir::new().unwrap(), |_| ());
    h.expect_problems(&[("", "No such file")]).await;
    assert!(!h.status.borrow().synced);
    assert!(h.batches.is_empty());
    write(&h.temp.path().join("new/a.yaml"), &one("a"));
    fs::rename(h.temp.path().join("new"), h.root()).unwrap();
    assert!(h.next().await);
    h.expect(&["a"]).await;
    h.expect_problems(&[]).await;
    h.put("b.yaml", &one("b"));
    h.expect(&["a", "b"]).await;
}

#[tokio::test]
async fn a_root_that_is_a_file() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("root"), "").unwrap();
    let mut h = Harness::start(temp, |_| ());
    h.expect_problems(&[("", "is not a directory")]).await;
    fs::remove_file(h.root()).unwrap();
    write(&h.path("a.yaml"), &one("a"));
    h.expect(&["a"]).await;
}

#[tokio::test]
async fn a_root_that_vanishes_keeps_everything_and_may_return() {
    let mut h =
        Harness::with(&[("a.yaml", &one("a")), ("sub/b.yaml", &one("b")), ("c.yaml", &one("c"))]).await;
    let away = h.temp.path().join("away");
    fs::rename(h.root(), &away).unwrap();
    h.expect_problems(&[("", "cannot be read")]).await;
    h.expect(&["a", "b", "c"]).await;
    fs::remove_file(away.join("c.yaml")).unwrap();
    write(&away.join("sub/b.yaml"), &nodes(&[("b", "2")]));
    write(&away.join("d.yaml"), &one("d"));
    fs::rename(&away, h.root()).unwrap();
    h.expect(&["a", "b", "d"]).await;
    h.expect_version("b", "2").await;
    h.expect_problems(&[]).await;
    h.put("sub/e.yaml", &one("e"));
    h.expect(&["a", "b", "d", "e"]).await;
    assert!(!h.log.iter().any(|change| change == "-a"), "{:?}", h.log);
}

#[tokio::test]
async fn another_root_under_the_same_name() {
    let mut h = Harness::with(&[("a.yaml", &one("a")), ("b.yaml", &one("b"))]).await;
    write(&h.temp.path().join("new/b.yaml"), &nodes(&[("b", "2")]));
    fs::rename(h.root(), h.temp.path().join("old")).unwrap();
    fs::rename(h.temp.path().join("new"), h.root()).unwrap();
    h.expect(&["b"]).await;
    h.expect_version("b", "2").await;
    h.put("c.yaml", &one("c"));
    h.expect(&["b", "c"]).await;
}
