//! The variables of a call: command, container, interface.
//!
//! Everything that becomes part of a path later is checked here.

use std::{ffi::OsString, path::PathBuf};

use balancing_dataplane::records::Attachment;

use crate::{
    args::Args,
    error::{CniError, Code},
};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The variables that a command needs, checked. `CNI_PATH` is optional in the specification and not needed.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS and GC.
    pub(crate) container_id: String,
    /// `CNI_IFNAME`; empty for STATUS and GC.
    pub(crate) ifname: String,
    /// `CNI_NETNS`.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) args: Args,
    /// What is wrong with `CNI_ARGS`, where that keeps no pod from ending.
    pub(crate) problem: Option<CniError>,
    /// `TRACEPARENT`, which newer runtimes hand down.
    pub(crate) trace: Option<String>,
}

impl Command {
    /// `None`: no command, someone runs the plugin by hand.
    pub(crate) fn read(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CniError> {
        let Some(text) = variable("CNI_COMMAND").filter(|text| !text.is_empty()) else { return Ok(None) };
        let all = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];
        all.into_iter().find(|command| text == command.name()).map(Some).ok_or_else(|| {
            invalid(format!("CNI_COMMAND is {text:?}, not one of {}", all.map(Self::name).join(", ")))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// Variables without which the command makes no sense (CNI specification, section "Parameters").
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Status | Self::Gc | Self::Version => &[],
        }
    }
}

impl Environment {
    pub(crate) fn read(
        command: Command,
        variable: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CniError> {
        let present = |name: &str| variable(name).filter(|text| !text.is_empty());
        let missing: Vec<&str> =
            command.required().iter().copied().filter(|name| present(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(invalid(format!("{} needs {}", command.name(), missing.join(", "))));
        }
        let mut environment = Self {
            command,
            container_id: String::new(),
            ifname: String::new(),
            netns: present("CNI_NETNS").map(PathBuf::from),
            args: Args::default(),
            problem: None,
            trace: present("TRACEPARENT").and_then(|text| text.into_string().ok()),
        };
        if !command.required().is_empty() {
            let text = |name: &str| {
                let text = present(name).unwrap_or_default();
                text.into_string().map_err(|text| invalid(format!("{name} is {text:?}, not UTF-8")))
            };
            environment.container_id = text("CNI_CONTAINERID")?;
            environment.ifname = text("CNI_IFNAME")?;
            check_container_id(&environment.container_id)?;
            check_ifname(&environment.ifname)?;
            match text("CNI_ARGS").and_then(|args| Args::parse(&args)) {
                Ok(args) => environment.args = args,
                // The record tells the pod. A failure would leave what the plugins before ours have made.
                Err(error) if command == Command::Del => environment.problem = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(environment)
    }

    /// What the call's record is found by.
    pub(crate) fn attachment(&self, network: &str) -> Attachment {
        Attachment {
            network: network.to_owned(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

/// The rule of the specification for container ids and network names.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if is_name(id) {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_CONTAINERID is {id:?}, but has to begin with a letter or digit and hold only letters, digits, `_`, `.` and `-`"
    )))
}

/// The kernel's rule for interface names (`dev_valid_name`).
fn check_ifname(name: &str) -> Result<(), CniError> {
    let valid = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
    if valid {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_IFNAME is {name:?}, but has to be 1 to 15 bytes, not `.` or `..`, without `/`, `:` and blanks"
    )))
}

fn invalid(details: String) -> CniError {
    CniError::new(Code::Environment, "the environment of the call is not valid", details)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(command: Command, variables: &[(&str, &str)]) -> Result<Environment, CniError> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Environment::read(command, &|name: &str| variables.get(name).map(OsString::from))
    }

    fn command(text: &str) -> Result<Option<Command>, CniError> {
        Command::read(&|_: &str| Some(OsString::from(text)))
    }

    #[test]
    fn a5_commands_are_exact() {
        assert_eq!(command("ADD").unwrap(), Some(Command::Add));
        assert_eq!(command("").unwrap(), None);
        for text in ["add", "ADD ", "FOO", "PING"] {
            assert_eq!(command(text).unwrap_err().code, Code::Environment, "{text}");
        }
    }

    #[test]
    fn a2_all_that_is_missing_is_told_at_once() {
        for command in [Command::Add, Command::Check] {
            let message = read(command, &[("CNI_NETNS", "")]).unwrap_err().to_string();
            assert!(message.contains("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"), "{message}");
        }
        let message = read(Command::Del, &[("CNI_CONTAINERID", "a")]).unwrap_err().to_string();
        assert!(
            message.contains("DEL needs CNI_IFNAME:") || message.contains("DEL needs CNI_IFNAME "),
            "{message}"
        );
    }

    #[test]
    fn a3_del_needs_no_netns_and_the_rest_needs_nothing() {
        assert!(read(Command::Del, &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")]).is_ok());
        for command in [Command::Status, Command::Gc] {
            assert!(read(command, &[("CNI_CONTAINERID", "/"), ("CNI_ARGS", "x")]).is_ok());
        }
    }

    #[test]
    fn c6_f3_wrong_arguments_keep_no_pod_from_ending() {
        let call = |command| {
            let uid = ("CNI_ARGS", "K8S_POD_UID=../x");
            read(command, &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/n"), uid])
        };
        let del = call(Command::Del).unwrap();
        assert!(del.problem.unwrap().to_string().contains("K8S_POD_UID"));
        assert_eq!(del.args, Args::default());
        assert_eq!(call(Command::Add).unwrap_err().code, Code::Environment);
    }

    #[test]
    fn a8_a9_container_ids() {
        for id in ["a", "A", "0", "aB_.-9", &"c".repeat(256)] {
            assert!(check_container_id(id).is_ok(), "{id}");
        }
        for id in ["", "-a", ".a", "_a", "a/b", "a b", "a\n", "é", "aé"] {
            assert!(check_container_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a10_interface_names() {
        for name in ["e", "eth0", "a.b", "...", "123456789012345"] {
            assert!(check_ifname(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a\tb", "a b", "1234567890123456"] {
            assert!(check_ifname(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a9_text_that_is_not_utf8_is_an_error_and_no_panic() {
        use std::os::unix::ffi::OsStringExt;
        let variable = |_: &str| Some(OsString::from_vec(vec![0xff]));
        assert_eq!(Environment::read(Command::Add, &variable).unwrap_err().code, Code::Environment);
        assert_eq!(Command::read(&variable).unwrap_err().code, Code::Environment);
    }
}
