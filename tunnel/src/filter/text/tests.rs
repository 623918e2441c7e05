use super::*;
use crate::{AcceptFrom, Mac};

fn fabric() -> Fabric {
    Fabric {
        name: "default".into(),
        vni: 7710,
        port: 7711,
        ipv4_pool: None,
        ipv6_pool: None,
        mtu: None,
        accept_from: AcceptFrom::Members,
    }
}

fn member(name: &str, addresses: &[&str]) -> Member {
    let pair = |addresses: &[&str]| addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect();
    let (underlay, tunnel) = addresses.split_at(addresses.len() / 2);
    Member {
        name: name.into(),
        underlay: pair(underlay),
        port: 7711,
        mac: Mac::default(),
        addresses: pair(tunnel),
        mtu: 0,
    }
}

fn own() -> Member {
    member("node.n1", &["192.0.2.1", "2001:db8::1", "10.211.0.1", "fd11::1"])
}

#[test]
fn the_whole_table_as_text() {
    let peer = member("node.n2", &["192.0.2.2", "10.211.0.2"]);
    let wanted = Wanted::new(&[peer], &fabric(), &own());
    let text = wanted.transaction(Scope::Everything);
    let expected = format!(
        r#"add table inet balancing
delete table inet balancing
add table inet balancing
add counter inet balancing not_a_member
add counter inet balancing wrong_inner_source
add counter inet balancing not_ip
add counter inet balancing from_a_pod
add set inet balancing members4 {{ type ipv4_addr; }}
add set inet balancing members6 {{ type ipv6_addr; }}
add set inet balancing bound44 {{ typeof ip saddr . @th,336,32; }}
add set inet balancing bound46 {{ typeof ip saddr . @th,304,128; }}
add set inet balancing bound64 {{ typeof ip6 saddr . @th,336,32; }}
add set inet balancing bound66 {{ typeof ip6 saddr . @th,304,128; }}
add chain inet balancing tunnel
add chain inet balancing input {{ type filter hook input priority -300; policy accept; }}
add chain inet balancing forward {{ type filter hook forward priority -300; policy accept; }}
add chain inet balancing clamp {{ type filter hook forward priority mangle; policy accept; }}
flush chain inet balancing tunnel
flush chain inet balancing input
flush chain inet balancing forward
flush chain inet balancing clamp
flush set inet balancing members4
flush set inet balancing members6
flush set inet balancing bound44
flush set inet balancing bound46
flush set inet balancing bound64
flush set inet balancing bound66
add element inet balancing bound44 {{ 192.0.2.1 . 0x0ad30001, 192.0.2.2 . 0x0ad30002 }}
add element inet balancing bound46 {{ 192.0.2.1 . 0xfd110000000000000000000000000001 }}
add element inet balancing bound64 {{ 2001:db8::1 . 0x0ad30001 }}
add element inet balancing bound66 {{ 2001:db8::1 . 0xfd110000000000000000000000000001 }}
add element inet balancing members4 {{ 192.0.2.1, 192.0.2.2 }}
add element inet balancing members6 {{ 2001:db8::1 }}
add rule inet balancing tunnel iifname != "lo" ip saddr 192.0.2.1 counter name not_a_member drop
add rule inet balancing tunnel iifname != "lo" ip6 saddr 2001:db8::1 counter name not_a_member drop
add rule inet balancing tunnel ip saddr != @members4 counter name not_a_member drop
add rule inet balancing tunnel ip6 saddr != @members6 counter name not_a_member drop
add rule inet balancing tunnel @th,224,16 0x0800 ip saddr . @th,336,32 @bound44 accept
add rule inet balancing tunnel @th,224,16 0x0800 ip6 saddr . @th,336,32 @bound64 accept
add rule inet balancing tunnel @th,224,16 0x86dd ip saddr . @th,304,128 @bound46 accept
add rule inet balancing tunnel @th,224,16 0x86dd ip6 saddr . @th,304,128 @bound66 accept
add rule inet balancing tunnel @th,224,16 {{ 0x0800, 0x86dd }} counter name wrong_inner_source drop
add rule inet balancing tunnel counter name not_ip drop
add rule inet balancing input udp dport 7711 exthdr frag exists counter name not_a_member drop
add rule inet balancing input udp dport 7711 @th,96,24 7710 goto tunnel comment "generation {}"
add rule inet balancing forward udp dport 7711 @th,96,24 7710 counter name from_a_pod drop
add rule inet balancing forward udp dport 7711 ip frag-off & 0x3fff != 0 counter name from_a_pod drop
add rule inet balancing forward udp dport 7711 exthdr frag exists counter name from_a_pod drop
add rule inet balancing clamp oifname {{ "balancing0", "balancing1" }} tcp flags syn / syn,rst tcp option maxseg size set rt mtu
"#,
        wanted.generation()
    );
    assert_eq!(text, expected);
}

