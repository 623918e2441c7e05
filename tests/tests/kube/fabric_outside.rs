//! A host outside the cluster in bad times: no API server, its objects taken away, its permission withdrawn, somebody else in its name.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
};

use balancing_core::view::AgentView;
use balancing_tests::*;
use serde_json::{Value, json};

use crate::{
    fabric_hosts::{ANNOTATION, FRONT, Fabric, bind_host, pod_on, policy, tunnel_fabric},
    world::{NAMESPACE, VERSION, answered_by, repository, text},
};

/// A host outside that reaches a pod of `n1`.
struct Reaching {
    fabric: Fabric,
    client: Client,
    _place: Sandbox,
    _server: EchoServer,
}

impl Reaching {
    fn start() -> Self {
        let mut fabric = Fabric::start();
        fabric.start_agents();
        fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
        fabric.permit();
        let pod = fabric.world.plane.run_pod(&pod_on("n1", "a", "10.244.1.5"));
        let place = fabric.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
        let server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
        fabric.world.put(&policy());
        let mut client = fabric.outside.client();
        answered_by(&mut client, FRONT, "a");
        Self { fabric, client, _place: place, _server: server }
    }

    /// Waits until the stored state has all that the host needs.
    fn wait_stored(&self) {
        let path = self.fabric.outside.state_dir().join("state.json");
        let proxy = self.fabric.proxy_of("n1");
        eventually(|| {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let state: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let count = |kind: &str| state["objects"][kind].as_array().map_or(0, Vec::len);
            let counts = ["TunnelNode", "ExternalHost", "BalancingPolicy"].map(count);
            let has_backend = state["objects"]["EndpointSlice"].to_string().contains(&proxy);
            if counts == [4, 1, 1] && has_backend { Ok(()) } else { Err(text) }
        });
    }
}

#[test]
fn a_host_outside_that_restarts_without_api_server_works_from_its_stored_state() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    stage.wait_stored();
    stage.fabric.world.plane.stop_api_server();
    stage.fabric.outside.reboot();
    assert!(stage.client.ask_tcp(address(FRONT)).is_err(), "nothing is left in the kernel");
    stage.fabric.outside.start_until(|_| true);
    answered_by(&mut stage.client, FRONT, "a");
    let stands_in =
        |view: &AgentView| view.source.problems.iter().any(|text| text.contains("stand in until it does"));
    let view = stage.fabric.outside.wait_view(stands_in);
    assert!(!view.source.synced, "{view:#?}");
    let metrics = stage.fabric.outside.http(Node::METRICS, "/metrics").unwrap().1;
    assert!(metrics.contains("balancing_stored_state_in_force 1"), "{metrics}");
    stage.client.start_churn(&Churn::to(Kind::Tcp4, address(FRONT)));
    stage.fabric.world.plane.start_api_server();
    stage.fabric.outside.wait_view(|view| view.ready && view.source.synced && !stands_in(view));
    let report = stage.client.stop_churn();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    stage.fabric.world.delete(&policy());
    eventually(|| match stage.client.ask_tcp(address(FRONT)) {
        Err(_) => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
}

#[test]
fn a_stored_state_that_is_broken_is_ignored_and_replaced() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    stage.wait_stored();
    stage.fabric.outside.reboot();
    fs::write(stage.fabric.outside.state_dir().join("state.json"), "{\"version\":1").unwrap();
    stage.fabric.world.plane.stop_api_server();
    stage
        .fabric
        .outside
        .start_until(|view| view.source.problems.iter().any(|text| text.contains("it is broken")));
    assert!(stage.client.ask_tcp(address(FRONT)).is_err());
    stage.fabric.world.plane.start_api_server();
    answered_by(&mut stage.client, FRONT, "a");
    stage.wait_stored();
    stage.fabric.outside.wait_view(|view| view.source.problems.is_empty());
    stage.fabric.outside.agent().kill();
    assert!(stage.fabric.outside.cleanup().0.success());
    assert!(!stage.fabric.outside.state_dir().exists());
    assert!(!stage.fabric.outside.host().ip(&["-br", "link"]).contains("balancing"));
}

