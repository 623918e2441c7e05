//! Files that are written in place, and changes that come faster than they can be read.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
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

/// Any sequence of changes, however fast, ends in what the directory holds. Each seed is another sequence.
#[tokio::test]
async fn the_end_of_any_sequence_is_the_truth() {
    for seed in 1..=8_u64 {
        let mut h = Harness::with(&[]).await;
        let mut random = seed;
        let mut pick = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        for i in 0..400 {
            let dir = h.path(["", "a", "b", "a/c", "b/c"][pick(5)]);
            let other = h.path(["a", "b", "c", "a/c", ".hidden"][pick(5)]);
            let (file, to) = (dir.join(format!("{}.yaml", pick(4))), other.join(format!("{}.yaml", pick(4))));
            // Most of these fail when something is missing, and that is as good as any other step.
            let _ignored = match pick(7) {
                0 => fs::rename(&file, to),
                1 => fs::rename(&dir, &other),
                2 if dir != h.root() => fs::remove_dir_all(&dir),
                3 => fs::remove_file(&file),
                _ => fs::create_dir_all(&dir).and_then(|()| fs::write(&file, one(&format!("n{i}")))),
            };
            if pick(20) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        let truth = read_all(&h.root());
        h.expect(&truth.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

/// The names in all files that are not hidden.
fn read_all(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let shown = entries.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    let read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.split_once("name: ").and_then(|(_, rest)| rest.split(',').next()).unwrap().to_owned()
    };
    shown.flat_map(|path| if path.is_dir() { read_all(&path) } else { vec![read(&path)] }).collect()
}
