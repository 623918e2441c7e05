use super::*;

const OURS: &str = r#"{"type":"balancing-cni","failurePolicy":"ignore"}"#;

/// A list as its author wrote it, with what an edit must not touch.
const ODD: &str = "{\r\n\t\"zeta\" : 9007199254740993, \"name\":\"kindnet\",\r\n  \"cniVersion\": \"0.3.1\",\r\n  \
    \"plugins\": [\r\n    { \"type\": \"ptp\", \"x\": 1e400, \"y\": \"\\u00e4\", \"x\": 2 },\r\n    {\"type\":\"portmap\"}\r\n  ]\r\n}";

fn types(text: &str) -> Vec<String> {
    Conflist::parse(text).unwrap().types().map(str::to_owned).collect()
}

fn with(text: &str) -> Option<String> {
    Conflist::parse(text).unwrap().with(OURS, &Place::Last)
}

/// A list of plugins of these types.
fn list(kinds: &[&str]) -> String {
    let plugins: Vec<String> = kinds.iter().map(|kind| format!("{{\"type\":\"{kind}\"}}")).collect();
    format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"net\",\"plugins\":[{}]}}", plugins.join(", "))
}

#[test]
fn g2_ours_becomes_the_last_of_any_number() {
    for kinds in [&["bridge"][..], &["a", "b", "c", "d", "e"]] {
        let edited = with(&list(kinds)).unwrap();
        assert_eq!(types(&edited), [kinds, &[PLUGIN]].concat());
        assert_eq!(with(&edited), None, "{edited}");
    }
    assert_eq!(Conflist::parse(&list(&[])).unwrap_err(), Malformed::NoPlugins);
}

#[test]
fn g5_what_is_there_already_is_not_written() {
    let edited = with(ODD).unwrap();
    assert_eq!(with(&edited), None);
    let spaced = edited.replace(OURS, "{ \"failurePolicy\" : \"ignore\" ,\n\"type\":\"balancing-cni\" }");
    assert_ne!(spaced, edited);
    assert_eq!(with(&spaced), None, "what it says counts");
}

#[test]
fn g6_other_settings_are_replaced_in_place() {
    let old = with(ODD).unwrap().replace("ignore", "fail");
    let edited = with(&old).unwrap();
    assert_eq!(edited, with(ODD).unwrap());
}

#[test]
fn g7_several_become_one() {
    for kinds in [
        &[PLUGIN, "bridge", PLUGIN][..],
        &["bridge", PLUGIN, PLUGIN],
        &[PLUGIN, PLUGIN, "bridge"],
        &[PLUGIN, "bridge", PLUGIN, PLUGIN, "portmap", PLUGIN],
    ] {
        let others: Vec<&str> = kinds.iter().copied().filter(|kind| *kind != PLUGIN).collect();
        let edited = with(&list(kinds)).unwrap();
        assert_eq!(types(&edited), [&others[..], &[PLUGIN]].concat(), "{edited}");
    }
}

#[test]
fn g8_one_that_is_not_last_is_moved() {
    let edited = with(&list(&["bridge", PLUGIN, "portmap"])).unwrap();
    assert_eq!(types(&edited), ["bridge", "portmap", PLUGIN]);
    let before = Place::Before("portmap".to_owned());
    let text = list(&["bridge", "portmap", "tuning"]);
    let edited = Conflist::parse(&text).unwrap().with(OURS, &before).unwrap();
    assert_eq!(types(&edited), ["bridge", PLUGIN, "portmap", "tuning"]);
    assert_eq!(Conflist::parse(&edited).unwrap().with(OURS, &before), None);
    let absent = Conflist::parse(&text).unwrap().with(OURS, &Place::Before("istio-cni".to_owned())).unwrap();
    assert_eq!(types(&absent), ["bridge", "portmap", "tuning", PLUGIN]);
}

#[test]
fn g26_those_that_want_to_be_last_too_may_stay_behind() {
    for kinds in [&["bridge", PLUGIN, "istio-cni"][..], &["bridge", PLUGIN, "linkerd-cni", "istio-cni"]] {
        let text = list(kinds).replace("{\"type\":\"balancing-cni\"}", OURS);
        assert_eq!(with(&text), None, "{text}");
    }
    assert_eq!(types(&with(&list(&["bridge", "istio-cni"])).unwrap()), ["bridge", "istio-cni", PLUGIN]);
    assert_eq!(
        types(&with(&list(&[PLUGIN, "bridge", "istio-cni"])).unwrap()),
        ["bridge", "istio-cni", PLUGIN]
    );
}

