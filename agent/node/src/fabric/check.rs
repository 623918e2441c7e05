//! `balancingctl fabric check`: asks members whether they answer, how fast, and what fits.
//!
//! It runs beside the data-plane thread, which has told who the members are, and waits for nobody but the network.

use std::{net::IpAddr, time::Duration};

use balancing_core::fabric_view::{CheckView, FabricView, PeerView};
use balancing_tunnel::{EchoError, echo};
use tokio::task::JoinSet;

/// Bytes of a small packet.
const SMALL: usize = 84;
/// How long an answer may take, and how many members are asked at once and in all.
const PATIENCE: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 64;
const MOST: usize = 256;

/// One address of a member, and from where it is asked.
struct Question {
    peer: String,
    from: IpAddr,
    to: IpAddr,
    /// What should fit on the way there.
    mtu: u32,
}

/// Asks the members that are wanted.
///
/// # Errors
/// There is nobody to ask, in words.
pub(crate) async fn check(view: &FabricView, wanted: Option<&str>) -> Result<Vec<CheckView>, String> {
    let mut waiting = questions(view, wanted)?.into_iter();
    let (mut asked, mut told) = (JoinSet::new(), Vec::new());
    loop {
        while asked.len() < AT_ONCE
            && let Some(question) = waiting.next()
        {
            asked.spawn_blocking(move || ask(&question));
        }
        match asked.join_next().await {
            Some(Ok(view)) => told.push(view),
            Some(Err(error)) => return Err(format!("a check has failed: {error}")),
            None => break,
        }
    }
    told.sort_by(|a, b| (&a.peer, a.address).cmp(&(&b.peer, b.address)));
    Ok(told)
}

fn questions(view: &FabricView, wanted: Option<&str>) -> Result<Vec<Question>, String> {
    if view.state != "member" {
        let why = view.message.as_deref().unwrap_or_default();
        return Err(format!("this host is no member of a fabric: {why}"));
    }
    let is_wanted = |peer: &&PeerView| match wanted {
        Some(name) => peer.name == name || peer.name.split_once('.').is_some_and(|(_, of)| of == name),
        None => true,
    };
    let peers: Vec<_> = view.peers.iter().filter(is_wanted).collect();
    if let (Some(name), true) = (wanted, peers.is_empty()) {
        return Err(format!("no other member is called {name}; `balancingctl fabric` lists them"));
    }
    let mine = view.mtu.unwrap_or(u32::MAX);
    let of_peer = |peer: &&PeerView| {
        let ask = |to: &IpAddr| {
            let from = view.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4())?;
            Some(Question { peer: peer.name.clone(), from: *from, to: *to, mtu: mine.min(peer.mtu) })
        };
        peer.addresses.iter().filter_map(ask).collect::<Vec<_>>()
    };
    Ok(peers.iter().take(MOST).flat_map(of_peer).collect())
}

fn ask(question: &Question) -> CheckView {
    let Question { peer, from, to, mtu } = question;
    let mut view = CheckView {
        peer: peer.clone(),
        address: *to,
        reachable: false,
        round_trip: None,
        mtu: None,
        problem: None,
    };
    match echo(*from, *to, SMALL, PATIENCE) {
        Ok(time) => {
            view.reachable = true;
            view.round_trip = Some(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        Err(error) => {
            view.problem = Some(unreachable(&error));
            return view;
        }
    }
    match echo(*from, *to, *mtu as usize, PATIENCE) {
        Ok(_) => view.mtu = Some(*mtu),
        Err(error) => {
            view.problem = Some(format!(
                "small packets get there, one of {mtu} bytes does not ({error}): the way between the hosts carries less than \
                 their interfaces say; set spec.mtu of the TunnelFabric lower"
            ));
        }
    }
    view
}

fn unreachable(error: &EchoError) -> String {
    match error {
        EchoError::Silent(_) => format!(
            "{error}: is the member up and its agent ready, does a firewall between the hosts let the tunnel's UDP port \
             through, and does the peer count drops (`balancingctl fabric` there)?"
        ),
        EchoError::TooLong(_) | EchoError::Refused { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> FabricView {
        let peer = |name: &str, addresses: &[&str]| PeerView {
            name: name.to_owned(),
            underlay: Vec::new(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1400,
        };
        FabricView {
            state: "member".to_owned(),
            mtu: Some(1450),
            addresses: vec!["10.211.0.1".parse().unwrap()],
            peers: vec![peer("node.a", &["10.211.0.2", "fd11::2"]), peer("host.b", &["10.211.0.3"])],
            ..FabricView::default()
        }
    }

    fn asked(wanted: Option<&str>) -> Result<Vec<String>, String> {
        let questions = questions(&view(), wanted)?;
        Ok(questions.iter().map(|q| format!("{} {} {}", q.peer, q.to, q.mtu)).collect())
    }

    #[test]
    fn a_member_is_asked_at_the_addresses_that_this_host_can_ask() {
        assert_eq!(asked(None).unwrap(), ["node.a 10.211.0.2 1400", "host.b 10.211.0.3 1400"]);
        assert_eq!(asked(Some("b")).unwrap(), ["host.b 10.211.0.3 1400"]);
        assert_eq!(asked(Some("node.a")).unwrap(), ["node.a 10.211.0.2 1400"]);
        assert!(asked(Some("c")).unwrap_err().contains("no other member is called c"));
        let outside = FabricView { state: "outside".to_owned(), ..view() };
        assert!(questions(&outside, None).is_err());
    }
}
