//! Keeps the plugin on a node: a look at everything, by level and not by event, again and again.
//!
//! One round: the binary, then the configuration, then a second look that tells what is in force. Before the second look events
//! of the round's own writes are dropped, so what happens afterwards is somebody else's.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    binary::{self, Change},
    conflist::{PLUGIN, Place},
    diff,
    directory::Runtime,
    fight::Fights,
    placement::{Directory, Mode, NoPlan, Wanted, plan, removal},
    replace::{self, failed},
    store, temporary,
    watch::Watch,
};

/// Between two looks when nothing happens.
const PERIOD: Duration = Duration::from_secs(10);
/// So long a storm of events may go on before it is looked at; in a fight, in which nothing would be done.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_IN_FIGHT: Duration = Duration::from_secs(1);
/// Before a look that was disturbed is made again.
const AGAIN: Duration = Duration::from_millis(200);

/// How the plugin gets its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A drop-in where the runtime reads them, else inline.
    #[default]
    Auto,
    /// This way.
    Only(Mode),
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Root of the host's file system as it is seen from here.
    pub host: PathBuf,
    /// Directory of network configurations.
    pub net_dir: PathBuf,
    /// Directory of plugins.
    pub bin_dir: PathBuf,
    /// What has named these two: a flag, or the platform.
    pub origins: [String; 2],
    /// Our binary, to be put there.
    pub binary: PathBuf,
    /// Run directory: of the lock against another agent.
    pub run_dir: PathBuf,
    /// The way.
    pub choice: Choice,
    /// How the runtime chooses its network.
    pub runtime: Runtime,
    /// It has not answered yet, and may in a moment: a drop-in that is there stays.
    pub runtime_is_awaited: bool,
    /// The network that CRI-O is told to use (`cni_default_network`); `None` = the first one.
    pub network: Option<String>,
    /// The runtime appends drop-ins: containerd 2.1, CRI-O 1.33 and later. `None` = it does not tell: one that is wanted is taken for
    /// granted.
    pub reads_drop_ins: Option<bool>,
    /// Our entry, as JSON.
    pub entry: String,
    /// Its place.
    pub place: Place,
}

/// Why a round or a removal did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary.
    #[error(transparent)]
    Binary(#[from] binary::Error),
    /// A file.
    #[error(transparent)]
    File(#[from] replace::Error),
    /// A step.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] NoPlan),
    /// A directory that a flag or the platform names.
    #[error("{error}; it is named by {origin}")]
    NoDirectory {
        /// The system call.
        error: replace::Error,
        /// What has named it.
        origin: String,
    },
    /// An agent would put back what is taken out.
    #[error(
        "the agent of this host installs the plugin (--install-cni): stop it or start it without that flag first"
    )]
    Kept,
    /// Another agent of this node.
    #[error("another balancing-agent of this node installs the plugin: {0} is locked")]
    Locked(String),
}

/// How the node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Types of the plugins that pods get, in their order; empty = pods get no network.
    pub chain: Vec<String>,
    /// The file that they are from.
    pub file: Option<String>,
    /// What is wrong, in words.
    pub problem: Option<String>,
    /// Ours is a drop-in, and whether the runtime reads it is not known.
    pub is_assumed: bool,
    /// Files that the keeper has written or removed.
    pub writes: u64,
    /// Fights that have begun: somebody takes ours out again and again.
    pub fights: u64,
}

impl Standing {
    /// Whether pods that start now get our plugin, once and after another one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_first = self.chain.first().is_some_and(|kind| kind == PLUGIN);
        self.problem.is_none() && !is_first && self.chain.iter().filter(|kind| *kind == PLUGIN).count() == 1
    }
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    watch: Watch,
    fights: Fights,
    standing: Standing,
    /// Our program has been in its directory.
    had_program: bool,
    /// Tells commands that somebody installs the plugin, for as long as it is open.
    claim: Option<File>,
}

