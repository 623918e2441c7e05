//! How a node stands, whoever made it so: what pods get, and what is wrong with it.

use crate::{
    binary,
    conflist::{Conflist, PLUGIN},
    directory::{Kind, NoNetwork, Runtime, kind_of, network, of_name},
    keeper::{Settings, Standing},
    placement::{COPY, Directory, NoPlan, Step},
    store,
};

impl Settings {
    /// How the node stands, whoever made it so.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let read = self.find(&self.net_dir).and_then(|()| Ok(store::read(&self.net_dir)?));
        let seen = match read {
            Ok(seen) => seen,
            Err(error) => return Standing { problem: Some(error.to_string()), ..Standing::default() },
        };
        let mut standing = Standing::default();
        let seen = self.eligible(&seen);
        match network(&seen.files, self.runtime).map_err(|error| self.by_name(error)) {
            Ok(found) => {
                standing.chain = self.chain(&seen);
                let is_inline = Conflist::parse(&found.list).is_ok_and(|list| list.ours().is_some());
                let is_named = standing.chain.iter().any(|kind| kind == PLUGIN);
                standing.is_assumed = is_named && !is_inline && self.reads_drop_ins.is_none();
                standing.file = Some(found.file);
                let harm = self.plan(&seen).err().filter(NoPlan::is_harm);
                standing.problem = harm.map(|error| error.to_string());
            }
            Err(error) => standing.problem = Some(error.to_string()),
        }
        let is_named = standing.chain.iter().any(|kind| kind == PLUGIN);
        if is_named && !binary::is_there(&self.bin_dir) {
            let is_no_program = format!(
                "the network configuration names it, and {} is no program: no pod starts; install it, or uninstall",
                self.program().display()
            );
            let missing = self.find(&self.bin_dir).err();
            standing.problem = Some(missing.map_or(is_no_program, |error| error.to_string()));
        }
        standing
    }

    /// [`Self::standing`], and whether the program answers, which costs a process.
    #[must_use]
    pub fn tried(&self) -> Standing {
        let mut standing = self.standing();
        if let (true, Some(why)) = (standing.is_ready(), binary::misfit(&self.bin_dir)) {
            standing.problem = Some(format!(
                "{} does not run on this host as a plugin: {why}; no pod starts: install it anew, or uninstall",
                self.program().display()
            ));
        }
        standing
    }

    /// The primary plugin's file that counts, whichever way ours joins it.
    pub(crate) fn primary(&self) -> Option<String> {
        let seen = self.eligible(&store::read(&self.net_dir).ok()?);
        let seen = seen.after(&[Step::Remove(COPY.to_owned())]);
        let file = network(&seen.files, self.runtime).ok()?.file;
        // The list that was made of a single configuration.
        let single = file.strip_suffix(".conflist").filter(|name| kind_of(name) == Some(Kind::Single));
        Some(single.unwrap_or(&file).to_owned())
    }

    fn chain(&self, seen: &Directory) -> Vec<String> {
        let known = match self.reads_drop_ins {
            Some(false) => Directory { drop_ins: Vec::new(), ..seen.clone() },
            _ => seen.clone(),
        };
        known.chain(self.runtime).unwrap_or_default()
    }

    /// What the runtime chooses from.
    pub(crate) fn eligible(&self, seen: &Directory) -> Directory {
        let files = self.name().map(|name| of_name(&seen.files, name));
        files.map_or_else(|| seen.clone(), |files| Directory { files, ..seen.clone() })
    }

    fn name(&self) -> Option<&str> {
        self.network.as_deref().filter(|_| self.runtime == Runtime::Crio)
    }

    pub(crate) fn by_name(&self, error: NoNetwork) -> NoNetwork {
        match (error, self.name()) {
            (NoNetwork::NoFile, Some(name)) => NoNetwork::Unnamed(name.to_owned()),
            (error, _) => error,
        }
    }
}