#[test]
fn a_change_sends_the_elements_that_differ() {
    let n2 = member("node.n2", &["192.0.2.2", "10.211.0.2"]);
    let n3 = member("node.n3", &["192.0.2.3", "10.211.0.3"]);
    let (before, after) = (Wanted::new(&[n2], &fabric(), &own()), Wanted::new(&[n3], &fabric(), &own()));
    let text = after.transaction(Scope::Since(&before));
    let elements: Vec<&str> = text.lines().filter(|line| line.contains(" element ")).collect();
    assert_eq!(
        elements,
        [
            "delete element inet balancing bound44 { 192.0.2.2 . 0x0ad30002 }",
            "delete element inet balancing members4 { 192.0.2.2 }",
            "add element inet balancing bound44 { 192.0.2.3 . 0x0ad30003 }",
            "add element inet balancing members4 { 192.0.2.3 }",
        ]
    );
    assert!(!text.contains("flush set") && !text.contains("delete table"), "{text}");
}

#[test]
fn a_generation_is_of_everything_and_of_nothing_else() {
    let n2 = member("node.n2", &["192.0.2.2", "10.211.0.2"]);
    let n3 = member("node.n3", &["192.0.2.3", "10.211.0.3"]);
    let generation = |members: &[Member], fabric| Wanted::new(members, &fabric, &own()).generation();
    let both = generation(&[n2.clone(), n3.clone()], fabric());
    assert_eq!(both, generation(&[n3.clone(), own(), n2.clone()], fabric()));
    assert_ne!(both, generation(std::slice::from_ref(&n2), fabric()));
    assert_ne!(both, generation(&[n2, n3], Fabric { vni: 1, ..fabric() }));
}

#[test]
fn many_elements_are_several_commands() {
    let members: Vec<Member> = (0..1200)
        .map(|n| {
            member(
                &format!("n{n}"),
                &[&format!("192.0.{}.{}", n / 250, n % 250), &format!("10.211.{}.{}", n / 250, n % 250)],
            )
        })
        .collect();
    let text = Wanted::new(&members, &fabric(), &own()).transaction(Scope::Elements);
    assert_eq!(
        text.lines().filter(|line| line.starts_with("add element inet balancing members4")).count(),
        3
    );
}

#[test]
fn elements_of_the_kernel_read_as_they_were_written() {
    let key = |element: &Element| -> Vec<u8> {
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [Some(element.outer), element.inner].into_iter().flatten().flat_map(bytes).collect()
    };
    let wanted = Wanted::new(&[], &fabric(), &own());
    assert_eq!(wanted.elements.len(), SETS.len());
    for element in &wanted.elements {
        let key = key(element);
        assert_eq!(Element::read(element.set, &key), Some(*element));
        assert_ne!(Element::read(element.set, &key[1..]), Some(*element));
        assert_eq!(Element::read(element.set, &[]), None);
    }
}
