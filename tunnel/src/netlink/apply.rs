//! Makes the kernel as planned: devices first, then what is on them.

use std::io;

use nix::errno::Errno;

use super::{
    Applied, Error, read,
    requests::{Requests, refused},
    sysctl,
    worker::Ours,
    write,
};
use crate::{
    Deletions, Plan,
    diff::{self, Entry, LinkStep, Up},
    facts::Link,
    kept::{Kept, Removal},
    plan::Device,
    words::Problems,
};

/// Looks at a device before it has to be right: removed, made, marked, and somebody else in between.
const LOOKS: usize = 6;

/// What one run has done so far.
#[derive(Default)]
struct Run {
    writes: usize,
    made: bool,
    problems: Problems,
}

/// Makes the devices as planned, but for setting them up; those that are down.
pub(super) async fn shape(
    requests: &Requests,
    plan: &Plan,
    deletions: Deletions,
    ours: &Ours,
) -> Result<Vec<u32>, Error> {
    let mut run = Run::default();
    let mut shaped = Vec::new();
    for want in &plan.devices {
        shaped.extend(run.device(requests, want, deletions, Up::Later).await?);
    }
    let links = read::links(requests).await?;
    ours.learn(&links);
    let is_down = |link: &&Link| !link.up && shaped.contains(&link.index);
    Ok(links.iter().filter(is_down).map(|link| link.index).collect())
}

/// Makes the kernel as planned.
pub(super) async fn apply(
    requests: &Requests,
    plan: &Plan,
    deletions: Deletions,
    ours: &Ours,
) -> Result<Applied, Error> {
    let mut run = Run::default();
    for problem in &plan.problems {
        run.problems.push(problem.clone());
    }
    let mut devices = Vec::new();
    for want in &plan.devices {
        if let Some(index) = run.device(requests, want, deletions, Up::Now).await? {
            run.switches(want);
            devices.push((index, want));
        }
    }
    let links = read::links(requests).await?;
    ours.learn(&links);
    run.entries(requests, &devices, deletions).await?;
    if deletions == Deletions::Allowed {
        for index in diff::surplus(&plan.devices, &links) {
            run.delete(requests, index).await?;
        }
    }
    // The primary device is the one that the plan names first; it may have to wait.
    let primary = plan.devices.first().map(|want| want.name);
    let device = devices.iter().find(|(_, want)| Some(want.name) == primary).map(|(index, _)| *index);
    let devices = devices.iter().map(|(index, _)| *index).collect();
    Ok(Applied { writes: run.writes, device, devices, made: run.made, problems: run.problems.into_vec() })
}

/// What every device of ours has.
pub(super) async fn kept(requests: &Requests) -> Result<Vec<Kept>, Error> {
    let ours: Vec<Link> = read::links(requests).await?.into_iter().filter(Link::is_ours).collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let (addresses, routes) = (read::addresses(requests).await?, read::routes(requests).await?);
    let mut all = Vec::new();
    for link in ours {
        let have = read::have(requests, link.index, &addresses, &routes).await?;
        all.push(Kept { link, have });
    }
    Ok(all)
}

/// Removes devices, or entries of them.
pub(super) async fn reduce(requests: &Requests, removals: &[Removal]) -> Result<Applied, Error> {
    let mut run = Run::default();
    for removal in removals {
        match removal {
            Removal::Device(index) => run.delete(requests, *index).await?,
            Removal::Entries { device, name, batches } => {
                for batch in batches {
                    run.batch(requests, name, batch, |entry| write::unset(*device, entry), is_gone).await?;
                }
            }
        }
    }
    Ok(Applied { writes: run.writes, problems: run.problems.into_vec(), ..Applied::default() })
}

/// Removes every device of ours.
pub(super) async fn remove(requests: &Requests) -> Result<usize, Error> {
    let mut run = Run::default();
    for link in read::links(requests).await?.iter().filter(|link| link.is_ours()) {
        run.delete(requests, link.index).await?;
    }
    Ok(run.writes)
}

