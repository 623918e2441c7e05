//! Load at a fixed rate, and its report.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::ask::{self, Answer};

/// Questions that are under way at the same time, so that those that wait do not hold up the rate.
const AT_ONCE: u32 = 400;
/// Names the file at which load ends early.
const STOP: &str = "PROBE_STOP";
/// Failures that are told one by one.
const TOLD: u32 = 5;

#[derive(Default)]
struct Report {
    answers: BTreeMap<String, u32>,
    failed: u32,
    worst: Duration,
}

/// Whether somebody has made the file that ends the load.
fn is_stopped(stop: Option<&PathBuf>) -> bool {
    stop.is_some_and(|file| file.exists())
}

fn stop() -> Option<PathBuf> {
    std::env::var_os(STOP).map(PathBuf::from)
}

/// Asks `count` times, `rate` times a second; fails when one question failed.
pub(crate) fn run(count: u32, rate: u32, ask: impl Fn() -> Answer + Sync) -> ExitCode {
    let stop = stop();
    let (report, next, begin) = (Mutex::new(Report::default()), AtomicU32::new(0), Instant::now());
    let worker = || {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= count {
                return;
            }
            let due = Duration::from_secs(1) * turn / rate.max(1);
            thread::sleep(due.saturating_sub(begin.elapsed()));
            if is_stopped(stop.as_ref()) {
                return;
            }
            let asked = Instant::now();
            let answer = ask();
            note(&report, turn, answer, asked.elapsed());
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count).min(rate.saturating_mul(2)).max(1) {
            scope.spawn(worker);
        }
    });
    let took = begin.elapsed();
    let Ok(report) = report.into_inner() else { return ExitCode::FAILURE };
    let ok: u32 = report.answers.values().sum();
    print!(
        "ok={ok} failed={} worst_ms={} seconds={}",
        report.failed,
        report.worst.as_millis(),
        took.as_secs()
    );
    for (answer, count) in &report.answers {
        print!(" [{answer}]={count}");
    }
    println!();
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn note(report: &Mutex<Report>, turn: u32, answer: Answer, took: Duration) {
    let Ok(mut report) = report.lock() else { return };
    match answer {
        Ok(name) => {
            *report.answers.entry(name).or_default() += 1;
            report.worst = report.worst.max(took);
        }
        Err(error) => {
            report.failed += 1;
            if report.failed > TOLD {
                return;
            }
            eprintln!("{:.3} question {turn} failed after {} ms: {error}", now(), took.as_millis());
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// One connection that is used ten times a second for that long.
pub(crate) fn hold(to: SocketAddr, seconds: u64) -> ExitCode {
    let (stop, begin) = (stop(), Instant::now());
    let mut lines = 0;
    let mut used = || -> std::io::Result<()> {
        let mut stream = ask::connect(to)?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        while begin.elapsed() < Duration::from_secs(seconds) && !is_stopped(stop.as_ref()) {
            writeln!(stream, "still there?")?;
            answers.next().transpose()?.ok_or_else(|| std::io::Error::other("the other end closed"))?;
            lines += 1;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    };
    let result = used();
    println!("lines={lines} seconds={}", begin.elapsed().as_secs());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:.3} the connection ended: {error}", now());
            ExitCode::FAILURE
        }
    }
}