#[test]
fn g11_each_version_stays() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let text = list(&["bridge"])
            .replace("\"1.0.0\"", &format!("\"{version}\",\"cniVersions\":[\"0.4.0\",\"{version}\"]"));
        let edited = with(&text).unwrap();
        assert_eq!(edited.replace(&format!(",{OURS}"), ""), text);
        assert_eq!(Conflist::parse(&edited).unwrap().version, version);
    }
}

#[test]
fn g9_nothing_else_changes() {
    let edited = with(ODD).unwrap();
    let expected =
        ODD.replace("{\"type\":\"portmap\"}\r\n", &format!("{{\"type\":\"portmap\"}},\r\n    {OURS}\r\n"));
    assert_eq!(edited, expected);
    assert_eq!(Conflist::parse(&edited).unwrap().without().unwrap(), ODD, "and back");
}

#[test]
fn taken_out_it_leaves_the_rest_as_it_was() {
    for kinds in [
        &[PLUGIN, "bridge"][..],
        &["bridge", PLUGIN],
        &["a", PLUGIN, "b"],
        &[PLUGIN, PLUGIN, "a", PLUGIN, PLUGIN, "b", PLUGIN],
    ] {
        let others: Vec<&str> = kinds.iter().copied().filter(|kind| *kind != PLUGIN).collect();
        let text = list(kinds);
        assert_eq!(Conflist::parse(&text).unwrap().without().unwrap(), list(&others));
    }
    assert_eq!(Conflist::parse(&list(&["bridge"])).unwrap().without(), None);
}

#[test]
fn taken_out_from_before_another_it_leaves_blanks_before_commas() {
    let text = r#"{"plugins": [ {"type": "bridge"}  ,  {"type": "portmap"} ]}"#;
    let place = Place::Before("portmap".to_owned());
    let with = Conflist::parse(text).unwrap().with(r#"{"type":"balancing-cni"}"#, &place).unwrap();
    assert_eq!(Conflist::parse(&with).unwrap().without().unwrap(), text);
}

#[test]
fn a_list_of_ours_alone_is_no_network() {
    let text = list(&[PLUGIN]);
    let alone = Conflist::parse(&text).unwrap();
    assert!(!alone.has_others());
    assert_eq!((alone.with(OURS, &Place::Last), alone.without()), (None, None));
}

#[test]
fn what_libcni_refuses_is_refused() {
    for text in
        ["", "{", "[]", "null", "{}", r#"{"plugins":{}}"#, r#"{"plugins":[1]}"#, r#"{"plugins":[null]}"#]
    {
        assert!(matches!(Conflist::parse(text), Err(Malformed::Shape(_))), "{text}");
    }
    let without_type = r#"{"plugins":[{"type":"a"},{"name":"b"}]}"#;
    assert_eq!(Conflist::parse(without_type).unwrap_err(), Malformed::NoType(1));
}

#[test]
fn g3_a_single_configuration_becomes_a_list_with_its_own_text_in_it() {
    let single = "{ \"cniVersion\": \"0.3.1\", \"name\": \"net\\\"1\",\n \"type\": \"bridge\", \"n\": 9007199254740993 }\n";
    let text = list_of(single).unwrap();
    let list = Conflist::parse(&text).unwrap();
    assert_eq!((list.name.as_str(), list.version.as_str()), ("net\"1", "0.3.1"));
    assert!(text.contains(single.trim()));
    assert_eq!(types(&list.with(OURS, &Place::Last).unwrap()), ["bridge", PLUGIN]);
    assert!(matches!(list_of("{}"), Err(Malformed::NoType(0))));
    assert!(list_of("[]").is_err());
}

#[test]
fn g47_ours_is_never_the_first() {
    let before = Place::Before("bridge".to_owned());
    for kinds in [&["bridge", "portmap"][..], &[PLUGIN, "bridge"], &["bridge", PLUGIN]] {
        let text = list(kinds);
        let found = Conflist::parse(&text).unwrap();
        assert!(found.would_lead(&before) && !found.would_lead(&Place::Last));
        assert_eq!(found.with(OURS, &before), None);
    }
    // Also where all others want to be the last one.
    let alone = list(&[PLUGIN, "istio-cni"]).replace("{\"type\":\"balancing-cni\"}", OURS);
    assert_eq!(types(&with(&alone).unwrap()), ["istio-cni", PLUGIN]);
}
