//! The dashboard as Grafana reads it: its panels, and their queries with the variables replaced.

use std::{collections::BTreeSet, fs};

use balancing_tests::*;
use serde_json::Value;

use crate::world::repository;

/// What the dashboard shows, in order.
pub(crate) struct Dashboard {
    pub(crate) rows: Vec<Row>,
    /// The variable `instance`.
    pub(crate) variable: Value,
}

/// A row of panels.
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) unit: String,
    /// It shows the last value only.
    pub(crate) is_stat: bool,
    /// In columns of 24.
    pub(crate) width: u64,
    pub(crate) queries: Vec<Query>,
}

pub(crate) struct Query {
    expression: String,
    legend: String,
}

/// What the variables are: `.*` or a node, and how far apart the points of a picture are, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) instance: &'a str,
    pub(crate) step: f64,
}

impl Dashboard {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(repository().join("install/monitoring/dashboard.json")).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let mut rows = Vec::new();
        for panel in all["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap().to_owned();
            match panel["type"].as_str().unwrap() {
                "row" => rows.push(Row { title, panels: Vec::new() }),
                kind @ ("stat" | "timeseries") => {
                    rows.last_mut().unwrap().panels.push(Panel::read(panel, title, kind == "stat"));
                }
                other => panic!("the test knows no panels of type {other}"),
            }
        }
        let variables = all["templating"]["list"].as_array().unwrap();
        let variable = variables.iter().find(|variable| variable["name"] == "instance").cloned();
        Self { rows, variable: variable.unwrap() }
    }

    pub(crate) fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }
}

impl Panel {
    fn read(panel: &Value, title: String, is_stat: bool) -> Self {
        let query = |target: &Value| Query {
            expression: target["expr"].as_str().unwrap().to_owned(),
            legend: target["legendFormat"].as_str().unwrap().to_owned(),
        };
        Self {
            title,
            unit: panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().to_owned(),
            is_stat,
            width: panel["gridPos"]["w"].as_u64().unwrap(),
            queries: panel["targets"].as_array().unwrap().iter().map(query).collect(),
        }
    }
}

impl Query {
    /// With the variables replaced as Grafana does it: a rate looks back over four scrapes at least.
    pub(crate) fn expression(&self, view: View<'_>) -> String {
        let scrape = Prometheus::SCRAPE.as_secs_f64();
        let interval = (view.step + scrape).max(4.0 * scrape);
        let replaced = self.expression.replace("$__rate_interval", &format!("{interval}s"));
        let replaced = replaced.replace("$instance", view.instance);
        assert!(!replaced.contains('$'), "{replaced}: a variable that the dashboard does not have");
        replaced
    }

    /// The name of a series in the legend.
    pub(crate) fn name(&self, series: &Series) -> String {
        self.labels().iter().fold(self.legend.clone(), |name, label| {
            name.replace(&format!("{{{{{label}}}}}"), series.label(label))
        })
    }

    /// The labels that the legend names.
    pub(crate) fn labels(&self) -> BTreeSet<&str> {
        self.legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0)).collect()
    }
}

/// A value of a variable as Grafana puts it into a regular expression within quotes.
pub(crate) fn escaped(instance: &str) -> String {
    instance.replace('.', "\\\\.")
}
