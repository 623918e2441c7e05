//! Installs the CNI plugin and keeps it in force: by command, or on a thread of its own beside the data-plane thread.
//!
//! What is written and when is decided in [`balancing_cni_install`]; here the runtime is asked ([`cri`]), and the agent told.

use std::{
    cell::{Cell, RefCell},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use balancing_cni_install::{
    conflist::PLUGIN,
    keeper::{self, Keeper, Settings, Standing},
    uninstall::{Held, Told},
};
use tokio::sync::watch;

use crate::config::{CniConfig, Place};

mod cri;

use cri::{CriError, Known};

/// Why the plugin cannot be installed, or its state not be told.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The installer.
    #[error(transparent)]
    Keeper(#[from] keeper::Error),
    /// A system call failed.
    #[error("cannot ask the runtime, or answer: {0}")]
    Io(#[from] io::Error),
    /// Pods that start now do not get the plugin.
    #[error("pods that start now do not get the plugin: {0}")]
    NotInForce(String),
}

/// Between two questions what the runtime is, and after one that it did not answer in time.
const RUNTIME: Duration = Duration::from_secs(10);

/// So long a runtime that has not answered yet may take, while what is there stays.
const AWAITED: Duration = Duration::from_secs(60);

/// Before a runtime that has loaded something else is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// At an uninstall: how long the runtime may take to notice, how often it is asked, and how long the pods that start just then.
const NOTICED: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_millis(250);
const GRACE: Duration = Duration::from_secs(2);

/// The runtime that is asked.
struct Runtime {
    tokio: tokio::runtime::Runtime,
    sockets: Vec<PathBuf>,
    /// A directory that is there where CRI-O has run.
    crio: PathBuf,
    /// The one of them that has answered last.
    answered: RefCell<Option<PathBuf>>,
    /// When it was silent last.
    silent: Cell<Option<Instant>>,
}

/// Installs once and says what pods get.
///
/// # Errors
/// What keeps the plugin from being in force.
pub(crate) fn install(config: &CniConfig, place: &Place) -> Result<(), CniError> {
    let runtime = Runtime::new(config)?;
    let settings = runtime.settings(config, &place.run_dir);
    let writes = settings.install()?;
    tracing::info!(writes, net_dir = %config.net_dir.display(), bin_dir = %config.bin_dir.display(), "installed");
    in_words(&settings.standing())
}

/// Says what [`install`] would change; empty = nothing.
///
/// # Errors
/// What keeps the plugin from its place.
pub(crate) fn rehearse(config: &CniConfig, place: &Place) -> Result<String, CniError> {
    Ok(Runtime::new(config)?.settings(config, &place.run_dir).rehearse()?)
}

/// Says whether the plugin is in force.
///
/// # Errors
/// When it is not.
pub(crate) fn status(config: &CniConfig, place: &Place) -> Result<(), CniError> {
    let runtime = Runtime::new(config)?;
    let settings = runtime.settings(config, &place.run_dir);
    let mut standing = settings.tried();
    runtime.compare(&mut standing);
    in_words(&standing)
}

/// Takes the plugin out.
///
/// # Errors
/// When something cannot be read or written.
pub(crate) fn uninstall(config: &CniConfig, place: &Place) -> Result<(), CniError> {
    let runtime = Runtime::new(config)?;
    let held = runtime.settings(config, &place.run_dir).uninstall(|| runtime.settle())?;
    if !config.bin_dir.is_dir() {
        let also: String = held.iter().map(|reason| format!("; {reason}")).collect();
        tracing::warn!(
            "the plugin is taken out of the network configuration; no binary is removed, for {} is not there: name the runtime's \
             directory of plugins (--cni-bin-dir), in a container mount it{also}",
            config.bin_dir.display()
        );
    } else if held.is_empty() {
        tracing::info!("the plugin is taken out of the network configuration, and its binary is removed");
    } else {
        let reasons: Vec<String> = held.iter().map(ToString::to_string).collect();
        let reasons = reasons.join("; ");
        if config.bin_dir.join(PLUGIN).exists() {
            tracing::warn!(
                "the plugin is taken out of the network configuration; its binary stays: {reasons}. Run this again afterwards"
            );
        } else {
            let place = config.bin_dir.display();
            tracing::warn!(
                "the plugin is taken out of the network configuration; {place} has no binary of it, though something may call it: {reasons}"
            );
        }
    }
    Ok(())
}

/// Keeps the plugin in force as long as the agent runs. It ends with the process: nothing it does may be half done.
///
/// # Errors
/// No thread.
pub(crate) fn start(config: CniConfig, run_dir: PathBuf) -> io::Result<watch::Receiver<Standing>> {
    let waiting =
        Standing { problem: Some("it has not been looked at yet".to_owned()), ..Standing::default() };
    let (told, standing) = watch::channel(waiting);
    let runtime = Runtime::new(&config)?;
    thread::Builder::new()
        .name("cni-install".to_owned())
        .spawn(move || keep(&config, &run_dir, &runtime, &told))?;
    Ok(standing)
}

fn keep(config: &CniConfig, run_dir: &Path, runtime: &Runtime, told: &watch::Sender<Standing>) {
    let begun = Instant::now();
    let (mut known, mut asked) = (runtime.known(), begun);
    // After a boot the runtime may come later than the agent.
    let wanted = |known: Option<&Known>| Settings {
        runtime_is_awaited: known.is_none() && !config.sockets.is_empty() && begun.elapsed() < AWAITED,
        ..settings(config, run_dir, known)
    };
    let mut keeper = Keeper::new(wanted(known.as_ref()));
    loop {
        // A runtime that was upgraded reads what it did not read before; one that restarts is still the same. One that hangs must not
        // delay every look.
        if asked.elapsed() >= RUNTIME {
            known = runtime.known().or(known);
            asked = Instant::now();
        }
        keeper.change(wanted(known.as_ref()));
        let next = keeper.round(Instant::now());
        let mut standing = keeper.standing().clone();
        // A runtime that notices our write needs a moment.
        let next = if runtime.compare(&mut standing) { next } else { next.min(AGAIN) };
        told.send_if_modified(|old| {
            let differs = *old != standing;
            *old = standing;
            differs
        });
        if told.is_closed() {
            return;
        }
        keeper.wait(next);
    }
}

/// What is wanted, with what the runtime has told of itself.
fn settings(config: &CniConfig, run_dir: &Path, known: Option<&Known>) -> Settings {
    let runtime = config.runtime.or(known.and_then(|known| known.runtime));
    Settings {
        host: config.host.clone(),
        net_dir: config.net_dir.clone(),
        bin_dir: config.bin_dir.clone(),
        origins: config.origins.clone(),
        binary: config.binary.clone(),
        run_dir: run_dir.to_owned(),
        choice: config.choice,
        runtime: runtime.unwrap_or_default(),
        runtime_is_awaited: false,
        network: config.network.clone(),
        reads_drop_ins: known.map(|known| known.reads_drop_ins),
        entry: config.entry.to_json(),
        place: config.place.clone(),
    }
}

impl Runtime {
    fn new(config: &CniConfig) -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sockets, crio) = (config.sockets.clone(), config.crio.clone());
        Ok(Self { tokio, sockets, crio, answered: RefCell::default(), silent: Cell::default() })
    }

    /// What the runtime tells of itself: the first that answers.
    fn known(&self) -> Option<Known> {
        self.sockets.iter().filter(|socket| socket.exists()).find_map(|socket| {
            let known = self.answer(socket, self.tokio.block_on(cri::known(socket)))?;
            *self.answered.borrow_mut() = Some(socket.clone());
            Some(known)
        })
    }

    fn settings(&self, config: &CniConfig, run_dir: &Path) -> Settings {
        settings(config, run_dir, self.known().as_ref())
    }

    /// What the runtime has loaded counts more than what is in its files; `false` = it has loaded something else.
    fn compare(&self, standing: &mut Standing) -> bool {
        let is_silent = self.silent.get().is_some_and(|since| since.elapsed() < RUNTIME);
        let socket = self.socket().filter(|_| standing.is_ready() && !is_silent);
        let loaded =
            socket.and_then(|socket| self.answer(&socket, self.tokio.block_on(cri::loaded(&socket))));
        let Some(loaded) = loaded else { return true };
        if let Some(failure) = loaded.failure {
            standing.problem =
                Some(format!("the runtime has not loaded the network configuration: {failure}"));
        } else if let Some(chain) = loaded.chain.filter(|chain| !chain.iter().any(|kind| kind == PLUGIN)) {
            standing.problem = Some(format!(
                "the runtime has loaded a network without it ({}); it does not watch {}, or has lost sight of it: restart the runtime",
                chain.join(", "),
                standing.file.as_deref().unwrap_or("the directory")
            ));
        }
        standing.problem.is_none()
    }

    /// What was answered. That it was not in time is remembered: a look must not wait for it each time.
    fn answer<A>(&self, socket: &Path, asked: Result<A, CriError>) -> Option<A> {
        match asked {
            Ok(answer) => {
                self.silent.set(None);
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(socket = %socket.display(), "{error}");
                if matches!(error, CriError::Silent) {
                    self.silent.set(Some(Instant::now()));
                }
                None
            }
        }
    }

    /// Waits until the runtime has loaded a network without ours, and calls that have begun are over. One that is there and does not
    /// answer may have ours loaded.
    fn settle(&self) -> Option<Told> {
        let begin = Instant::now();
        let chain = loop {
            let Some(socket) = self.place() else { break None };
            let held = match self.tokio.block_on(cri::loaded(&socket)) {
                Ok(loaded) if loaded.chain.iter().flatten().any(|kind| kind == PLUGIN) => Held::Loaded,
                Ok(loaded) => break loaded.chain,
                Err(error) => Held::Unseen(format!(
                    "{error} ({}): start it, or say where it is (--cri-socket; off where there is none)",
                    socket.display()
                )),
            };
            if begin.elapsed() > NOTICED {
                return Some(Told::Held(held));
            }
            thread::sleep(ASK);
        };
        let was_alone = self.is_containerd_alone();
        // What is called until now is remembered when it ends.
        thread::sleep(GRACE);
        chain.map(|_| Told::Without { is_containerd_alone: was_alone && self.is_containerd_alone() })
    }

    /// Whether containerd answers, and there is nothing of CRI-O, which goes by what is remembered: with both nobody knows which one
    /// the kubelet uses, also while CRI-O is stopped.
    fn is_containerd_alone(&self) -> bool {
        let known = self.place().and_then(|socket| self.tokio.block_on(cri::known(&socket)).ok());
        let is_containerd = known.and_then(|known| known.runtime)
            == Some(balancing_cni_install::directory::Runtime::Containerd);
        is_containerd && matches!(self.crio.try_exists(), Ok(false))
    }

    /// Where the runtime has answered, or may do so again; `None` = there is none to ask.
    fn place(&self) -> Option<PathBuf> {
        let answered = self.answered.borrow().clone();
        answered.or_else(|| self.sockets.iter().find(|socket| socket.exists()).cloned())
    }

    /// Where the runtime is that has said what it is.
    fn socket(&self) -> Option<PathBuf> {
        self.answered.borrow().clone().filter(|socket| socket.exists())
    }
}