impl Keeper {
    /// Writes nothing before [`Self::round`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let watch = Watch::new(&[&settings.net_dir, &settings.bin_dir, &settings.binary]);
        Self {
            settings,
            watch,
            fights: Fights::default(),
            standing: Standing::default(),
            had_program: false,
            claim: None,
        }
    }

    /// Works with other settings from now on; what it remembers of a fight stays.
    pub fn change(&mut self, settings: Settings) {
        if settings != self.settings {
            self.watch = Watch::new(&[&settings.net_dir, &settings.bin_dir, &settings.binary]);
            self.settings = settings;
        }
    }

    /// How the node stood at the end of the last round.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Makes everything as it is wanted; how long to wait before the next round when nothing happens.
    pub fn round(&mut self, now: Instant) -> Duration {
        self.claim = self.claim.take().or_else(|| self.settings.claim());
        let made = match self.truce(now) {
            // Nobody fights about the program, and a list that names it needs it.
            Some(_) => self.settings.install_binary(),
            None => self.settings.make(),
        };
        self.look_after_the_program(made.is_ok());
        self.watch.drain();
        let (writes, fights) = (self.standing.writes, self.standing.fights);
        let mut standing = Standing { writes, fights, ..self.settings.standing() };
        let (mut next, mut has_failed) = (PERIOD, false);
        match made {
            Ok(Made { steps: 0, program: false }) => {}
            Ok(made) => {
                self.wrote(&mut standing, made, now);
                // Somebody has written since, and the event may be among those of our own.
                if !standing.is_ready() {
                    next = AGAIN;
                }
            }
            Err(Error::Store(store::Error::Changed(_))) => next = AGAIN,
            Err(error) => {
                standing.problem = Some(error.to_string());
                has_failed = true;
            }
        }
        if let Some(until) = self.truce(now) {
            // The program is looked after all the time, also without a watch.
            next = until.duration_since(now).min(PERIOD);
            if !standing.is_ready() && !has_failed {
                standing.problem = Some(fight_in_words(&standing));
            }
        }
        if let (true, Some(file)) = (standing.is_ready(), self.settings.primary()) {
            self.fights.hold(&file);
        }
        if (&standing.problem, &standing.chain) != (&self.standing.problem, &self.standing.chain) {
            match &standing.problem {
                Some(problem) => tracing::warn!("the plugin is not in force: {problem}"),
                None => tracing::info!(chain = ?standing.chain, "the plugin is in force"),
            }
        }
        self.standing = standing;
        next
    }

    fn wrote(&mut self, standing: &mut Standing, made: Made, now: Instant) {
        standing.writes += made.writes() as u64;
        if made.program {
            tracing::info!(path = %self.settings.program().display(), "the plugin's program is put in place");
        }
        if made.steps == 0 {
            return;
        }
        tracing::info!(writes = made.steps, chain = ?standing.chain, "the plugin is put into the network configuration");
        if self.settings.primary().is_some_and(|file| self.fights.note(&file, now)) {
            standing.fights += 1;
            tracing::warn!("{}", fight_in_words(standing));
        }
    }

    /// Where the program is gone and cannot be put back, ours leaves the configuration: no pod would start. One that has never been
    /// there may be elsewhere: then the settings are wrong, and what works stays.
    fn look_after_the_program(&mut self, is_made: bool) {
        if is_made || binary::is_there(&self.settings.bin_dir) {
            self.had_program = true;
        } else if self.had_program {
            match self.settings.lock().and_then(|_lock| self.settings.take_out()) {
                Ok(0) => {}
                Ok(_) => tracing::warn!(
                    "the plugin is taken out of the network configuration: its program cannot be put in place"
                ),
                Err(error) => {
                    tracing::warn!("the plugin cannot be taken out of the network configuration: {error}")
                }
            }
        }
    }

    /// Until when nothing is written because somebody fights about the file that counts.
    fn truce(&self, now: Instant) -> Option<Instant> {
        let until = self.fights.until(&self.settings.primary()?, now)?;
        (until > now).then_some(until)
    }

    /// Waits for a reason to look, at most so long.
    pub fn wait(&mut self, longest: Duration) {
        let settle = if self.truce(Instant::now()).is_some() { SETTLE_IN_FIGHT } else { SETTLE };
        if self.watch.wait(longest) {
            // What happens meanwhile is the same reason.
            thread::sleep(settle);
        }
    }
}

/// The words stay the same as long as the fight does: each change of them is logged.
fn fight_in_words(standing: &Standing) -> String {
    let file = standing.file.as_deref().unwrap_or("the network configuration");
    format!(
        "somebody else takes our plugin out of {file} again and again; it is put back ever more rarely, at last once in 5 minutes; \
         let that one write its list once, or use --cni-mode drop-in or --cni-mode copy"
    )
}

/// What was written.
#[derive(Clone, Copy, Debug)]
struct Made {
    /// The program.
    program: bool,
    /// Steps in the configuration.
    steps: usize,
}

impl Made {
    fn writes(self) -> usize {
        usize::from(self.program) + self.steps
    }
}

impl Settings {
    /// Binary and configuration; the number of files that were written or removed. The caller may wait for a lock.
    ///
    /// # Errors
    /// What keeps the plugin from its place.
    pub fn install(&self) -> Result<usize, Error> {
        Ok(self.make()?.writes())
    }

