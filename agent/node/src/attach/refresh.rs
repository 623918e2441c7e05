//! Brings the links that pods have up to date with this agent's programs, also those of pods that no object tells of.

use std::{collections::BTreeSet, path::Path};

use balancing_dataplane::{
    cgroup::PodUid,
    links::{self, Change, Programs},
};

use super::{
    AttachError, Attacher,
    news::{Event, News},
};

impl Attacher {
    /// Publishes the programs for the plugin and brings the links that pods have up to date; the tables must be filled. Where pods
    /// are not hooked the plugin gets no programs. Idempotent.
    ///
    /// # Errors
    /// What concerns all pods. A pod that fails is among [`Self::problems`] and keeps no other from being attached.
    pub fn refresh_pods(&mut self) -> Result<(), AttachError> {
        let result = self.try_refresh_pods();
        self.failures.host += u64::from(result.is_err());
        result
    }

    fn try_refresh_pods(&mut self) -> Result<(), AttachError> {
        let mut stuck = self.take_over_pods()?;
        if self.rules.hooks_pods() {
            self.pods.publish(&self.layout.programs())?;
            stuck.extend(self.update_pods()?);
        } else {
            Programs::unpublish(&self.layout.programs())?;
            for (uid, dir) in links::pods(&self.layout)? {
                // A call of the plugin that had opened the programs before may be at work.
                let removed = self.locks.try_acquire(&uid).and_then(|lock| match lock {
                    Some(_lock) => links::remove(&dir),
                    None => Ok(false),
                });
                stuck.extend(removed.err().map(|error| (uid.to_string(), error.to_string())));
            }
        }
        self.failures.pods += stuck.len() as u64;
        self.stuck = stuck.into_iter().collect();
        Ok(())
    }

    /// Gives the pods' links the current programs and sweeps those of pods that are gone. Returns what failed, in words.
    fn update_pods(&mut self) -> Result<Vec<(String, String)>, AttachError> {
        let (mut news, mut stuck) = (News::default(), Vec::new());
        let swept = links::sweep(&self.layout, &self.cgroup_root, &self.locks)?;
        self.forget_orphans();
        self.fresh.clear();
        for uid in &swept.pods {
            news.add(Event::Gone, uid.to_string(), "");
        }
        for (uid, dir) in links::pods(&self.layout)? {
            match self.refresh(&uid, &dir, swept.alive.get(&uid)) {
                Ok(Some((cgroup, changed))) => {
                    if changed {
                        news.add(Event::Updated, uid.to_string(), "");
                    }
                    self.fresh.insert(uid, cgroup);
                }
                Ok(None) => {}
                Err(error) => {
                    let why = error.to_string();
                    // A pod that an object tells of is looked at next.
                    let is_known = self.known.values().any(|known| *known.uid() == uid);
                    if !is_known && self.stuck.get(uid.as_str()) != Some(&why) {
                        news.add(Event::Outdated, uid.to_string(), why.clone());
                    }
                    stuck.push((uid.to_string(), why));
                }
            }
        }
        news.log();
        let failed: Vec<String> = swept.failed.iter().map(ToString::to_string).collect();
        let mut untold = failed.iter().filter(|failed| !stuck.iter().any(|(_, why)| why == *failed));
        if let Some(first) = untold.next() {
            tracing::warn!(more = untold.count(), "{first}");
        }
        Ok(stuck)
    }

    /// The cgroup at which the links are right now, and whether anything changed. Links stay at the cgroup where they are: another
    /// one is the business of the look at the pod.
    fn refresh(
        &self,
        uid: &PodUid,
        dir: &Path,
        ids: Option<&BTreeSet<u64>>,
    ) -> Result<Option<(u64, bool)>, AttachError> {
        // Whoever holds the lock attaches the newest programs.
        let Some(_lock) = self.locks.try_acquire(uid)? else { return Ok(None) };
        let Some(ids) = ids else {
            // What is in the way there is told.
            links::inspect(dir)?;
            return Ok(None);
        };
        let Some(cgroup) = self.cgroup_of_ids(ids) else { return Ok(None) };
        let changes = links::attach(&self.pods, &cgroup, dir)?;
        self.detach_older(uid)?;
        Ok(Some((cgroup.id(), changes.values().any(|change| *change != Change::Kept))))
    }
}
