//! Files that are written in place, and changes that come faster than they can be read.

use std::{
    fs::{self, File},
    io::Write as _,
};

use tempfile::TempDir;

use super::{DEADLINE, Harness, nodes, one, write};

#[tokio::test]
async fn a_file_is_read_when_its_writer_closes_it() {
    let temp = TempDir::new().unwrap();
    write(&temp.path().join("root/a.yaml"), &nodes(&[("a", "1"), ("b", "1")]));
    let mut h = Harness::start(temp, |source| source.settle = DEADLINE * 2);
    h.expect(&["a", "b"]).await;
    h.log.clear();
    let mut file = File::create(h.path("a.yaml")).unwrap();
    // The file is empty now, then half of it is there: both are valid YAML and neither may be taken for the truth.
    h.barrier("y.yaml", "y").await;
    file.write_all(nodes(&[("a", "2")]).as_bytes()).unwrap();
    h.barrier("z.yaml", "z").await;
    file.write_all(nodes(&[("b", "2")]).as_bytes()).unwrap();
    drop(file);
    h.expect_version("b", "2").await;
    assert_eq!(h.log, ["+y", "+z", "+a", "+b"]);
}

#[tokio::test]
async fn a_file_that_stays_open_is_read_when_it_is_quiet() {
    let mut h = Harness::with(&[]).await;
    let mut file = File::create(h.path("a.yaml")).unwrap();
    file.write_all(one("a").as_bytes()).unwrap();
    h.expect(&["a"]).await;
    drop(file);
}

#[tokio::test]
async fn a_new_name_of_a_complete_file_is_read_at_once() {
    let mut h = Harness::with(&[(".a", &one("a"))]).await;
    fs::hard_link(h.path(".a"), h.path("a.yaml")).unwrap();
    h.expect(&["a"]).await;
}

#[tokio::test]
async fn many_changes_at_once() {
    let mut h = Harness::with(&[]).await;
    let names: Vec<_> = (0..500).map(|i| format!("n{i:03}")).collect();
    for round in ["1", "2"] {
        for name in &names {
            h.put(&format!("{name}.yaml"), &nodes(&[(name, round)]));
        }
    }
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    h.expect(&all).await;
    for name in &names {
        h.expect_version(name, "2").await;
    }
    fs::remove_file(h.path("n000.yaml")).unwrap();
    h.expect(&all[1..]).await;
}

#[tokio::test]
async fn same_size_same_moment() {
    let mut h = Harness::with(&[("a.yaml", &nodes(&[("a", "0000")]))]).await;
    for round in 1..200 {
        let version = format!("{round:04}");
        fs::write(h.path("a.yaml"), nodes(&[("a", &version)])).unwrap();
        h.expect_version("a", &version).await;
    }
}
