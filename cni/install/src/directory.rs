//! The directory of network configurations: which of its files a runtime uses.
//!
//! Runtimes take the files `*.conf`, `*.conflist` and `*.json`, in the order of their names; hidden ones too. containerd
//! (go-cni, `loadFromConfDir`) loads the first, and nothing at all when that one is broken. CRI-O (ocicni, `loadNetworks`)
//! leaves out what is broken, and takes the first of a name where it is told one (`cni_default_network`). Pure.

use crate::conflist::{Conflist, Malformed, list_of};

/// How a runtime chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// The first file, be it broken.
    #[default]
    Containerd,
    /// The first file that is not broken.
    Crio,
}

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name, without directory.
    pub name: String,
    /// Its text, or why there is none, in words.
    pub text: Result<String, String>,
}

/// What a file is to runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `*.conflist`
    List,
    /// `*.conf`, `*.json`
    Single,
}

/// The network that pods get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its file.
    pub file: String,
    /// What the file is.
    pub kind: Kind,
    /// The text of a list: that of the file, or of the list that a single configuration stands for.
    pub list: String,
}

/// Why pods get no network, or none that ours could join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNetwork {
    /// No file at all.
    #[error("there is no network configuration yet: the primary network plugin has to write one")]
    NoFile,
    /// The file that counts is broken: it may be half written.
    #[error("{file} is broken, so the runtime loads no network: {why}")]
    Broken {
        /// Its name.
        file: String,
        /// Why, in words.
        why: String,
    },
    /// No file of the network that the runtime is told to use.
    #[error(
        "no network configuration has the name {0} yet: the primary network plugin has to write it, or --cni-network is wrong"
    )]
    Unnamed(String),
    /// Nothing but our plugin.
    #[error(
        "{file} has no plugin but ours: the primary network plugin has left it; it has to be started anew"
    )]
    OursAlone {
        /// Its name.
        file: String,
    },
}

/// What a file of that name is to runtimes; `None` = nothing.
#[must_use]
pub fn kind_of(name: &str) -> Option<Kind> {
    match name.rsplit_once('.')?.1 {
        "conflist" => Some(Kind::List),
        "conf" | "json" => Some(Kind::Single),
        _ => None,
    }
}

/// The network that a runtime gives pods.
///
/// # Errors
/// When there is none, or none with another plugin than ours.
pub fn network(files: &[File], runtime: Runtime) -> Result<Network, NoNetwork> {
    let mut files: Vec<&File> = files.iter().filter(|file| kind_of(&file.name).is_some()).collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut first = None;
    for file in files {
        match read(file) {
            Ok(network) => return Ok(network),
            // To a runtime it is as good as any other.
            Err(taken @ NoNetwork::OursAlone { .. }) => return Err(taken),
            Err(broken) if runtime == Runtime::Containerd => return Err(broken),
            // The first one is what an operator should look at.
            Err(broken) => first = first.or(Some(broken)),
        }
    }
    Err(first.unwrap_or(NoNetwork::NoFile))
}

/// The files of the network of that name, from which CRI-O chooses where it is told one.
#[must_use]
pub fn of_name(files: &[File], name: &str) -> Vec<File> {
    let list = |file: &File| match kind_of(&file.name)? {
        Kind::List => file.text.clone().ok(),
        Kind::Single => list_of(file.text.as_ref().ok()?).ok(),
    };
    let has_name = |file: &&File| {
        list(file).is_some_and(|list| Conflist::parse(&list).is_ok_and(|list| list.name == name))
    };
    files.iter().filter(has_name).cloned().collect()
}

