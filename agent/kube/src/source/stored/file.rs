//! The file: Kubernetes objects as JSON, by kind, with a head that says of which form it is, and whose.
//!
//! It holds what the agent may read, so it is nobody else's to read: mode 0600 in a directory of mode 0700. It is replaced by
//! rename. What is read from it is checked as if the API server had said it. The time at which it was modified last is the one
//! at which the API server said last that it is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::{
    kind::Target,
    merge::object_kind,
    read::{Content, read},
};
use balancing_core::{
    kinds::{Lacking, ObjectKind},
    objects::Object,
};

/// Form of the file.
pub(super) const VERSION: u32 = 1;
/// Bytes of objects that are stored.
pub(super) const LARGEST: usize = 64 << 20;
/// Its name.
pub const STATE_FILE: &str = "state.json";
/// Name of the file that becomes it.
const NEXT: &str = ".state.json.new";
/// What others may not do with it.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

/// Why a state is not read or not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(
        "the state cannot be stored: {0}; until it is, a start without API server begins with an older one"
    )]
    Store(io::Error),
    #[error("the state cannot be stored: {0}")]
    Write(serde_json::Error),
    #[error("the state is not stored: its objects have {0} bytes, and {LARGEST} is the most")]
    Large(usize),
    #[error("the state is not stored: {dir} is not a directory of the agent's user alone (owner {owner}, mode {mode:o}): correct that or give another --state-dir", dir = dir.display())]
    Directory { dir: PathBuf, owner: u32, mode: u32 },
    #[error("the stored state is not used: {0}")]
    Read(io::Error),
    #[error("the stored state is not used, it is broken: {0}; it is replaced when the API server is there")]
    Broken(serde_json::Error),
    #[error(
        "the stored state is not used: others than the agent's user may read or write it (owner {0}, mode {1:o})"
    )]
    Open(u32, u32),
    #[error("the stored state is not used: it has version {0}, this agent writes {VERSION}")]
    Version(u32),
    #[error("the stored state is not used: it is of {theirs}, this agent is {ours}")]
    Foreign { theirs: String, ours: String },
    #[error("the stored state is not used: it lacks the objects of kind {0}")]
    Lacks(&'static str),
}

/// Whose state it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Whose {
    pub(super) server: String,
    pub(super) namespace: String,
    pub(super) host: String,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host {} at {}, namespace {}", self.host, self.server, self.namespace)
    }
}

/// A stored state.
#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: Vec<Object>,
    /// Kinds whose objects it has.
    pub(super) kinds: BTreeSet<ObjectKind>,
    /// Kinds that the server refused.
    pub(super) lacking: Lacking,
    /// When the API server said last that it is so.
    pub(super) confirmed: SystemTime,
}

/// The place of the file, and what it shall hold.
#[derive(Debug)]
pub(super) struct StateFile {
    dir: PathBuf,
    path: PathBuf,
    pub(super) whose: Whose,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
struct Document<'a> {
    server: String,
    namespace: String,
    host: String,
    #[serde(borrow)]
    objects: BTreeMap<String, Vec<&'a RawValue>>,
}

