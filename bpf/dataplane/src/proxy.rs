//! Stub.
#![allow(missing_docs)]
use crate::model::{Backend, FrontendKey};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    path::{Path, PathBuf},
};
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("x")]
    X,
}
pub struct Options {
    pub bpffs: PathBuf,
}
impl Options {
    pub fn new(b: &Path) -> Self {
        Self { bpffs: b.to_owned() }
    }
}
pub struct Local {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}
pub struct Service {
    pub service_id: u32,
    pub backends: Vec<Backend>,
    pub affinity: Option<NonZeroU32>,
    pub reject: bool,
}
pub struct Proxy {
    e: BTreeMap<FrontendKey, Service>,
}
impl Proxy {
    pub fn load(_: &Options) -> Result<Self, Error> {
        Ok(Self { e: BTreeMap::new() })
    }
    pub fn attach(&mut self, _: u32) -> Result<bool, Error> {
        Ok(false)
    }
    pub fn set_local(&mut self, _: &Local) -> Result<(), Error> {
        Ok(())
    }
    pub fn entries(&self) -> &BTreeMap<FrontendKey, Service> {
        &self.e
    }
    pub fn publish(&mut self, _: FrontendKey, _: &Service) -> Result<(), Error> {
        Ok(())
    }
    pub fn remove(&mut self, _: &FrontendKey) -> Result<(), Error> {
        Ok(())
    }
    pub fn sweep(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
pub struct Counters {
    pub drops: BTreeMap<&'static str, u64>,
}
pub struct Usage {
    pub table: &'static str,
    pub used: u32,
    pub capacity: u32,
}
impl Proxy {
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters { drops: BTreeMap::new() })
    }
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        Ok(Vec::new())
    }
}
pub fn unload(_: &Path) -> Result<(), Error> {
    Ok(())
}