fn read(file: &File) -> Result<Network, NoNetwork> {
    let broken = |why: String| NoNetwork::Broken { file: file.name.clone(), why };
    let malformed = |why: Malformed| broken(why.to_string());
    let text = file.text.clone().map_err(broken)?;
    let kind = kind_of(&file.name).unwrap_or(Kind::List);
    let list = match kind {
        Kind::List => text,
        Kind::Single => list_of(&text).map_err(malformed)?,
    };
    let parsed = Conflist::parse(&list).map_err(malformed)?;
    // A single configuration without name is loaded, as one whose name is empty.
    if kind == Kind::List && !parsed.has_name {
        return Err(broken("it has no name".to_owned()));
    }
    if parsed.has_others() {
        return Ok(Network { file: file.name.clone(), kind, list });
    }
    Err(NoNetwork::OursAlone { file: file.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
    const SINGLE: &str = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#;
    const OURS: &str = r#"{"name":"n","plugins":[{"type":"balancing-cni"}]}"#;

    fn files(content: &[(&str, &str)]) -> Vec<File> {
        content
            .iter()
            .map(|(name, text)| File { name: (*name).to_owned(), text: Ok((*text).to_owned()) })
            .collect()
    }

    /// The file that each runtime takes, or what it says.
    fn picks(content: &[(&str, &str)]) -> [Result<String, NoNetwork>; 2] {
        let files = files(content);
        [Runtime::Containerd, Runtime::Crio].map(|runtime| network(&files, runtime).map(|found| found.file))
    }

    fn both(name: &str) -> [Result<String, NoNetwork>; 2] {
        [Ok(name.to_owned()), Ok(name.to_owned())]
    }

    #[test]
    fn g1_without_files_there_is_no_network() {
        let none = [Err(NoNetwork::NoFile), Err(NoNetwork::NoFile)];
        assert_eq!(picks(&[]), none);
        assert_eq!(picks(&[("README", GOOD), ("x.conflist.bak", GOOD), ("y.cilium_bak", GOOD)]), none);
    }

    #[test]
    fn g4_the_order_of_the_names_counts() {
        assert_eq!(picks(&[("20-b.conflist", GOOD), ("10-a.conf", SINGLE)]), both("10-a.conf"));
        assert_eq!(picks(&[("20-b.conflist", GOOD), (".hidden.json", SINGLE)]), both(".hidden.json"));
        assert_eq!(picks(&[("10-a.conflist", GOOD), ("10-a.conf", SINGLE)]), both("10-a.conf"));
    }

    #[test]
    fn g4_one_that_is_broken_stops_containerd_only() {
        let nameless = GOOD.replace("\"name\"", "\"title\"");
        for broken in ["", "{", "{}", GOOD.trim_end_matches('}'), &nameless] {
            let [containerd, crio] = picks(&[("00-x.conflist", broken), ("10-a.conflist", GOOD)]);
            assert!(matches!(containerd, Err(NoNetwork::Broken { file, .. }) if file == "00-x.conflist"));
            assert_eq!(crio, Ok("10-a.conflist".to_owned()));
        }
        let unread = File { name: "00-x.conf".to_owned(), text: Err("Permission denied".to_owned()) };
        assert!(network(&[unread], Runtime::Crio).unwrap_err().to_string().contains("Permission denied"));
    }

    #[test]
    fn g4_what_has_our_plugin_only_is_taken_and_is_no_network() {
        let alone = NoNetwork::OursAlone { file: "10-a.conflist".to_owned() };
        let none = [Err(alone.clone()), Err(alone.clone())];
        assert_eq!(picks(&[("10-a.conflist", OURS), ("20-b.conflist", GOOD)]), none);
        let [_, crio] = picks(&[("00-x.conflist", "{"), ("10-a.conflist", OURS), ("20-b.conflist", GOOD)]);
        assert_eq!(crio, Err(alone));
    }

    #[test]
    fn a_single_configuration_is_a_list_of_one() {
        let found = network(&files(&[("a.conf", SINGLE)]), Runtime::Containerd).unwrap();
        assert_eq!(found.kind, Kind::Single);
        assert_eq!(Conflist::parse(&found.list).unwrap().types().collect::<Vec<_>>(), ["bridge"]);
    }

    #[test]
    fn g48_files_of_a_name() {
        let other = GOOD.replace("\"n\"", "\"m\"");
        let all =
            files(&[("a.conflist", &other), ("b.conflist", "{"), ("c.conf", SINGLE), ("d.conflist", GOOD)]);
        let names = |name| of_name(&all, name).into_iter().map(|file| file.name).collect::<Vec<_>>();
        assert_eq!(names("n"), ["c.conf", "d.conflist"]);
        assert_eq!(names("m"), ["a.conflist"]);
        assert!(names("x").is_empty());
    }
}
