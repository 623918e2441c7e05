//! Real directories, written the way people and programs write them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::DirSource;
use balancing_core::{
    objects::{Object, ObjectKey},
    source::{Batch, Change, SourceStatus},
};

mod broken;
mod links;
mod writers;

/// Longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A source on a temporary directory, and what a consumer would know.
struct Harness {
    temp: TempDir,
    batches: mpsc::Receiver<Batch>,
    status: watch::Receiver<SourceStatus>,
    cancel: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    known: BTreeMap<ObjectKey, Object>,
    /// Keys of all changes in the order they came.
    log: Vec<String>,
}

impl Harness {
    /// Watches `root`, a path below the temporary directory.
    fn start(temp: TempDir, adjust: impl FnOnce(&mut DirSource)) -> Self {
        let mut source = DirSource::new(&temp.path().join("root")).unwrap();
        adjust(&mut source);
        let (sender, batches) = mpsc::channel(16);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (cancel, cancelled) = oneshot::channel::<()>();
        let task =
            tokio::spawn(source.run(sender, status_sender, async { cancelled.await.unwrap_or_default() }));
        Self { temp, batches, status, cancel: Some(cancel), task, known: BTreeMap::new(), log: Vec::new() }
    }

    /// Starts on a directory with these files and takes the first batch.
    async fn with(files: &[(&str, &str)]) -> Self {
        let temp = TempDir::new().unwrap();
        fs::create_dir(temp.path().join("root")).unwrap();
        for (name, text) in files {
            write(&temp.path().join("root").join(name), text);
        }
        let mut harness = Self::start(temp, |_| ());
        assert!(harness.next().await, "the first batch is the whole list");
        harness
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Replaces a file the way it should be done.
    fn put(&self, name: &str, text: &str) {
        let temporary = self.path(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// Takes the next batch; answers whether it is synced.
    async fn next(&mut self) -> bool {
        let batch = timeout_at(Instant::now() + DEADLINE, self.batches.recv()).await;
        let batch =
            batch.unwrap_or_else(|_| panic!("nothing after {:?}; {:?}", self.log, self.status.borrow()));
        let batch = batch.expect("the source has stopped");
        for change in batch.changes {
            match change {
                Change::Upsert(object) => {
                    self.log.push(format!("+{}", name(&object.key())));
                    self.known.insert(object.key(), object);
                }
                Change::Delete(key) => {
                    self.log.push(format!("-{}", name(&key)));
                    self.known.remove(&key);
                }
            }
        }
        batch.synced
    }

    /// Waits until exactly these nodes are known.
    async fn expect(&mut self, names: &[&str]) {
        while self.names() != names.iter().copied().collect() {
            self.next().await;
        }
    }

    /// Waits until a node has this label.
    async fn expect_version(&mut self, name: &str, version: &str) {
        while self.version(name).as_deref() != Some(version) {
            self.next().await;
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.known.keys().map(name).collect()
    }

    fn version(&self, name: &str) -> Option<String> {
        let Object::Node(node) = self.known.get(&ObjectKey::Node(name.into()))? else { panic!("no node") };
        node.labels.get("version").map(str::to_owned)
    }

    /// Waits until the problems are about exactly these files and contain these words.
    async fn expect_problems(&mut self, expected: &[(&str, &str)]) {
        let root = self.root();
        let matches = |status: &SourceStatus| {
            status.problems.len() == expected.len()
                && status.problems.iter().zip(expected).all(|(problem, (name, words))| {
                    Path::new(&problem.path) == root.join(name) && problem.message.contains(words)
                })
        };
        let ok = timeout_at(Instant::now() + DEADLINE, self.status.wait_for(matches)).await.is_ok();
        assert!(ok, "{:?} instead of {expected:?}", self.status.borrow());
    }

    /// Lets the source do everything it has to do, by waiting for a file that is written now.
    async fn barrier(&mut self, file: &str, node: &str) {
        self.put(file, &nodes(&[(node, "barrier")]));
        self.expect_version(node, "barrier").await;
    }
}

fn name(key: &ObjectKey) -> &str {
    match key {
        ObjectKey::Node(name)
        | ObjectKey::Fabric(name)
        | ObjectKey::Member(name)
        | ObjectKey::ExternalHost(name)
        | ObjectKey::Claim(name) => name,
        ObjectKey::Pod(object) | ObjectKey::Service(object) | ObjectKey::Endpoints(object) => &object.name,
        ObjectKey::Policy(policy) => &policy.name,
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A YAML text with nodes of a version.
fn nodes(list: &[(&str, &str)]) -> String {
    let node = |(name, version): &(&str, &str)| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{version: '{version}'}}}}\n"
        )
    };
    list.iter().map(node).collect()
}

fn one(name: &str) -> String {
    nodes(&[(name, "1")])
}

#[tokio::test]
async fn the_first_batch_holds_everything() {
    let list = r#"{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"d"}},{"metadata":{"name":"e"}}]}"#;
    let h = Harness::with(&[
        ("a.yaml", &nodes(&[("a", "1"), ("b", "1")])),
        ("sub/deep/er/c.yml", &one("c")),
        ("list.json", list),
        ("README.md", &one("x")),
        (".hidden.yaml", &one("x")),
        (".git/x.yaml", &one("x")),
        ("sub/.x.yaml", &one("x")),
        ("empty.yaml", ""),
        ("other.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}"),
    ])
    .await;
    assert_eq!(h.names(), BTreeSet::from(["a", "b", "c", "d", "e"]));
    let status = h.status.borrow();
    assert!(status.synced && status.problems.is_empty(), "{status:?}");
    assert_eq!(status.description, format!("dir:{}", h.root().display()));
}

#[tokio::test]
async fn an_empty_directory_is_a_complete_list() {
    let h = Harness::with(&[]).await;
    assert!(h.known.is_empty() && h.status.borrow().synced);
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut h = Harness::with(&[("a.yaml", &one("a"))]).await;
    h.put("b.yaml", &one("b"));
    h.expect(&["a", "b"]).await;
    h.put("a.yaml", &nodes(&[("a", "2"), ("c", "1")]));
    h.expect(&["a", "b", "c"]).await;
    assert_eq!(h.version("a").as_deref(), Some("2"));
    fs::rename(h.path("b.yaml"), h.path("d.yaml")).unwrap();
    fs::remove_file(h.path("a.yaml")).unwrap();
    h.expect(&["b"]).await;
    fs::rename(h.path("d.yaml"), h.path("d.txt")).unwrap();
    h.expect(&[]).await;
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let mut h = Harness::with(&[("a.yaml", &nodes(&[("a", "1"), ("b", "1")])), ("c.yaml", &one("c"))]).await;
    h.log.clear();
    h.put("a.yaml", &nodes(&[("b", "1"), ("a", "2")]));
    h.put("c.yaml", &one("c"));
    h.barrier("z.yaml", "z").await;
    assert_eq!(h.log, ["+a", "+z"]);
}

#[tokio::test]
async fn directories_come_move_and_go() {
    let mut h = Harness::with(&[]).await;
    write(&h.path("x/y/a.yaml"), &one("a"));
    h.expect(&["a"]).await;
    // A directory that comes with its files, then is changed in its new place.
    let outside = h.temp.path().join("outside");
    write(&outside.join("deep/b.yaml"), &one("b"));
    fs::rename(&outside, h.path("in")).unwrap();
    h.expect(&["a", "b"]).await;
    h.put("in/deep/c.yaml", &one("c"));
    h.expect(&["a", "b", "c"]).await;
    fs::rename(h.path("in"), h.path("moved")).unwrap();
    h.put("moved/deep/d.yaml", &one("d"));
    h.expect(&["a", "b", "c", "d"]).await;
    fs::rename(h.path("moved"), &outside).unwrap();
    h.expect(&["a"]).await;
    // The same name again, with another directory behind it.
    fs::remove_dir_all(h.path("x")).unwrap();
    write(&h.path("x/y/e.yaml"), &one("e"));
    h.expect(&["e"]).await;
    h.put("x/y/f.yaml", &one("f"));
    h.expect(&["e", "f"]).await;
    fs::rename(h.path("x"), h.path(".x")).unwrap();
    h.expect(&[]).await;
}

#[tokio::test]
async fn an_object_in_two_files() {
    let mut h =
        Harness::with(&[("b.yaml", &nodes(&[("n", "b")])), ("c.yaml", &nodes(&[("n", "c"), ("m", "c")]))])
            .await;
    assert_eq!(h.version("n").as_deref(), Some("b"));
    h.expect_problems(&[("c.yaml", "Node n: is also in")]).await;
    h.put("a.yaml", &nodes(&[("n", "a")]));
    h.expect_version("n", "a").await;
    h.expect_problems(&[("b.yaml", "a.yaml, which counts"), ("c.yaml", "a.yaml, which counts")]).await;
    h.log.clear();
    fs::remove_file(h.path("a.yaml")).unwrap();
    h.expect_version("n", "b").await;
    h.put("b.yaml", "");
    h.expect_version("n", "c").await;
    h.expect_problems(&[]).await;
    assert_eq!(h.log, ["+n", "+n"], "the object was there all the time");
}

#[tokio::test]
async fn it_stops_when_told() {
    let mut h = Harness::with(&[]).await;
    h.cancel.take().unwrap().send(()).unwrap();
    timeout_at(Instant::now() + DEADLINE, h.task).await.expect("still running").unwrap();

    let mut h = Harness::with(&[]).await;
    h.batches.close();
    fs::write(h.path("a.yaml"), one("a")).unwrap();
    timeout_at(Instant::now() + DEADLINE, h.task).await.expect("still running").unwrap();
}

#[tokio::test]
async fn a_relative_path_is_made_absolute() {
    let source = DirSource::new(Path::new("x/../y")).unwrap();
    assert!(source.root.is_absolute());
    assert!(DirSource::new(Path::new("")).unwrap_err().to_string().contains("give an absolute path"));
}