impl Run {
    /// Brings a device into being and into shape; `None` while that has to wait for a deletion.
    async fn device(
        &mut self,
        requests: &Requests,
        want: &Device,
        deletions: Deletions,
        up: Up,
    ) -> Result<Option<u32>, Error> {
        for _ in 0..LOOKS {
            let links = read::links(requests).await?;
            match diff::link_step(want, &links, up) {
                None => return Ok(diff::find(want, &links).map(|link| link.index)),
                Some(LinkStep::Delete(_)) if deletions == Deletions::Held => {
                    self.problems
                        .push(format!("{} is to be made anew, once deletions are no longer held", want.name));
                    return Ok(None);
                }
                Some(LinkStep::Delete(index)) => self.delete(requests, index).await?,
                Some(LinkStep::Create) => self.create(requests, want, &links).await?,
                Some(LinkStep::Set(change)) => {
                    for (what, write) in write::change(&change) {
                        self.writes += 1;
                        let result = requests.write(write).await;
                        result.map_err(|error| refused(format!("{what} device {}", want.name), error))?;
                    }
                }
            }
        }
        let cause = io::Error::other("something else changes it all the time");
        Err(refused(format!("keep device {} as it should be", want.name), cause))
    }

    async fn create(&mut self, requests: &Requests, want: &Device, links: &[Link]) -> Result<(), Error> {
        self.writes += 1;
        match requests.write(write::create(want)).await {
            Ok(()) => {
                self.made = true;
                // Before it is up: an address of its own making would be too late to forbid then.
                self.switches(want);
            }
            // Another may have come between the look and this; only if it did, another look helps.
            Err(error) if is(&error, Errno::EEXIST) && read::links(requests).await? != links => {}
            Err(error) => {
                let what = format!("make device {} with VNI {} on port {}", want.name, want.vni, want.port);
                return Err(refused(what, error));
            }
        }
        Ok(())
    }

    async fn delete(&mut self, requests: &Requests, index: u32) -> Result<(), Error> {
        self.writes += 1;
        match requests.write(write::delete(index)).await {
            Err(error) if !is(&error, Errno::ENODEV) => Err(refused(format!("remove device {index}"), error)),
            _ => Ok(()),
        }
    }

    fn switches(&mut self, want: &Device) {
        for switch in &want.sysctls {
            match sysctl::set(switch) {
                Ok(written) => self.writes += usize::from(written),
                Err(error) if switch.needed => {
                    self.problems
                        .push(format!("cannot set net/{} to {}: {error}", switch.path, switch.value));
                }
                // A host without IPv6 needs none of its switches.
                Err(_) => {}
            }
        }
    }

    /// Everything on the devices: of all of them first what is set, then what is deleted, so that a peer that moves from
    /// one to the other is reachable throughout.
    async fn entries(
        &mut self,
        requests: &Requests,
        devices: &[(u32, &Device)],
        deletions: Deletions,
    ) -> Result<(), Error> {
        let (addresses, routes) = (read::addresses(requests).await?, read::routes(requests).await?);
        let mut all = Vec::new();
        for &(index, want) in devices {
            let have = read::have(requests, index, &addresses, &routes).await?;
            all.push((index, want.name, diff::changes(want, &have, deletions)));
        }
        for (index, name, changes) in &all {
            for batch in &changes.set {
                self.batch(requests, name, batch, |entry| write::set(*index, entry), |_| false).await?;
            }
        }
        for (index, name, changes) in &all {
            for batch in &changes.delete {
                self.batch(requests, name, batch, |entry| write::unset(*index, entry), is_gone).await?;
            }
        }
        Ok(())
    }

    async fn batch(
        &mut self,
        requests: &Requests,
        device: &str,
        batch: &[Entry],
        write: impl Fn(&Entry) -> super::requests::Write,
        fine: impl Fn(&io::Error) -> bool,
    ) -> Result<(), Error> {
        self.writes += batch.len();
        for (place, error) in requests.write_all(batch.iter().map(write)).await {
            if error.kind() == io::ErrorKind::Interrupted {
                return Err(Error::TimedOut);
            }
            if let Some(entry) = batch.get(place).filter(|_| !fine(&error)) {
                self.problems.push(format!("{device}: cannot change {}: {error}", words(entry)));
            }
        }
        Ok(())
    }
}

/// Whether what is to be deleted is gone already.
fn is_gone(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL]
        .into_iter()
        .any(|errno| is(error, errno))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn words(entry: &Entry) -> String {
    match entry {
        Entry::Address(ip) => format!("address {ip}"),
        Entry::Route(to, _) => format!("the route to {to}"),
        Entry::Neighbour(ip, mac) => format!("neighbour {ip} ({mac})"),
        Entry::Forwarding(mac, to) => format!("the forwarding entry {mac} to {}", to.ip),
    }
}