/// An object of this kind and name, to be read.
fn named(kind: &str, name: &str) -> Object {
    Object::named(VERSION, kind, "", name)
}

impl Reaching {
    /// Waits for something that `balancingctl fabric` says on the host outside.
    fn wait_says(&self, state: &str, words: &str) {
        eventually(|| {
            let view = self.fabric.outside.ctl_json(&["fabric"]);
            let is_said =
                view["state"] == state && view["message"].as_str().unwrap_or_default().contains(words);
            if is_said { Ok(()) } else { Err(format!("{view:#}")) }
        });
    }

    /// Waits until `n1` has the host outside among its peers, or has it no more.
    fn wait_peer(&self, wanted: bool) {
        eventually(|| {
            let peers = self.fabric.nodes[0].ctl_json(&["fabric"])["peers"].to_string();
            if peers.contains("host.edge-1") == wanted { Ok(()) } else { Err(peers) }
        });
    }

    /// Waits until the host outside has no tunnel.
    fn wait_left(&mut self, words: &str) {
        self.wait_says("outside", words);
        eventually(|| match self.fabric.outside.host().ip(&["-br", "link"]) {
            links if links.contains("balancing") => Err(links),
            _ => Ok(()),
        });
        assert!(self.client.ask_tcp(address(FRONT)).is_err());
    }
}

#[test]
fn what_a_reaper_took_comes_back_with_the_same_address() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    let client = stage.fabric.world.plane.client();
    let member = client.get(&named("TunnelNode", "host.edge-1")).unwrap();
    let own = text(&member, "/spec/addresses/0").to_owned();
    let claim = client.get(&named("TunnelAddressClaim", &own.replace('.', "-"))).unwrap();
    client.delete(&claim).unwrap();
    client.delete(&member).unwrap();
    for (kind, taken) in [("TunnelNode", &member), ("TunnelAddressClaim", &claim)] {
        let back = eventually(|| match client.get(&named(kind, taken.name())) {
            Ok(back) if back.uid() != taken.uid() => Ok(back),
            other => Err(format!("{other:?}")),
        });
        assert!(back.json().contains(&own), "{}", back.json());
    }
    answered_by(&mut stage.client, FRONT, "a");
}

#[test]
fn a_host_whose_permission_is_withdrawn_leaves_and_joins_again_with_it() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    // More than once: what the agent wrote just before it left must not count as written when it is back.
    for _ in 0..3 {
        let host = stage.fabric.world.put(&stage.fabric.permit().with("/spec/paused", true));
        stage.wait_left("paused by spec.paused");
        stage.wait_peer(false);
        stage.fabric.world.put(&host.with("/spec/paused", false));
        answered_by(&mut stage.client, FRONT, "a");
    }
    stage.wait_peer(true);
    stage.fabric.world.delete(&named("ExternalHost", "edge-1"));
    stage.wait_left("there is no ExternalHost edge-1");
    stage.wait_peer(false);
    stage.fabric.permit();
    answered_by(&mut stage.client, FRONT, "a");
}

#[test]
fn a_new_pool_that_is_refused_keeps_nobody_in_and_nobody_out() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    let fabric = stage.fabric.world.put(&tunnel_fabric("10.244.0.0/16"));
    stage.fabric.world.wait_condition(&fabric, "Accepted", ("False", "PoolOverlaps"), "10.244.");
    eventually(|| {
        let problems = stage.fabric.nodes[0].ctl_json(&["fabric"])["problems"].to_string();
        if problems.contains("is not accepted") { Ok(()) } else { Err(problems) }
    });
    answered_by(&mut stage.client, FRONT, "a");
    let host = stage.fabric.world.put(&stage.fabric.permit().with("/spec/paused", true));
    stage.wait_left("paused by spec.paused");
    stage.wait_peer(false);
    stage.fabric.world.put(&host.with("/spec/paused", false));
    answered_by(&mut stage.client, FRONT, "a");
    // A machine that starts anew has no device, and makes none by what it does not know.
    let n1 = &mut stage.fabric.nodes[0];
    n1.agent().kill();
    n1.host().ip(&["link", "del", "balancing0"]);
    n1.agent().start(|| true);
    eventually(|| match text(&stage.fabric.node("n1"), ANNOTATION) {
        "" => Ok(()),
        told => Err(format!("others are sent to {told}")),
    });
    stage.fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    answered_by(&mut stage.client, FRONT, "a");
}

