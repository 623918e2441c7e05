//! Tells that something changed. What changed is found by a look: an event is only the reason for one.

use std::{io, time::Duration};

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::{AsyncSocket, SocketAddr},
};
use tokio::time::sleep;

use super::{requests::widen, worker::Ours};

/// Between two calls at least: a storm of events becomes ten calls a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Before a socket that failed is opened anew.
const REOPEN: Duration = Duration::from_secs(1);

type Message = NetlinkMessage<RouteNetlinkMessage>;
pub(super) type Events = UnboundedReceiver<(Message, SocketAddr)>;

/// Subscribes to what matters to the fabric.
pub(super) fn open() -> io::Result<Events> {
    let (mut connection, _handle, events) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    widen(connection.socket_mut().socket_mut())?;
    tokio::spawn(connection);
    Ok(events)
}

/// Calls `changed` until the runtime ends.
pub(super) async fn listen(mut events: Events, ours: Ours, mut changed: impl FnMut() + Send) {
    loop {
        hear(&mut events, &ours, &mut changed).await;
        tracing::warn!("the event socket of netlink has failed and is opened anew");
        sleep(REOPEN).await;
        match open() {
            // What happened meanwhile was not heard.
            Ok(opened) => {
                events = opened;
                changed();
            }
            Err(error) => tracing::error!(%error, "cannot open the event socket of netlink"),
        }
    }
}

/// Calls `changed` until the socket fails.
async fn hear(events: &mut Events, ours: &Ours, changed: &mut (impl FnMut() + Send)) {
    while let Some((first, _)) = events.next().await {
        let mut reason = matters(&first, ours);
        while reason {
            changed();
            sleep(PAUSE).await;
            // One look answers everything that came meanwhile.
            reason = false;
            while let Ok((message, _)) = events.try_recv() {
                reason |= matters(&message, ours);
            }
        }
    }
}

/// Whether an event is a reason for a look. Neighbours of other devices come and go with their traffic.
fn matters(message: &Message, ours: &Ours) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour),
        ) => ours.contain(neighbour.header.ifindex),
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::channel::mpsc::unbounded;
    use netlink_packet_route::{link::LinkMessage, neighbour::NeighbourMessage};
    use tokio::runtime::Builder;

    use super::*;

    fn link() -> Message {
        RouteNetlinkMessage::NewLink(LinkMessage::default()).into()
    }

    fn neighbour(device: u32) -> Message {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = device;
        RouteNetlinkMessage::NewNeighbour(message).into()
    }

    /// Calls made for these messages, all of them there at once.
    fn calls(messages: Vec<Message>) -> usize {
        let (sender, mut events) = unbounded();
        for message in messages {
            sender.unbounded_send((message, SocketAddr::new(0, 0))).unwrap();
        }
        drop(sender);
        let ours = Ours::from_iter([7]);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let mut changed = move || _ = counted.fetch_add(1, Ordering::Relaxed);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(hear(&mut events, &ours, &mut changed));
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn a_storm_becomes_two_calls() {
        assert_eq!(calls(vec![link()]), 1);
        assert_eq!(calls((0..30_000).map(|_| neighbour(7)).collect()), 2);
    }

    #[test]
    fn neighbours_of_other_devices_are_no_reason() {
        assert_eq!(calls(vec![neighbour(2), neighbour(3)]), 0);
        assert_eq!(calls(vec![neighbour(2), neighbour(7), neighbour(3)]), 1);
    }

    #[test]
    fn lost_events_are_a_reason() {
        let overrun = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
        assert_eq!(calls(vec![overrun]), 1);
        assert_eq!(calls(Vec::new()), 0);
    }
}