impl StateFile {
    pub(super) fn new(dir: &Path, whose: Whose, targets: Vec<Target>) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(STATE_FILE), whose, targets }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The stored state; `None` = there is none.
    pub(super) fn read(&self) -> Result<Option<State>, FileError> {
        let file = match OpenOptions::new().read(true).custom_flags(NO_LINK).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::Read(error)),
        };
        let found = file.metadata().map_err(FileError::Read)?;
        if found.uid() != own_user() || found.mode() & OTHERS != 0 {
            return Err(FileError::Open(found.uid(), found.mode() & 0o7777));
        }
        let mut text = String::new();
        // Names and brackets take less than the objects.
        file.take(2 * LARGEST as u64).read_to_string(&mut text).map_err(FileError::Read)?;
        let confirmed = found.modified().map_err(FileError::Read)?;
        self.parse(&text, confirmed).map(Some)
    }

    fn parse(&self, text: &str, confirmed: SystemTime) -> Result<State, FileError> {
        let Head { version } = serde_json::from_str(text).map_err(FileError::Broken)?;
        if version != VERSION {
            return Err(FileError::Version(version));
        }
        let Document { server, namespace, host, objects } =
            serde_json::from_str(text).map_err(FileError::Broken)?;
        let theirs = Whose { server, namespace, host };
        if theirs != self.whose {
            return Err(FileError::Foreign { theirs: theirs.to_string(), ours: self.whose.to_string() });
        }
        let (mut all, mut kinds, mut lacking) = (Vec::new(), BTreeSet::new(), Lacking::new());
        for target in &self.targets {
            let kind = object_kind(target.kind);
            let Some(texts) = objects.get(target.kind.name()) else {
                if !kind.is_fabric() {
                    return Err(FileError::Lacks(target.kind.name()));
                }
                lacking.insert(kind);
                continue;
            };
            kinds.insert(kind);
            let readings = texts.iter().filter_map(|text| read(target, text));
            all.extend(readings.filter_map(|reading| match reading.content {
                Content::Object(object) => Some(object),
                Content::Unreadable | Content::Ignored => None,
            }));
        }
        Ok(State { objects: all, kinds, lacking, confirmed })
    }

    /// Replaces the file.
    pub(super) fn write(&self, text: &[u8], confirmed: SystemTime) -> Result<(), FileError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(FileError::Store)?;
        self.refuse_foreign()?;
        self.replace(text, confirmed).map_err(FileError::Store)
    }

    /// Whoever may rename things in the directory could put a state there.
    fn refuse_foreign(&self) -> Result<(), FileError> {
        let dir = fs::symlink_metadata(&self.dir).map_err(FileError::Store)?;
        if !dir.is_dir() || dir.uid() != own_user() || dir.mode() & OTHERS_WRITE != 0 {
            let (owner, mode) = (dir.uid(), dir.mode() & 0o7777);
            return Err(FileError::Directory { dir: self.dir.clone(), owner, mode });
        }
        Ok(())
    }

    fn replace(&self, text: &[u8], confirmed: SystemTime) -> io::Result<()> {
        let next = self.dir.join(NEXT);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(text)?;
        file.set_modified(confirmed)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Notes that the API server still says what the file has.
    pub(super) fn confirm(&self, at: SystemTime) -> Result<(), FileError> {
        let note = || File::options().write(true).open(&self.path)?.set_modified(at);
        note().map_err(FileError::Store)
    }
}

/// Not through a link that somebody put there.
const NO_LINK: i32 = nix::fcntl::OFlag::O_NOFOLLOW.bits();

