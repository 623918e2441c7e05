//! The tables: how full they are, what they had to drop, errors of the programs.

use balancing_dataplane::{
    loader::Sizes,
    tables::{Reader, Usage},
};

use super::{Finding, Host, Level, STOPPED};

/// From this part on a table is nearly full, in percent.
const NEARLY: u64 = 80;
/// Tables in which the young take the place of the old: to be full is their business.
const ROLLING: [&str; 2] = ["connections", "affinity"];

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let Some(layout) = &host.layout else { return Vec::new() };
    let read = Reader::open(layout).and_then(|reader| Ok((reader.usage()?, reader.hook_errors()?)));
    let (usage, errors) = match read {
        Ok(found) => found,
        Err(error) => {
            return vec![Finding::of(
                Level::Problem,
                "tables",
                error.to_string(),
                "restart the agent; its log says more",
            )];
        }
    };
    let told = host.agent.as_ref().map(|agent| &agent.dropped).ok();
    let usage: Vec<Usage> = usage
        .into_iter()
        .map(|usage| Usage { dropped: usage.dropped.or_else(|| told?.get(usage.name).copied()), ..usage })
        .collect();
    let mut findings = judge(&usage);
    if host.is_stopped {
        let remedy = host.mended_by_agent(
            "the agent goes on when it has read everything; its log says what is missing",
            "if none is at work, run it again or start balancing-agent",
        );
        findings.push(Finding::of(Level::Problem, "tables", STOPPED, remedy));
    }
    for (hook, count) in errors.into_iter().filter(|(_, count)| *count > 0) {
        let message = format!("{hook}: {count} calls met an error and went where they were dialled");
        findings.push(Finding::of(Level::Warning, "tables", message, ""));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("tables", format!("{} tables have room", usage.len())));
    }
    findings
}

fn judge(usage: &[Usage]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Usage { name, used, capacity, dropped } in usage.iter().filter(|usage| !ROLLING.contains(&usage.name))
    {
        let remedy = Sizes::flag(name).map(|flag| {
            format!(
                "raise {flag}, which takes `balancing-agent cleanup` (redirection ends until the next start)"
            )
        });
        let remedy = remedy.unwrap_or_default();
        if dropped.is_some_and(|dropped| dropped > 0) {
            let message = format!("{name}: {} changes found no room", dropped.unwrap_or_default());
            findings.push(Finding::of(Level::Problem, "tables", message, remedy));
        } else if used * 100 >= u64::from(*capacity) * NEARLY {
            findings.push(Finding::of(
                Level::Warning,
                "tables",
                format!("{name}: {used} of {capacity} are used"),
                remedy,
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_told_before_it_is_full() {
        let usage = |name, used, dropped| Usage { name, used, capacity: 10, dropped };
        assert!(judge(&[usage("frontends", 7, Some(0)), usage("connections", 10, Some(5))]).is_empty());
        let found = judge(&[usage("frontends", 8, None), usage("backends", 1, Some(2))]);
        assert_eq!(
            found.iter().map(|finding| finding.level).collect::<Vec<_>>(),
            [Level::Warning, Level::Problem]
        );
        assert!(found[0].remedy.contains("--max-frontends"), "{}", found[0].remedy);
        for (table, flag) in [("qos", "--max-qos-policies"), ("policies", "--max-policy-names")] {
            let found = judge(&[usage(table, 8, None)]);
            assert!(found[0].remedy.contains(flag), "{}", found[0].remedy);
        }
    }
}
