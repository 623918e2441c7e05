//! Directories that anyone may write are not written to: runtimes run as root what is in them, and a link that somebody has put
//! there would lead our writes elsewhere. The owner and the group of a directory are trusted: distributions differ in them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::replace::{self, failed};

/// Others may write.
const OTHERS: u32 = 0o002;

/// Why a directory is not written to.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Anyone may write it.
    #[error("anyone may write {path} (mode {mode:04o}), and a runtime runs as root what is in it: chmod o-w it", path = path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be looked at.
    #[error(transparent)]
    File(#[from] replace::Error),
}

/// Refuses a directory that anyone may write.
///
/// # Errors
/// [`Untrusted`].
pub(crate) fn check(directory: &Path) -> Result<(), Untrusted> {
    let mode = fs::metadata(directory).map_err(failed("look at", directory))?.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(Untrusted::Open { path: directory.to_owned(), mode })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn g36_what_anyone_may_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        for (mode, is_trusted) in [(0o755, true), (0o775, true), (0o777, false), (0o1777, false)] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            let found = check(place.path());
            assert_eq!(found.is_ok(), is_trusted, "{mode:o}");
            assert!(found.is_ok() || found.unwrap_err().to_string().contains("chmod o-w"));
        }
        let missing = check(&place.path().join("missing")).unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
    }
}
