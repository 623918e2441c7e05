//! How the data-plane thread is doing, told without asking it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancing_cni_install::keeper::Standing;
use balancing_core::{
    kinds::{self, Lacking},
    source::SourceStatus,
};
use tokio::sync::watch;

use crate::reconcile::NOT_FILLED;

/// The thread counts as hanging when one piece of work takes longer. A cold start of a large cluster takes seconds.
const STUCK: Duration = Duration::from_secs(60);
/// Lines about the source in an answer.
const PROBLEMS: usize = 3;

/// What the thread said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Programs and tables are loaded.
    pub is_loaded: bool,
    /// The source's complete list has arrived, but for what is lacking.
    pub is_synced: bool,
    /// Kinds that are not known completely.
    pub lacking: Lacking,
    /// What is not as it should be, a line each.
    pub problems: Vec<String>,
}

impl Report {
    /// Everything wanted is programmed and attached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_loaded && self.is_synced && self.lacking.is_empty() && self.problems.is_empty()
    }
}

/// When the thread began what it is doing: milliseconds of [`since_start`] and one more, 0 = it waits. Only the thread writes.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicU64);

/// The end of a piece of work.
pub(crate) struct Working(Arc<Busy>);

impl Busy {
    /// Until the value is dropped the thread is at work.
    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.0.store(1 + since_start(), Relaxed);
        Working(Arc::clone(self))
    }

    pub(crate) fn during<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _working = self.begin();
        work()
    }

    fn time(&self) -> Duration {
        match self.0.load(Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_millis((1 + since_start()).saturating_sub(began)),
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.store(0, Relaxed);
    }
}

/// Milliseconds since this was called first.
fn since_start() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Answers probes at once, whatever the thread is doing.
#[derive(Clone, Debug)]
pub struct Probe {
    pub(crate) reports: watch::Receiver<Report>,
    pub(crate) busy: Arc<Busy>,
    pub(crate) status: watch::Receiver<SourceStatus>,
    /// The CNI plugin, where the agent installs it.
    plugin: Option<watch::Receiver<Standing>>,
    /// How long one piece of work may take.
    patience: Duration,
}

impl Probe {
    pub(crate) fn new(
        reports: watch::Receiver<Report>,
        busy: Arc<Busy>,
        status: watch::Receiver<SourceStatus>,
    ) -> Self {
        Self { reports, busy, status, plugin: None, patience: STUCK }
    }

    /// With what the installer of the CNI plugin says.
    #[must_use]
    pub(crate) fn with_plugin(self, plugin: Option<watch::Receiver<Standing>>) -> Self {
        Self { plugin, ..self }
    }

    /// Of a thread that said this last, and has been at work for longer than it may where it hangs. The sender stands for it.
    #[cfg(test)]
    pub(crate) fn of(report: Report, hangs: bool) -> (Self, watch::Sender<Report>) {
        let (thread, reports) = watch::channel(report);
        let probe = Self::new(reports, Arc::default(), watch::channel(SourceStatus::default()).1);
        if hangs {
            std::mem::forget(probe.busy.begin());
            std::thread::sleep(Duration::from_millis(5));
        }
        (Self { patience: if hangs { Duration::ZERO } else { STUCK }, ..probe }, thread)
    }

    /// Why the agent counts as hanging, if it does.
    #[must_use]
    pub fn hanging(&self) -> Option<String> {
        if self.reports.has_changed().is_err() {
            return Some("the data-plane thread has ended".to_owned());
        }
        let busy = self.busy.time();
        (busy > self.patience)
            .then(|| format!("the kernel has kept the data-plane thread for {} s", busy.as_secs()))
    }

    /// Why the agent is not ready, a line each; empty when it is.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let (report, status) = (self.reports.borrow().clone(), self.status.borrow());
        let mut reasons: Vec<String> = self.hanging().into_iter().collect();
        if !report.is_loaded {
            reasons.push("the programs are being loaded".to_owned());
        }
        if !report.is_synced {
            let source = if status.description.is_empty() { "the source" } else { &status.description };
            reasons.push(format!("{source} has not delivered its complete list"));
        }
        reasons.extend(report.lacking.iter().map(|kind| kinds::describe(*kind)));
        if !report.is_synced || !report.lacking.is_empty() {
            let problems = status.problems.iter().take(PROBLEMS);
            reasons.extend(problems.map(|problem| format!("source: {}: {}", problem.path, problem.message)));
        }
        if !report.is_synced {
            reasons.push(format!("not attached: {}", NOT_FILLED));
        }
        reasons.extend(report.problems);
        reasons.extend(self.plugin.as_ref().and_then(plugin_lacks));
        reasons
    }
}

/// Why pods that start now do not get the plugin, where the agent installs it.
pub(crate) fn plugin_lacks(plugin: &watch::Receiver<Standing>) -> Option<String> {
    if plugin.has_changed().is_err() {
        return Some("cni: the installer of the plugin has ended".to_owned());
    }
    let standing = plugin.borrow();
    let why =
        || standing.problem.clone().unwrap_or_else(|| format!("pods get {}", standing.chain.join(", ")));
    (!standing.is_ready()).then(|| format!("cni: {}", why()))
}
