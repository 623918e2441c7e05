//! The plugin's log: stderr, which runtimes put into their own, a file in the run directory, and the agent's log while it runs.
//!
//! Nothing of it ever goes to stdout, and a log that cannot be written stops nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use balancing_dataplane::plugin_log;

use crate::{config::Config, environment::Environment, level::Level};

/// The file is renamed when it has grown beyond this; two files are kept.
const LIMIT: u64 = 512 * 1024;

/// A log whose lines begin with what they are about.
#[derive(Debug)]
pub(crate) struct Log {
    level: Level,
    path: PathBuf,
    about: String,
}

impl Log {
    pub(crate) fn new(config: &Config<'_>, environment: &Environment) -> Self {
        let mut about = format!("{} network={:?}", environment.command.name(), config.name);
        let args = &environment.args;
        for (key, value) in [
            ("container", environment.container_id.as_str()),
            ("ifname", &environment.ifname),
            ("namespace", &args.namespace),
            ("pod", &args.name),
            ("traceparent", environment.trace.as_deref().unwrap_or_default()),
        ] {
            if !value.is_empty() {
                about.push_str(&format!(" {key}={value:?}"));
            }
        }
        Self { level: config.log_level, path: config.run_dir.join("cni.log"), about }
    }

    pub(crate) fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }

    pub(crate) fn warn(&self, message: &str) {
        self.write(Level::Warn, message);
    }

    pub(crate) fn info(&self, message: &str) {
        self.write(Level::Info, message);
    }

    pub(crate) fn debug(&self, message: &str) {
        self.write(Level::Debug, message);
    }

    fn write(&self, level: Level, message: &str) {
        if level > self.level {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // One line whatever the message holds; one write, so parallel calls do not mix.
        let message = message.replace('\n', " ");
        let line = format!(
            "{}.{:03} {} balancing-cni {}: {message}\n",
            now.as_secs(),
            now.subsec_millis(),
            level.name(),
            self.about
        );
        drop(io::stderr().write_all(line.as_bytes()));
        drop(self.file().and_then(|mut file| file.write_all(line.as_bytes())));
        if let Some(run_dir) = self.path.parent() {
            drop(plugin_log::send(run_dir, level.name(), &format!("{}: {message}", self.about)));
        }
    }

    fn file(&self) -> io::Result<File> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let open = || OpenOptions::new().create(true).append(true).open(&self.path);
        let file = open()?;
        if file.metadata()?.len() <= LIMIT || !self.rotate(&file)? {
            return Ok(file);
        }
        open()
    }

    /// Renames a file that has grown too large; `false`: another call does. Whoever holds its lock and still finds it at its
    /// path renames it, so that nobody renames the new one of another call over it.
    fn rotate(&self, file: &File) -> io::Result<bool> {
        if file.try_lock().is_err() {
            return Ok(false);
        }
        let (held, found) = (file.metadata()?, fs::metadata(&self.path)?);
        if (held.dev(), held.ino()) == (found.dev(), found.ino()) {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(test: &str, level: Level) -> Log {
        let dir = std::env::temp_dir().join(format!("balancing-log-{test}-{}", std::process::id()));
        Log { level, path: dir.join("cni.log"), about: "ADD".to_owned() }
    }

    fn remove(log: &Log) {
        fs::remove_dir_all(log.path.parent().unwrap()).unwrap();
    }

    #[test]
    fn lines_are_filtered_and_stay_lines() {
        let log = log("level", Level::Warn);
        log.info("hidden");
        log.warn("a\nb");
        let content = fs::read_to_string(&log.path).unwrap();
        assert!(content.ends_with(" warn balancing-cni ADD: a b\n"), "{content}");
        assert_eq!(content.lines().count(), 1);
        remove(&log);
    }

    #[test]
    fn many_that_rotate_at_once_lose_nothing() {
        let log = log("storm", Level::Info);
        fs::create_dir_all(log.path.parent().unwrap()).unwrap();
        for _ in 0..200 {
            drop(fs::remove_file(log.path.with_extension("log.1")));
            fs::write(&log.path, vec![b'x'; LIMIT as usize + 1]).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| log.info("one of four"));
                }
            });
            let old = fs::read(log.path.with_extension("log.1")).unwrap();
            let new = fs::read_to_string(&log.path).unwrap();
            assert!(old.starts_with(b"xxx"), "the old file was renamed over");
            let lines = new.lines().count() + old.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, 4);
        }
        remove(&log);
    }

    #[test]
    fn the_file_stays_bounded() {
        let log = log("size", Level::Info);
        fs::create_dir_all(log.path.parent().unwrap()).unwrap();
        for _ in 0..3 {
            fs::write(&log.path, vec![b'x'; LIMIT as usize]).unwrap();
            log.info("fits");
            log.info("is the first of a new file");
        }
        let sizes: Vec<u64> = fs::read_dir(log.path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= LIMIT + 100), "{sizes:?}");
        remove(&log);
    }
}
