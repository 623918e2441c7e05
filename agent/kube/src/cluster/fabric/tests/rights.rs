//! What a member has no right to, and who has left.

use super::*;

/// Statuses are of no interest here.
fn removed(lab: &mut Lab) -> Vec<String> {
    lab.write().into_iter().filter(|told| told.starts_with("- ")).collect()
}

fn two_nodes() -> Lab {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &node("n1", "u1") + &node("n2", "u2")));
    for (name, uid, born, address) in [("n1", "u1", 1, "10.211.0.2"), ("n2", "u2", 2, "10.211.0.3")] {
        lab.put(&(claim("Node", name, uid, address) + &member("Node", name, uid, born, address)));
    }
    assert_eq!(removed(&mut lab), NOTHING);
    lab
}

#[test]
fn an_address_is_whose_claim_of_it_is_and_age_does_not_count() {
    let mut lab = two_nodes();
    // The older one takes the younger one's address.
    lab.put(&member("Node", "n1", "u1", 1, "10.211.0.3"));
    let told = lab.write();
    assert_eq!(told, ["node.n1: DuplicateAddress=True"], "not the one who has the claim");
    lab.pass(MINUTE / 30);
    assert_eq!(removed(&mut lab), ["- TunnelNode node.n1: its address 10.211.0.3 is claimed by Node n2"]);
}

#[test]
fn a_claim_that_is_heard_of_late_harms_nobody() {
    let mut lab = two_nodes();
    lab.put(&member("Node", "n2", "u2", 2, "10.211.0.9"));
    lab.pass(4 * MINUTE / 60);
    assert_eq!(lab.write(), NOTHING, "its claim may come any moment");
    lab.put(&claim("Node", "n2", "u2", "10.211.0.9"));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
    lab.pass(MINUTE);
    assert_eq!(lab.write(), NOTHING);
}

#[test]
fn the_underlay_address_of_another_node_is_taken_back() {
    let mut lab = two_nodes();
    let elsewhere = |name: &str, uid: &str, address: &str| node(name, uid).replace("192.0.2.1", address);
    lab.put(&elsewhere("n1", "u1", "192.0.2.7"));
    lab.write();
    lab.pass(MINUTE / 6);
    assert_eq!(removed(&mut lab), NOTHING, "a kubelet may tell of its address a little later");
    lab.pass(MINUTE / 6);
    let said = "- TunnelNode node.n1: its underlay address 192.0.2.1 is an address of Node n2";
    assert_eq!(removed(&mut lab), [said]);
    lab.put(&node("n1", "u1"));
    lab.pass(MINUTE);
    assert_eq!(removed(&mut lab), NOTHING, "both Nodes have it");
}

#[test]
fn a_node_that_leaves_its_fabric_keeps_nothing() {
    let mut lab = two_nodes();
    let selecting = |text: &str, accepted: &str| {
        let said = format!(
            "status: {{conditions: [{{type: Accepted, status: '{accepted}', observedGeneration: 0}}]}}}}\n---"
        );
        let text = fabric("f", 1, &format!("10.211.0.0/16, nodeSelector: {{matchLabels: {text}}}"));
        text.replace("}\n---", &format!(", {said}"))
    };
    lab.put(&node("n1", "u1").replace("name: n1,", "name: n1, labels: {in: fabric},"));
    for (selector, accepted) in [("{in: fabric}", "False"), ("{}", "True"), ("{in: fabric}", "False")] {
        // What is not accepted takes nobody out, whether it is known what was accepted before or not.
        lab.put(&selecting(selector, accepted));
        assert_eq!(removed(&mut lab), NOTHING);
        lab.pass(MINUTE);
        assert_eq!(removed(&mut lab), NOTHING);
    }
    lab.put(&selecting("{in: fabric}", "True"));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.pass(MINUTE);
    assert_eq!(removed(&mut lab), ["- TunnelNode node.n2: its owner is not in that fabric any more"]);
    lab.delete(&member("Node", "n2", "u2", 2, "10.211.0.3"));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.pass(15 * MINUTE);
    let said = "- TunnelAddressClaim 10-211-0-3: the TunnelNode of its owner does not have the address";
    assert_eq!(removed(&mut lab), [said]);
}

#[test]
fn what_a_deleted_fabric_leaves_waits_for_one_of_the_same_name() {
    let mut lab = two_nodes();
    lab.delete(&fabric("f", 1, "10.211.0.0/16"));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.pass(14 * MINUTE);
    lab.put(&fabric("f", 2, "10.211.0.0/16"));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.delete(&fabric("f", 2, "10.211.0.0/16"));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.pass(14 * MINUTE);
    assert_eq!(removed(&mut lab), NOTHING, "its time begins anew");
    lab.pass(MINUTE);
    let gone = |name: &str| format!("- TunnelNode {name}: its fabric is gone");
    assert_eq!(removed(&mut lab), [gone("node.n1"), gone("node.n2")]);
    // A fabric that is not valid may be the one: what it made stays.
    lab.put(&fabric("f", 1, "10.0.0.1/8"));
    lab.pass(60 * MINUTE);
    assert_eq!(removed(&mut lab), NOTHING);
}

#[test]
fn the_mac_of_another_member_is_taken_back() {
    let mut lab = two_nodes();
    let own = member("Node", "n1", "u1", 1, "10.211.0.2");
    let mac = |name: &str| mac_of("f", name).map(|byte| format!("{byte:02x}")).join(":");
    lab.put(&own.replace(&mac("node.n1"), &mac("node.n2")));
    assert_eq!(removed(&mut lab), NOTHING);
    lab.pass(MINUTE / 30);
    assert_eq!(removed(&mut lab), ["- TunnelNode node.n1: its MAC is not its own"]);
    lab.put(&own);
    lab.pass(MINUTE);
    assert_eq!(removed(&mut lab), NOTHING);
}

#[test]
fn of_two_hosts_outside_with_one_underlay_address_the_younger_is_told() {
    let mut lab =
        Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &host("a", "user: a") + &host("b", "user: b")));
    lab.put(
        &(claim("ExternalHost", "a", "a-uid", "10.211.0.2")
            + &claim("ExternalHost", "b", "b-uid", "10.211.0.3")),
    );
    lab.put(&member("ExternalHost", "a", "a-uid", 1, "10.211.0.2"));
    let other = member("ExternalHost", "b", "b-uid", 2, "10.211.0.3");
    lab.put(&other);
    let told: Vec<_> = lab.write().into_iter().filter(|told| told.starts_with("host.")).collect();
    assert_eq!(told, ["host.b: DuplicateUnderlay=True"]);
    lab.pass(MINUTE);
    assert_eq!(removed(&mut lab), NOTHING, "nobody knows which of them is right");
    let moved = parse(&other.replace("ipv4: 192.0.2.1", "ipv4: 192.0.2.2"), Format::Yaml).unwrap();
    lab.snapshot.apply(moved.objects.into_iter().map(|object| (object.key(), Some(object))));
    assert!(lab.write().contains(&"host.b: NoConflict=False".to_owned()));
}
