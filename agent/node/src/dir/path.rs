//! Paths as keys.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    ops::{Bound, Deref},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A path that is cheap to share and compares by its bytes. Comparing ten thousand paths component by
/// component takes longer than reading the files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FilePath(Arc<OsStr>);

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl Borrow<OsStr> for FilePath {
    fn borrow(&self) -> &OsStr {
        &self.0
    }
}

impl From<&Path> for FilePath {
    fn from(path: &Path) -> Self {
        Self(Arc::from(path.as_os_str()))
    }
}

impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self(Arc::from(path.into_os_string()))
    }
}

/// The keys at and below `path`, in their order.
pub(super) fn below<V>(map: &BTreeMap<FilePath, V>, path: &Path) -> Vec<FilePath> {
    let mut prefix = OsString::from(path);
    prefix.push("/");
    let inside =
        map.range::<OsStr, _>((Bound::Included(prefix.as_os_str()), Bound::Unbounded)).map(|(key, _)| key);
    let inside = inside.take_while(|key| key.0.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()));
    let itself = map.get_key_value(path.as_os_str()).map(|(key, _)| key);
    itself.into_iter().chain(inside).cloned().collect()
}
