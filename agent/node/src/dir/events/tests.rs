//! What events come to.

use std::{path::Path, time::Duration};

use notify::{
    Event, EventKind,
    event::{
        AccessKind, AccessMode, CreateKind, DataChange, Flag, MetadataKind, ModifyKind, RemoveKind,
        RenameMode,
    },
};

use super::{Events, FilePath, MOST_MARKS, Work};

const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const TOUCHED: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
const MOVED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

/// The paths that are ready and those that are being written after these events of one path.
fn after(kinds: &[EventKind], settle: Duration) -> (usize, usize) {
    let events = Events::new(settle);
    for kind in kinds {
        events.handle(Ok(Event::new(*kind).add_path("/d/f".into())));
    }
    let Work { paths, writing, .. } = events.take(false);
    (paths.len(), writing.len())
}

#[test]
fn a_writer_is_waited_for() {
    let long = Duration::from_secs(1000);
    assert_eq!(after(&[WRITTEN], long), (0, 1));
    assert_eq!(after(&[WRITTEN, CLOSED], long), (1, 0));
    assert_eq!(after(&[WRITTEN, CLOSED, WRITTEN], long), (0, 1), "the next writer");
    assert_eq!(after(&[WRITTEN, TOUCHED], long), (0, 1), "attributes say nothing about the writer");
    assert_eq!(after(&[TOUCHED], long), (1, 0));
    assert_eq!(after(&[WRITTEN, REMOVED], long), (1, 0));
    assert_eq!(after(&[WRITTEN, MOVED], long), (1, 0));
    assert_eq!(after(&[WRITTEN], Duration::ZERO), (1, 0), "it has been quiet for long enough");
}

#[test]
fn reading_is_nothing() {
    assert_eq!(after(&[OPENED], Duration::ZERO), (0, 0));
}

#[test]
fn a_new_file_is_being_written_but_a_new_link_is_complete() {
    let dir = tempfile::TempDir::new().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    let events = Events::new(Duration::from_secs(1000));
    for path in [&file, &link] {
        events.handle(Ok(Event::new(EventKind::Create(CreateKind::File)).add_path(path.clone())));
    }
    let work = events.take(false);
    let only = |path: &Path| [FilePath::from(path)].into();
    assert_eq!((work.paths, work.writing), (only(&link), only(&file)));
}

#[test]
fn marks_are_taken_once() {
    let events = Events::new(Duration::ZERO);
    assert!(events.take(false).is_empty());
    assert!(events.take(true).rescan);
    events.handle(Ok(Event::new(CLOSED).add_path("/d/f".into())));
    assert!(!events.take(false).is_empty());
    assert!(events.take(false).is_empty());
}

#[test]
fn lost_events_are_known_to_be_lost() {
    let events = Events::new(Duration::ZERO);
    events.handle(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert!(events.take(false).lost);
    events.handle(Err(notify::Error::generic("broken")));
    assert!(events.take(false).lost);
    assert!(!events.take(false).lost);
    for i in 0..=MOST_MARKS {
        events.handle(Ok(Event::new(CLOSED).add_path(format!("/d/{i}").into())));
    }
    let work = events.take(false);
    assert!(work.lost && work.paths.is_empty());
}
