//! Directories for a test's files.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    leftovers::{orphans, unique_name},
    must::Must,
};

/// A directory of its own below the system's temporary directory, removed with all it holds on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// A new, empty directory. The topic becomes part of its name.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let parent = env::temp_dir();
        for orphan in orphans(&parent) {
            // Another test may be sweeping the same directory.
            fs::remove_dir_all(orphan).ok();
        }
        let path = parent.join(unique_name(topic));
        fs::create_dir(&path).must(format_args!("create {}", path.display()));
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below it by rename, so that a watcher never sees half of it. Makes directories on
    /// the way. Returns the file's path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path.join(name);
        let parent = file.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).must(format_args!("create {}", parent.display()));
        let hidden = parent.join(format!(".{}", unique_name("write")));
        fs::write(&hidden, content).must(format_args!("write {}", hidden.display()));
        fs::rename(&hidden, &file).must(format_args!("publish {}", file.display()));
        file
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_with_its_files() {
        let directory = TempDir::new("files");
        let file = directory.write("deep/er/file.yaml", "content");
        assert_eq!(fs::read_to_string(&file).unwrap(), "content");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }
}
