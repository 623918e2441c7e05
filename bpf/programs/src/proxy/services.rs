//! What is declared: the service behind a port, and one of its backends.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use balancing_abi::{
    proxy::{Backend, FrontendKey, Service, flags},
    sockets::pick,
};

use crate::{
    local::same,
    tables::{backends, frontends, services},
};

/// Looks at the map of frontends: the writer may give an element to another key while it is read.
const LOOKS: u32 = 3;

/// The service of a port.
#[inline(always)]
pub(crate) fn find(key: &FrontendKey) -> Option<*const Service> {
    for _ in 0..LOOKS {
        let index = frontends.get_ptr(key)?;
        // SAFETY: a live element, one word.
        let service = services.get_ptr(unsafe { index.read_volatile() })?;
        // SAFETY: a live array element; it does not change while a program may have found it.
        let owner = unsafe { &(*service).key };
        if same(&owner.address, &key.address) && owner.port == key.port && owner.protocol == key.protocol {
            return Some(service);
        }
    }
    None
}

/// A random backend by weight.
#[inline(always)]
pub(crate) fn draw(service: *const Service) -> Option<*const Backend> {
    // SAFETY: a live array element that does not change.
    let (first, count, bits) = unsafe { ((*service).first, (*service).count, (*service).flags) };
    if count == 0 || bits & flags::DRAINED != 0 {
        return None;
    }
    // SAFETY: no arguments.
    let (row, fraction) = pick::draw(unsafe { bpf_get_prandom_u32() }, count);
    let backend = backends.get_ptr(first.wrapping_add(row))?;
    // SAFETY: as above.
    let (threshold, alias) = unsafe { ((*backend).threshold, (*backend).alias) };
    if fraction < threshold { Some(backend) } else { backends.get_ptr(first.wrapping_add(alias)) }
}

/// The backend with the id, if the service still has it.
#[inline(always)]
pub(crate) fn backend(service: *const Service, id: u32) -> Option<*const Backend> {
    // SAFETY: a live array element that does not change.
    let (first, count) = unsafe { ((*service).first, (*service).count) };
    backends.get_ptr(find_backend(first, count, id))
}

/// The index of the backend with the id among consecutive ones sorted by id; without one an index beyond the table.
///
/// A global function to the verifier: it is checked once and not again for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_backend(first: u32, count: u32, id: u32) -> u32 {
    let mut low = 0;
    let mut high = count;
    for _ in 0..pick::SEARCH_STEPS {
        if low >= high {
            return u32::MAX;
        }
        let middle = low + (high - low) / 2;
        let Some(backend) = backends.get(first.wrapping_add(middle)) else { return u32::MAX };
        if backend.id == id {
            return first.wrapping_add(middle);
        }
        if backend.id < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    u32::MAX
}