fn own_user() -> u32 {
    fs::metadata("/proc/self").map(|process| process.uid()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use tempfile::TempDir;

    use super::{
        super::{
            super::{Event, Kind, Scope, Text},
            texts::Texts,
        },
        *,
    };

    fn file(dir: &Path, host: &str) -> StateFile {
        let whose = Whose { server: "https://a".into(), namespace: "own".into(), host: host.into() };
        StateFile::new(dir, whose, Scope::External { name: host.into() }.targets("own"))
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn end(kind: Kind) -> Text {
        Text { kind, event: Event::End("1".into()) }
    }

    fn service(address: &str) -> Box<RawValue> {
        raw(&format!(
            r#"{{"metadata":{{"name":"web","namespace":"default","uid":"7","resourceVersion":"1","managedFields":[{{"manager":"x"}}]}},
               "spec":{{"clusterIP":"{address}","ports":[{{"port":80}}]}}}}"#
        ))
    }

    fn put(texts: &mut Texts, address: &str) {
        texts.take(Text { kind: Kind::Service, event: Event::Put(service(address)) });
    }

    /// A Service, and empty lists of what policies need.
    fn texts() -> Texts {
        let mut texts = Texts::default();
        put(&mut texts, "10.96.0.1");
        texts.take(Text { kind: Kind::Service, event: Event::Begin });
        texts.take(Text { kind: Kind::Service, event: Event::Listed(service("10.96.0.1")) });
        for kind in [Kind::Service, Kind::BalancingPolicy, Kind::EndpointSlice, Kind::ExternalHost] {
            texts.take(end(kind));
        }
        texts
    }

    fn write(file: &StateFile, texts: &Texts) {
        file.write(&texts.document(&file.whose).unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(9))
            .unwrap();
    }

    /// What is said about the file.
    fn says(file: &StateFile) -> String {
        match file.read() {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(state)) => format!("{} objects", state.objects.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = TempDir::new().unwrap();
        let file = file(&dir.path().join("state"), "h");
        assert_eq!(says(&file), "nothing");
        write(&file, &texts());
        let state = file.read().unwrap().unwrap();
        let Object::Service(service) = &state.objects[0] else { panic!("{:?}", state.objects) };
        assert_eq!((service.name.as_str(), state.objects.len()), ("web", 1));
        assert_eq!(state.lacking, [ObjectKind::Fabric, ObjectKind::Member].into());
        assert_eq!(state.confirmed, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&file.path), mode(&file.dir)), (0o600, 0o700));
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(!text.contains("managedFields") && !text.contains("resourceVersion"), "{text}");
        assert_eq!(fs::read_dir(&file.dir).unwrap().count(), 1, "nothing is left beside it");
        file.confirm(SystemTime::UNIX_EPOCH + Duration::from_secs(10)).unwrap();
        assert_eq!(file.read().unwrap().unwrap().confirmed, SystemTime::UNIX_EPOCH + Duration::from_secs(10));
    }

    #[test]
    fn a_file_that_is_not_ours_or_broken_is_refused_with_the_reason() {
        let dir = TempDir::new().unwrap();
        let file = file(dir.path(), "h");
        write(&file, &texts());
        let whole = fs::read_to_string(&file.path).unwrap();
        for end in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&file.path, &whole[..end]).unwrap();
            assert!(says(&file).contains("broken"), "{end}: {}", says(&file));
        }
        let other = whole.replace(r#""version":1"#, r#""version":2"#);
        fs::write(&file.path, other).unwrap();
        assert!(says(&file).contains("version 2"), "{}", says(&file));
        fs::write(&file.path, whole.replace("BalancingPolicy", "Other")).unwrap();
        assert!(says(&file).contains("lacks the objects of kind BalancingPolicy"), "{}", says(&file));
        fs::write(&file.path, &whole).unwrap();
        assert!(says(&super::tests::file(dir.path(), "other")).contains("it is of host h at https://a"));
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(says(&file).contains("mode 644"), "{}", says(&file));
    }

    #[test]
    fn a_directory_that_others_may_write_to_gets_no_file() {
        let dir = TempDir::new().unwrap();
        let file = file(dir.path(), "h");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = file.write(b"{}", SystemTime::now()).unwrap_err().to_string();
        assert!(error.contains("--state-dir") && !file.path.exists(), "{error}");
    }

    #[test]
    fn only_what_an_agent_would_notice_is_a_change() {
        let mut texts = texts();
        assert!(texts.changed());
        texts.set_changed(false);
        put(&mut texts, "10.96.0.1");
        texts.take(Text { kind: Kind::Service, event: Event::Begin });
        texts.take(Text { kind: Kind::Service, event: Event::Listed(service("10.96.0.1")) });
        texts.take(end(Kind::Service));
        assert!(!texts.changed());
        put(&mut texts, "10.96.0.2");
        assert!(texts.changed());
        texts.set_changed(false);
        texts.take(Text { kind: Kind::Service, event: Event::Gone(service("10.96.0.2")) });
        assert!(texts.changed());
    }
}