/// Whoever lost the right to ask is not told that it is out: the others know.
#[test]
fn a_host_whose_token_is_revoked_says_so_and_the_others_drop_it() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    stage.fabric.world.delete(&Object::named("v1", "ServiceAccount", NAMESPACE, "edge-1"));
    stage.wait_says("member", "does not accept the agent's credentials");
    assert_eq!(
        stage.client.ask_tcp(address(FRONT)),
        Ok("a".to_owned()),
        "nothing is lost because of an error"
    );
    stage.fabric.world.put(&stage.fabric.permit().with("/spec/paused", true));
    stage.wait_peer(false);
    eventually(|| match stage.client.ask_tcp(address(FRONT)) {
        Err(_) => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
}

#[test]
fn an_agent_in_the_name_of_another_host_writes_nothing() {
    if !require_kernel() {
        return;
    }
    let stage = Reaching::start();
    let world = &stage.fabric.world;
    let before = world.plane.client().get(&named("TunnelNode", "host.edge-1")).unwrap();
    let other = named("ExternalHost", "edge-2").with("/spec/fabric", "default");
    let other = other.with("/spec/serviceAccountName", "edge-2");
    world.put(&other.with("/spec/underlayCIDRs", json!(["192.168.0.0/16"])));
    let account = world.plane.service_account_kubeconfig(NAMESPACE, "edge-2");
    bind_host(world, "edge-2");
    let mut false_one =
        Node::in_cluster(&world.plane, "edge-1", &account, NAMESPACE, &["--role", "external"]);
    // In the networks that edge-1 may have, so that only the name is false.
    false_one.host().ip(&["link", "add", "under0", "type", "veth", "peer", "name", "under1"]);
    false_one.host().add_address("192.168.4.9/24", "under0");
    for device in ["under0", "under1"] {
        false_one.host().ip(&["link", "set", device, "up"]);
    }
    false_one.start_until(|_| true);
    let refused = "a host outside the cluster renews its own Lease only";
    eventually(|| match false_one.ctl_json(&["fabric"]) {
        view if view["message"].as_str().unwrap_or_default().ends_with(refused) => Ok(()),
        view => Err(format!("{view:#}")),
    });
    let after = world.plane.client().get(&named("TunnelNode", "host.edge-1")).unwrap();
    assert_eq!((before.uid(), before.at("/spec")), (after.uid(), after.at("/spec")));
}

/// Answers one request.
fn answer_once(server: &mut TcpListener) {
    let (mut stream, _) = server.accept().unwrap();
    let mut request = [0; 1024];
    assert!(stream.read(&mut request).unwrap() > 0);
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from a pod\n").unwrap();
}

/// The page from nothing to curl, but for the copying of files.
#[test]
fn a_host_outside_is_set_up_as_documented() {
    if !require_kernel() {
        return;
    }
    let page = fs::read_to_string(repository().join("docs/external-hosts.md")).unwrap();
    let yaml: Vec<&str> = page.split("```yaml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let files = TempDir::new("outside");
    let script = repository().join("install/external-host-kubeconfig.sh");
    let mut fabric = Fabric::start_with(|world| {
        let early = world.plane.shell(&format!("{} edge-1", script.display()), files.path());
        assert!(!early.ok && early.stderr.contains("edge-1"), "{}", early.stderr);
        yaml.iter().for_each(|objects| world.plane.apply(objects));
        for _renewed in 0..2 {
            let made = world.plane.shell(&format!("{} edge-1", script.display()), files.path());
            assert!(made.ok && made.stdout.contains("valid until 20"), "{} {}", made.stdout, made.stderr);
            println!("{}{}", made.stderr, made.stdout);
        }
        let elsewhere = |server: &str, file: &str| {
            let line =
                format!("API_SERVER={server} TLS_SERVER_NAME=api.test {} edge-1 {file}", script.display());
            world.plane.shell(&line, files.path())
        };
        let warned = |server: &str| {
            let made = elsewhere(server, "other.kubeconfig");
            assert!(made.ok, "{server}: {}", made.stderr);
            let written = fs::read_to_string(files.path().join("other.kubeconfig")).unwrap();
            assert!(written.contains(&format!(r#"server: "{server}""#)), "{written}");
            assert!(written.contains(r#"tls-server-name: "api.test""#), "{written}");
            made.stderr.contains("the host will look for it on itself")
        };
        assert!(warned("https://localhost") && warned("https://127.0.0.1/") && warned("https://[::1]:6443"));
        assert!(!warned("https://127.0.0.1.example.com:6443") && !warned("https://192.0.2.1"));
        let refused = elsewhere("http://192.0.2.1", "none.kubeconfig");
        assert!(!refused.ok && refused.stderr.contains("over https:// only"), "{}", refused.stderr);
        files.path().join("edge-1.kubeconfig")
    });
    let mode = fs::metadata(files.path().join("edge-1.kubeconfig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    fabric.start_agents();
    let pod = fabric.world.plane.run_pod(&pod_on("n1", "a", "10.244.1.5"));
    let place = fabric.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let mut server = place.netns.run(|| when_free(|| TcpListener::bind("10.244.1.5:80"))).unwrap();
    let answering = place.netns.spawn(move || answer_once(&mut server));
    let curl = page.lines().find_map(|line| line.strip_prefix("$ curl ")).unwrap();
    let curl: Vec<&str> = curl.split(' ').collect();
    eventually(|| {
        let mut command = fabric.outside.place().command("/usr/bin/curl");
        let ended = command.args(["-m", "5"]).args(&curl).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        if said.contains("hello from a pod") { Ok(()) } else { Err(said) }
    });
    answering.join().unwrap();
    for look in [&["fabric"][..], &["fabric", "check"]] {
        let said = fabric.outside.ctl(look);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        println!("$ balancingctl {}\n{}", look.join(" "), String::from_utf8_lossy(&said.stdout));
    }
    let told = fabric.outside.ctl_json(&["fabric"]);
    assert_eq!(told["problems"], json!([]), "{told:#}");
    for line in page.lines().filter(|line| line.starts_with("kubectl ")) {
        let done = fabric.world.plane.shell(line, files.path());
        assert!(done.ok, "{line}: {}", done.stderr);
    }
    eventually(|| match fabric.nodes[0].ctl_json(&["fabric"])["peers"].to_string() {
        peers if peers.contains("host.edge-1") => Err(peers),
        _ => Ok(()),
    });
}

/// The agent as the unit lets it run.
#[test]
fn the_capabilities_of_the_unit_are_enough() {
    if !require_kernel() {
        return;
    }
    let unit = fs::read_to_string(repository().join("install/systemd/balancing-agent.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names: Vec<String> = line.split(' ').map(|name| name.replace("CAP_", "+").to_lowercase()).collect();
    let files = TempDir::new("unit");
    let agent = program("balancing-agent");
    let script = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all,{} {} \"$@\"\n",
        names.join(","),
        agent.display()
    );
    let script = files.write("agent", script);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut stage = Reaching::start();
    stage.wait_stored();
    stage.fabric.outside.reboot();
    stage.fabric.outside.agent().replace_by(script);
    stage.fabric.outside.start();
    // And with what an agent before it left.
    stage.fabric.outside.agent().kill();
    stage.fabric.outside.start();
    answered_by(&mut stage.client, FRONT, "a");
    let checked = stage.fabric.outside.ctl_json(&["fabric", "check"]).to_string();
    assert!(!checked.contains("\"reachable\":false"), "{checked}");
    assert!(!stage.fabric.outside.agent().log().contains("not permitted"));
}
