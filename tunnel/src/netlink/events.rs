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
pub(super) async fn listen(mut events: Events, ours: Ours, changed: impl Fn() + Send) {
    loop {
        while let Some((message, _)) = events.next().await {
            if !matters(&message, &ours) {
                continue;
            }
            changed();
            sleep(PAUSE).await;
        }
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
