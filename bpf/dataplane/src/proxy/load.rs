//! Loads the two programs and pins the maps.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use balancing_abi::proxy::{
    AffinityKey, Backend, Connection, ConnectionKey, Control, Fragment, FragmentKey, FrontendKey, Service,
    maps,
};

use super::{Error, Options, Sizes};
use crate::{
    loader::{chain, errno},
    probe::load_patiently,
    sys,
};

/// The compiled programs.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy.o"));

/// The loaded programs.
pub(super) struct Programs {
    pub(super) ingress: OwnedFd,
    pub(super) egress: OwnedFd,
}

/// Loads everything; maps that are pinned already are used.
pub(super) fn load(directory: &Path, options: &Options) -> Result<Programs, Error> {
    let sizes = &options.sizes;
    check_shapes(directory, sizes)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("TIME_SHIFT", &options.time_shift, true);
    for name in maps::ALL {
        loader.map_pin_path(name, directory.join(name));
        if let Some(entries) = sizes.entries(name) {
            loader.map_max_entries(name, entries);
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::Load(chain(&error)))?;
    Ok(Programs { ingress: program(&mut ebpf, "ingress")?, egress: program(&mut ebpf, "egress")? })
}

fn program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    let refused = |error: ProgramError| Error::Load(format!("program {name}: {}", chain(&error)));
    let missing =
        || Error::Load(format!("the object has no program {name}: build it and the agent from one checkout"));
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)?;
    load_patiently(|| program.load(), errno).map_err(refused)?;
    let fd = program.fd().map_err(refused)?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused(ProgramError::IOError(error)))
}

/// Name, bytes of a key and bytes of a value.
const SHAPES: [(&str, usize, usize); 8] = [
    (maps::FRONTENDS, size_of::<FrontendKey>(), 4),
    (maps::SERVICES, 4, size_of::<Service>()),
    (maps::BACKENDS, 4, size_of::<Backend>()),
    (maps::CONNECTIONS, size_of::<ConnectionKey>(), size_of::<Connection>()),
    (maps::AFFINITY, size_of::<AffinityKey>(), 8),
    (maps::FRAGMENTS, size_of::<FragmentKey>(), size_of::<Fragment>()),
    (maps::COUNTERS, 4, 8),
    (maps::CONTROL, 4, size_of::<Control>()),
];

fn check_shapes(directory: &Path, sizes: &Sizes) -> Result<(), Error> {
    for (name, key, value) in SHAPES {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let info = sys::obj_get(&path).and_then(|fd| sys::map_info(fd.as_fd()));
        let info = info.map_err(|source| Error::Open { path: path.clone(), source })?;
        let capacity = sizes.entries(name).unwrap_or(info.max_entries);
        for (field, found, expected) in [
            ("key size", info.key_size, key as u32),
            ("value size", info.value_size, value as u32),
            ("capacity", info.max_entries, capacity),
        ] {
            if found != expected {
                return Err(Error::Shape { path, field, found, expected });
            }
        }
    }
    Ok(())
}
