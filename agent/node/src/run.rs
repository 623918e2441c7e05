//! `balancing-agent run`: wires source, data-plane thread, sockets and signals together.
//!
//! This is the async side: it waits for the network and never for the kernel ([`crate::dataplane`]).

use balancing_core::{control::socket_path, source::SourceStatus};
use balancing_dataplane::layout::Layout;
use balancing_kube::member::Wish;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    cni,
    config::Config,
    control,
    dataplane::{self, Handle, Inputs},
    error::RunError,
    feed::{BATCHES, Counters, Origin, Tasks},
    http, lock, monitor, plugin_log,
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the agent from starting.
pub async fn run(config: Config, abi: u32) -> Result<(), RunError> {
    let origin = Origin::of(&config.source).await?;
    let _lock = lock::run_dir(&config.place.run_dir)?;
    let bound = config.listen.bind()?;
    let addresses = bound.addresses();
    let (requests_in, requests) = mpsc::channel(1);
    let listener = control::bind(&socket_path(&config.place.run_dir))?;
    let (mut terminate, mut interrupt) =
        (receive(SignalKind::terminate())?, receive(SignalKind::interrupt())?);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), abi, ?config, "started");
    let plugin_log = plugin_log::start(&config.place.run_dir);
    let (batches_in, batches) = mpsc::channel(BATCHES);
    let (status_in, status) = watch::channel(SourceStatus::default());
    let (health_in, health) = watch::channel(Default::default());
    let (names_in, names) = watch::channel(Default::default());
    let (wishes_in, wishes) = watch::channel(Wish::Unknown);
    let (troubles_in, troubles) = watch::channel(Default::default());
    // The source reads while the programs are loaded.
    let tasks = Tasks { health, troubles, wishes };
    let feed = origin.start(&config.settings, config.place.state_dir.clone(), batches_in, status_in, tasks);
    let counters: Counters = feed.counters.clone();
    let plugin = config.cni.clone().map(|cni| cni::start(cni, config.place.run_dir.clone()));
    let plugin = plugin.transpose().map_err(RunError::Thread)?;
    let inputs = Inputs {
        batches,
        requests,
        status,
        health: health_in,
        names: names_in,
        wishes: wishes_in,
        troubles: troubles_in,
        membership: feed.membership.clone(),
        addresses,
        counters,
        plugin: plugin.clone(),
    };
    let layout = Layout::new(&config.place.bpffs, abi);
    let Handle { probe, loaded, ended } = dataplane::spawn(config, abi, inputs).map_err(RunError::Thread)?;
    let probe = probe.with_plugin(plugin);
    let http = http::start(bound, http::agent(requests_in.clone(), probe))?;
    let (monitors, reader) = monitor::start(layout, requests_in.clone(), names);
    let server = tokio::spawn(control::serve(listener, requests_in, monitors));
    http::tell(addresses);
    let result = tokio::select! {
        result = until_ended(loaded, ended) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    server.abort();
    plugin_log.inspect(JoinHandle::abort);
    reader.stop().await;
    http.stop().await;
    feed.stop();
    if result.is_ok() {
        tracing::info!("stopped; everything programmed stays in force");
    }
    result
}

/// Ends only with an error: the thread works as long as the agent does.
async fn until_ended(
    loaded: oneshot::Receiver<Result<(), RunError>>,
    ended: oneshot::Receiver<()>,
) -> Result<(), RunError> {
    loaded.await.unwrap_or(Err(RunError::Ended))?;
    // Nothing is ever sent: the end of the sender is the signal.
    ended.await.ok();
    Err(RunError::Ended)
}

fn receive(kind: SignalKind) -> Result<Signal, RunError> {
    signal(kind).map_err(RunError::Signals)
}