/// Says how the node stands.
fn in_words(standing: &Standing) -> Result<(), CniError> {
    let file = standing.file.as_deref().unwrap_or("no file");
    if standing.is_ready() && standing.is_assumed {
        tracing::warn!(
            file,
            chain = ?standing.chain,
            "the drop-in is in place; whether the runtime reads it is not known, for it does not say what it is (--cri-socket): \
             containerd 2.1, CRI-O 1.33 and later do"
        );
        return Ok(());
    }
    if standing.is_ready() {
        tracing::info!(file, chain = ?standing.chain, "pods that start now get the plugin");
        return Ok(());
    }
    let chain = format!("{file} has {}", standing.chain.join(", "));
    Err(CniError::NotInForce(standing.problem.clone().unwrap_or(chain)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_runtime_that_hangs_is_not_asked_at_each_look() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("cri.sock");
        // Connections are taken, and nothing is answered.
        let _listener = UnixListener::bind(&socket).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let runtime = Runtime {
            tokio,
            sockets: vec![socket.clone()],
            crio: PathBuf::new(),
            answered: RefCell::new(Some(socket)),
            silent: Cell::default(),
        };
        let mut standing =
            Standing { chain: ["bridge", PLUGIN].map(str::to_owned).to_vec(), ..Standing::default() };
        let took = |standing: &mut Standing| {
            let begin = Instant::now();
            assert!(runtime.compare(standing), "it knows nothing worse than the files");
            begin.elapsed()
        };
        assert!(took(&mut standing) >= cri::PATIENCE);
        assert!(took(&mut standing) < cri::PATIENCE);
    }
}