    fn make(&self) -> Result<Made, Error> {
        let _lock = self.lock()?;
        self.find(&self.net_dir)?;
        temporary::sweep(&self.net_dir)?;
        self.sweep_drop_ins();
        let program = self.put_binary()?;
        let seen = store::read(&self.net_dir)?;
        let steps = match self.plan(&seen) {
            // Rather none of ours than pods that do not start.
            Err(error) if error.is_harm() => {
                store::apply(&self.net_dir, &seen, &removal(&seen))?;
                return Err(error.into());
            }
            planned => planned?,
        };
        store::apply(&self.net_dir, &seen, &steps)?;
        for told in diff::overwritten(&seen, &steps) {
            tracing::warn!("{told}");
        }
        Ok(Made { program, steps: steps.len() })
    }

    /// The binary alone, as [`Self::install`].
    fn install_binary(&self) -> Result<Made, Error> {
        let _lock = self.lock()?;
        Ok(Made { program: self.put_binary()?, steps: 0 })
    }

    /// Whether it was written.
    fn put_binary(&self) -> Result<bool, Error> {
        self.find(&self.bin_dir)?;
        temporary::sweep(&self.bin_dir)?;
        Ok(binary::install(&self.binary, &self.bin_dir)? == Change::Installed)
    }

    /// That a directory exists, or else who has named it.
    pub(crate) fn find(&self, directory: &Path) -> Result<(), Error> {
        match fs::metadata(directory).map_err(failed("look at", directory)) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                let origin = &self.origins[usize::from(directory == self.bin_dir)];
                Err(Error::NoDirectory { error, origin: origin.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Where the program is.
    pub(crate) fn program(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Takes ours out of the configuration; how many steps that were.
    pub(crate) fn take_out(&self) -> Result<usize, Error> {
        let Some(seen) = self.present()? else { return Ok(0) };
        let steps = removal(&seen);
        store::apply(&self.net_dir, &seen, &steps)?;
        Ok(steps.len())
    }

    /// What [`Self::install`] would change, for people; empty = nothing. Writes nothing.
    ///
    /// # Errors
    /// What keeps the plugin from its place.
    pub fn rehearse(&self) -> Result<String, Error> {
        let mut said = String::new();
        self.find(&self.bin_dir)?;
        self.find(&self.net_dir)?;
        if binary::wanted(&self.binary, &self.bin_dir)?.is_some() {
            said.push_str(&format!(
                "{}: as {}\n",
                self.bin_dir.join(PLUGIN).display(),
                self.binary.display()
            ));
        }
        let seen = store::read(&self.net_dir)?;
        Ok(said + &diff::of(&seen, &self.plan(&seen)?))
    }

    /// Removes what a killed call has left in directories of drop-ins. One that cannot be read, or is gone, is somebody else's.
    pub(crate) fn sweep_drop_ins(&self) {
        let Ok(entries) = fs::read_dir(&self.net_dir) else { return };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for directory in directories.map(|entry| entry.path()) {
            if let Err(error) = temporary::sweep(&directory) {
                tracing::debug!("{error}");
            }
        }
    }

    pub(crate) fn plan(&self, seen: &Directory) -> Result<Vec<crate::placement::Step>, NoPlan> {
        self.plan_for(&self.eligible(seen)).map_err(|error| match error {
            NoPlan::NoNetwork(error) => NoPlan::NoNetwork(self.by_name(error)),
            error => error,
        })
    }

    fn plan_for(&self, seen: &Directory) -> Result<Vec<crate::placement::Step>, NoPlan> {
        let wanted = |mode| Wanted {
            mode,
            runtime: self.runtime,
            entry: self.entry.clone(),
            place: self.place.clone(),
        };
        match self.choice {
            Choice::Only(Mode::DropIn) if self.reads_drop_ins == Some(false) => {
                Err(NoPlan::NoDropIn("the runtime is older than that".to_owned()))
            }
            Choice::Only(mode) => plan(seen, &wanted(mode)),
            Choice::Auto if self.may_drop_in(seen) => match plan(seen, &wanted(Mode::DropIn)) {
                Err(NoPlan::NoDropIn(_)) => plan(seen, &wanted(Mode::Inline)),
                planned => planned,
            },
            Choice::Auto => plan(seen, &wanted(Mode::Inline)),
        }
    }

    fn may_drop_in(&self, seen: &Directory) -> bool {
        let is_kept = self.runtime_is_awaited && !seen.drop_ins.is_empty();
        self.place == Place::Last && self.reads_drop_ins.unwrap_or(is_kept)
    }
}

#[cfg(test)]
mod tests;
