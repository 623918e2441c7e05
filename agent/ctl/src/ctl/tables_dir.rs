//! Where the tables are. What may not be read is not taken for what is not there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use balancing_dataplane::{
    layout::Layout,
    links::{self, Error},
};

/// Why the tables cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum SearchError {
    /// The pins are root's.
    #[error("permission denied at {path}: run this as root", path = .0.display())]
    Denied(PathBuf),
    /// Another failure.
    #[error(transparent)]
    Links(#[from] Error),
}

/// The newest directory that has tables; `None`: nothing is loaded.
///
/// # Errors
/// [`SearchError`].
pub(super) fn newest(bpffs: &Path) -> Result<Option<Layout>, SearchError> {
    for layout in links::layouts(bpffs).map_err(denied)? {
        let path = layout.maps();
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => return Ok(Some(layout)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(SearchError::Denied(path));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

fn denied(error: Error) -> SearchError {
    match error {
        Error::Io { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            SearchError::Denied(path)
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_tables_is_not_one_that_is_closed() {
        let bpffs = tempfile::tempdir().unwrap();
        assert!(newest(bpffs.path()).unwrap().is_none());
        let make = |path: &str| fs::create_dir_all(bpffs.path().join("balancing").join(path)).unwrap();
        make("v1/maps");
        make("v2/pods");
        assert_eq!(newest(bpffs.path()).unwrap().unwrap().abi(), 1);
        let path = PathBuf::from("/p");
        let error =
            |kind: io::ErrorKind| Error::Io { operation: "read", path: path.clone(), source: kind.into() };
        let told = denied(error(io::ErrorKind::PermissionDenied)).to_string();
        assert_eq!(told, "permission denied at /p: run this as root");
        assert!(matches!(denied(error(io::ErrorKind::Other)), SearchError::Links(_)));
    }
}
