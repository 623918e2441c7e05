//! What a hook adds to connect(2), close(2), sendto(2), recvfrom(2) and getpeername(2), against an empty program on the
//! same hook.
//!
//! After links change or sockets close in numbers the kernel works on for tens of milliseconds, so each measurement is
//! preceded by rest and by calls that do not count, and the bases are measured again before and after each case. A figure
//! whose bases differ from run to run is reported as noisy.

use balancing_tests::NetNs;

use crate::Report;
pub(crate) use cases::fill;
use figures::Figures;

mod cases;
mod figures;
mod inside;
mod rounds;
mod work;

/// Measures in a thread of its own: it changes its network namespace.
pub(crate) fn measure(report: &mut Report) {
    let namespace = NetNs::new();
    // Without an address of the device a socket takes that of its peer, by which `work::check` knows the peer.
    namespace.ip(&["route", "add", "local", "10.0.0.0/8", "dev", "lo"]);
    namespace.add_loopback(&cases::addresses6());
    let cases = cases::all();
    let (record, inside) = namespace.run(|| {
        let mut stage = rounds::Stage::set();
        let record = stage.rounds(&cases);
        (record, inside::measure(&stage, &cases))
    });
    Figures { cases: &cases, record: &record, inside: &inside }.tell(report);
}
