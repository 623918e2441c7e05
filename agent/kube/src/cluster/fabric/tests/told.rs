//! What Events are written of.

use super::*;

fn reasons(lab: &Lab, taken_back: &TakenBack) -> Vec<String> {
    let known =
        Known { snapshot: &lab.snapshot, reading: &lab.reading, namespace: "own", now: lab.now, at: lab.at };
    let news = news(&known, taken_back, lab.at);
    news.into_iter().map(|((fabric, uid, reason), text)| format!("{fabric} {uid} {reason}: {text}")).collect()
}

#[test]
fn a_fabric_in_trouble_is_news_as_long_as_it_is() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/28") + &node("n1", "u1") + &node("n2", "u2")));
    let mut taken_back = TakenBack::default();
    assert_eq!(reasons(&lab, &taken_back), NOTHING);
    for last in 2..14 {
        lab.put(&claim("Node", "n1", "u1", &format!("10.211.0.{last}")));
    }
    let said = reasons(&lab, &taken_back);
    assert!(
        said.len() == 1 && said[0].starts_with("f f-uid PoolNearlyFull: less than one address in 10"),
        "{said:?}"
    );
    lab.put(&claim("Node", "n1", "u1", "10.211.0.14"));
    let said = reasons(&lab, &taken_back);
    assert!(said.len() == 1 && said[0].starts_with("f f-uid PoolExhausted: all 13 addresses"), "{said:?}");
    lab.delete(&claim("Node", "n1", "u1", "10.211.0.14"));
    lab.delete(&claim("Node", "n1", "u1", "10.211.0.13"));
    lab.put(&member("Node", "n2", "u2", 1, "10.211.0.3"));
    lab.put(&member("Node", "n1", "u1", 2, "10.211.0.3"));
    let remains = garbage::remains(&Known {
        snapshot: &lab.snapshot,
        reading: &lab.reading,
        namespace: "own",
        now: lab.now,
        at: lab.at,
    });
    remains.iter().filter(|it| it.kind == Kind::TunnelNode).for_each(|it| taken_back.note(it, lab.at));
    assert_eq!(
        reasons(&lab, &taken_back),
        [
            "f f-uid AddressTakenBack: TunnelNode node.n2 of Node n2 is deleted: its address 10.211.0.3 is claimed by \
             Node n1; whoever wrote it may have the token of that member",
            "f f-uid MemberConflicted: of TunnelNode node.n2 an address belongs to another one: see their condition Conflicted",
        ]
    );
    lab.delete(&member("Node", "n2", "u2", 1, "10.211.0.3"));
    lab.pass(5 * MINUTE);
    assert_eq!(reasons(&lab, &taken_back), NOTHING);
}
