//! Lines of decisions for people and for programs.

use std::{fmt::Write as _, net::SocketAddr};

use balancing_core::monitor::{ClientView, Decision, Line};
use jiff::{Timestamp, tz::TimeZone};

const HEADER: [&str; 6] = ["TIME", "CLIENT", "FRONTEND", "OUTCOME", "BACKEND", "POLICY"];
/// Widths of columns at the beginning, the last one aside. A column grows with what it has to hold.
const WIDTHS: [usize; 5] = [12, 24, 25, 25, 40];

/// A form of the output.
pub(super) enum Format {
    /// Aligned columns.
    Table(Box<Table>),
    /// As the agent tells it: an object a line.
    Json,
}

/// Columns so far.
pub(super) struct Table {
    widths: [usize; 5],
    zone: TimeZone,
}

impl Format {
    pub(super) fn table() -> Self {
        Self::Table(Box::new(Table { widths: WIDTHS, zone: TimeZone::system() }))
    }

    pub(super) fn header(&mut self) -> String {
        match self {
            Self::Table(table) => table.row(&HEADER.map(str::to_owned)),
            Self::Json => String::new(),
        }
    }

    /// A line for the output; `text` is the line as it came.
    pub(super) fn line(&mut self, line: &Line, text: &str) -> String {
        match (self, line) {
            (Self::Json, _) => text.to_owned(),
            (Self::Table(table), Line::Decision(decision)) => table.decision(decision),
            (Self::Table(_), Line::Lost { lost: 1 }) => "1 event was lost\n".to_owned(),
            (Self::Table(_), Line::Lost { lost }) => format!("{lost} events were lost\n"),
        }
    }
}

impl Table {
    fn decision(&mut self, decision: &Decision) -> String {
        let frontend = &decision.frontend;
        let dash = || "-".to_owned();
        let backend = decision.backend.as_ref().map(|backend| {
            let of = backend.pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
            format!("{}{of}", SocketAddr::new(backend.address, backend.port))
        });
        let policy = decision.policy.as_ref().map(|policy| format!("{}/{}", policy.kind, policy.name));
        self.row(&[
            self.time(&decision.time),
            client(&decision.client),
            format!("{}/{}", SocketAddr::new(frontend.address, frontend.port), frontend.protocol),
            outcome(decision),
            backend.unwrap_or_else(dash),
            policy.unwrap_or_else(|| format!("id {}", decision.service_id)),
        ])
    }

    /// Time of the day here, to the millisecond.
    fn time(&self, time: &str) -> String {
        let local = time.parse::<Timestamp>().map(|time| time.to_zoned(self.zone.clone()));
        // A time that is none is shown as it came.
        local.map_or_else(|_wrong| time.to_owned(), |local| local.strftime("%H:%M:%S%.3f").to_string())
    }

    fn row(&mut self, cells: &[String; 6]) -> String {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            *width = cell.chars().count().max(*width);
            // Writing to a string cannot fail.
            write!(text, "{cell:<width$}   ").ok();
        }
        text.push_str(&cells[5]);
        text.push('\n');
        text
    }
}

fn client(client: &ClientView) -> String {
    match client {
        ClientView { pod: Some(pod), .. } => format!("pod {pod}"),
        ClientView { process: Some(name), pid, .. } => format!("process {name} ({pid})"),
        ClientView { pid, .. } => format!("process {pid}"),
    }
}

fn outcome(decision: &Decision) -> String {
    let why = decision.reason.map(|reason| format!(": {}", reason.words())).unwrap_or_default();
    format!("{}{why}", decision.outcome.word())
}

#[cfg(test)]
mod tests {
    use balancing_core::{
        monitor::{Outcome, Reason, TargetView},
        view::{KeyView, OwnerView},
    };

    use super::*;

    fn decision() -> Decision {
        Decision {
            time: "2026-01-02T03:04:05.678901Z".into(),
            client: ClientView { pod: Some("default/web".into()), pid: 42, process: None },
            frontend: KeyView { address: [10, 0, 0, 1].into(), port: 80, protocol: "TCP".into() },
            outcome: Outcome::Redirected,
            reason: None,
            backend: Some(TargetView { address: [10, 1, 0, 1].into(), port: 8080, pod: Some("a/b".into()) }),
            service_id: 7,
            policy: Some(OwnerView { kind: "BalancingPolicy".into(), name: "dns".into() }),
        }
    }

    fn format() -> Format {
        Format::Table(Box::new(Table { widths: WIDTHS, zone: TimeZone::UTC }))
    }

    fn show(format: &mut Format, decision: Decision) -> String {
        format.line(&Line::Decision(decision.into()), "")
    }

    #[test]
    fn a_decision_is_a_line_with_its_story() {
        let mut format = format();
        let (header, line) = (format.header(), show(&mut format, decision()));
        assert_eq!(
            line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>(),
            [
                "03:04:05.678",
                "pod default/web",
                "10.0.0.1:80/TCP",
                "redirected",
                "10.1.0.1:8080 (pod a/b)",
                "BalancingPolicy/dns"
            ]
        );
        for (column, cell) in [("CLIENT", "pod"), ("OUTCOME", "redirected"), ("POLICY", "BalancingPolicy")] {
            assert_eq!(header.find(column), line.find(cell), "{header}{line}");
        }
    }

    #[test]
    fn columns_grow_and_stay_wide() {
        let mut format = format();
        let long = ClientView { pod: Some("n".repeat(80)), ..ClientView::default() };
        let wide = show(&mut format, Decision { client: long, ..decision() });
        let line = show(&mut format, decision());
        assert_eq!(wide.find("redirected"), line.find("redirected"));
    }

    #[test]
    fn clients_and_reasons_are_told_in_words() {
        let process =
            |process: Option<&str>| ClientView { process: process.map(Into::into), pid: 5, pod: None };
        assert_eq!(client(&process(Some("curl"))), "process curl (5)");
        assert_eq!(client(&process(None)), "process 5");
        let of = |of, reason| outcome(&Decision { outcome: of, reason, ..decision() });
        assert_eq!(of(Outcome::Passed, Some(Reason::QosLimit)), "passed: QoS limit");
        assert_eq!(of(Outcome::Passed, Some(Reason::Exempt)), "passed: client is exempt");
        assert_eq!(of(Outcome::Rejected, Some(Reason::NoBackend)), "rejected: no backend");
        assert_eq!(of(Outcome::Passed, None), "passed");
    }

    #[test]
    fn losses_are_lines_of_their_own() {
        let mut table = format();
        assert_eq!(table.line(&Line::Lost { lost: 1 }, ""), "1 event was lost\n");
        assert_eq!(table.line(&Line::Lost { lost: 3 }, ""), "3 events were lost\n");
        assert_eq!(Format::Json.line(&Line::Lost { lost: 3 }, "{\"lost\":3}\n"), "{\"lost\":3}\n");
    }
}
