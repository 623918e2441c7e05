//! The rights of the agents: enough, which every other suite shows, and no more.

use balancing_tests::*;
use serde_json::json;

use crate::{
    fabric_hosts::bind_host,
    world::{NAMESPACE, World, answered_by, repository},
};

/// Verb; resource with its group after a dot, a subresource after a colon and a name after an equals sign;
/// namespace, empty for the whole cluster.
type Right = (&'static str, &'static str, &'static str);

/// What the API server's authorizer says.
fn may(world: &World, account: &str, (verb, resource, namespace): Right) -> bool {
    let (resource, name) = resource.split_once('=').unwrap_or((resource, ""));
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = Object::from(json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "name": name, "namespace": namespace,
            },
        },
    }));
    let answer = world.plane.client().create(&review).unwrap();
    answer.at("/status/allowed").as_bool().unwrap()
}

const ACCOUNTS: [&str; 3] = ["balancing-agent", "balancing-external", "balancing-controller"];

#[test]
fn everybody_may_do_what_they_do_and_nothing_else() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let [node, external, controller] = [0b001, 0b010, 0b100];
    let rights: &[(u8, Right)] = &[
        (node | external | controller, ("watch", "balancingpolicies.balancing.elf.io", "")),
        (node | external | controller, ("list", "services", "")),
        (node | controller, ("watch", "nodes", "")),
        (node | controller, ("get", "nodes", "")),
        (node, ("patch", "nodes", "")),
        (node | external | controller, ("watch", "tunnelfabrics.balancing.elf.io", "")),
        (node | external | controller, ("watch", "tunnelnodes.balancing.elf.io", "")),
        (external | controller, ("watch", "externalhosts.balancing.elf.io", "")),
        (node, ("create", "tunnelnodes.balancing.elf.io", "")),
        (node, ("patch", "tunnelnodes.balancing.elf.io", "")),
        (node | controller, ("delete", "tunnelnodes.balancing.elf.io", "")),
        (node, ("create", "tunneladdressclaims.balancing.elf.io", "")),
        (node | controller, ("delete", "tunneladdressclaims.balancing.elf.io", "")),
        (controller, ("patch", "tunnelfabrics.balancing.elf.io:status", "")),
        (controller, ("patch", "tunnelnodes.balancing.elf.io:status", "")),
        (controller, ("patch", "externalhosts.balancing.elf.io:status", "")),
        (controller, ("patch", "configmaps=balancing-external-hosts", NAMESPACE)),
        (controller, ("list", "leases.coordination.k8s.io", NAMESPACE)),
        (0, ("patch", "configmaps=other", NAMESPACE)),
        (0, ("update", "tunneladdressclaims.balancing.elf.io", "")),
        (0, ("patch", "tunnelfabrics.balancing.elf.io", "")),
        (0, ("create", "externalhosts.balancing.elf.io", "")),
        (0, ("patch", "externalhosts.balancing.elf.io", "")),
        (node | external | controller, ("watch", "endpointslices.discovery.k8s.io", NAMESPACE)),
        (node | external | controller, ("create", "events.events.k8s.io", "default")),
        (node | controller, ("watch", "localredirectpolicies.balancing.elf.io", "")),
        (node | controller, ("watch", "pods", "")),
        (controller, ("patch", "localredirectpolicies.balancing.elf.io:status", "")),
        (controller, ("patch", "balancingpolicies.balancing.elf.io:status", "")),
        (controller, ("create", "endpointslices.discovery.k8s.io", NAMESPACE)),
        (controller, ("update", "endpointslices.discovery.k8s.io", NAMESPACE)),
        (controller, ("delete", "endpointslices.discovery.k8s.io", NAMESPACE)),
        (controller, ("create", "leases.coordination.k8s.io", NAMESPACE)),
        (controller, ("get", "leases.coordination.k8s.io=balancing-controller", NAMESPACE)),
        (controller, ("update", "leases.coordination.k8s.io=balancing-controller", NAMESPACE)),
        (0, ("watch", "leases.coordination.k8s.io=balancing-controller", NAMESPACE)),
        (0, ("get", "secrets", NAMESPACE)),
        (0, ("get", "pods", "")),
        (0, ("patch", "endpointslices.discovery.k8s.io", NAMESPACE)),
        (0, ("patch", "events.events.k8s.io", "default")),
        (0, ("create", "events", "default")),
        (0, ("list", "secrets", "")),
        (0, ("get", "configmaps", "")),
        (0, ("create", "pods", "default")),
        (0, ("delete", "pods", "")),
        (0, ("create", "pods:exec", "")),
        (0, ("update", "nodes:status", "")),
        (0, ("patch", "services", "")),
        (0, ("update", "localredirectpolicies.balancing.elf.io", "")),
        (0, ("delete", "balancingpolicies.balancing.elf.io", "")),
        (0, ("create", "endpointslices.discovery.k8s.io", "default")),
        (0, ("list", "endpointslices.discovery.k8s.io", "")),
        (0, ("patch", "leases.coordination.k8s.io=other", NAMESPACE)),
        (0, ("create", "leases.coordination.k8s.io", "kube-system")),
        (0, ("create", "serviceaccounts:token", NAMESPACE)),
        (0, ("impersonate", "users", "")),
        (0, ("escalate", "clusterroles.rbac.authorization.k8s.io", "")),
    ];
    for (who, right) in rights {
        for (bit, account) in ACCOUNTS.into_iter().enumerate() {
            let wanted = who & 1 << bit != 0;
            assert_eq!(may(&world, account, *right), wanted, "{account} and {right:?}");
        }
    }
}

fn event(about: &Object, node: &str) -> Object {
    Object::from(json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": "test-", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reason": "ProgrammingFailed", "action": "Program", "type": "Warning", "note": "a test",
        "reportingController": "balancing-agent", "reportingInstance": node,
        "regarding": {
            "apiVersion": about.at("/apiVersion"), "kind": about.at("/kind"),
            "name": about.name(), "uid": about.uid(),
        },
    }))
}

/// What somebody can do who has stolen the token of one node.
#[test]
fn a_token_of_a_node_speaks_for_that_node_only() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    for (name, ip) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2")] {
        world.plane.add_node(name, &[], ip);
    }
    let policy = world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    let pod = world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let slice = eventually(|| {
        let slices = world.plane.client().list("discovery.k8s.io/v1", "EndpointSlice");
        let ours = |slice: &Object| slice.namespace() == NAMESPACE;
        slices.map_err(|e| e.to_string())?.into_iter().find(ours).ok_or("no slice".to_owned())
    });
    let node = world.plane.client_of(&world.kubeconfig("n1"));
    let unbound = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-agent");
    let unbound = world.plane.client_of(&unbound);
    let outside = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-external");
    let outside = world.plane.client_of(&outside);
    let host = world.plane.service_account_kubeconfig(NAMESPACE, "host-a");
    let host = world.plane.client_of(&host);
    bind_host(&world, "host-a");

    // The policies' type check and the bindings take a moment to be in force.
    eventually(|| match unbound.create(&event(&policy, "n1")) {
        Err(refusal) => Ok(refusal),
        Ok(_) => Err("a token that names no node may write".to_owned()),
    });
    let refused = |result: Result<Object, Refusal>, words: &str| {
        let refusal = result.err().unwrap_or_else(|| panic!("not refused: {words}")).to_string();
        assert!(refusal.contains(words), "{refusal}");
    };
    refused(node.create(&event(&policy, "n2")), "for its own node only");
    refused(node.create(&event(&pod, "n1")), "about policies and the fabric only");
    refused(outside.create(&event(&pod, "far")), "about policies and the fabric only");
    let controller = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-controller");
    let controller = world.plane.client_of(&controller);
    refused(controller.create(&event(&pod, "c1")), "about policies and the fabric only");
    node.create(&event(&policy, "n1")).unwrap();
    outside.create(&event(&policy, "far")).unwrap();
    refused(host.create(&event(&pod, "far")), "about policies and the fabric only");
    host.create(&event(&policy, "far")).unwrap();

    let taken = slice
        .clone()
        .with("/apiVersion", "discovery.k8s.io/v1")
        .with("/kind", "EndpointSlice")
        .with("/endpoints/0/addresses/0", "10.66.6.6");
    let status = json!({"status": {"backends": 66}});
    let n2 = Object::named("v1", "Node", "", "n2");
    let annotation = json!({"metadata": {"annotations": {"balancing.elf.io/nodeProxyIpv4": "10.66.6.6"}}});
    for client in [&node, &unbound, &outside] {
        refused(client.put(&taken), "forbidden");
        refused(client.patch(&policy, "status", status.clone()), "forbidden");
        refused(client.patch(&n2, "", annotation.clone()), "forbidden");
    }
}

/// What somebody can do who has stolen the token of the controller: nothing to the endpoints of a Service.
#[test]
fn a_token_of_the_controller_writes_slices_of_policies_only() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let kubeconfig = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-controller");
    let stolen = world.plane.client_of(&kubeconfig);
    let mk_slice = |name: &str| {
        Object::from(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.66.6.6"]}],
            "ports": [{"name": "", "port": 80}],
        }))
    };
    let of_service = mk_slice("web-1").with("/metadata/labels", json!({"kubernetes.io/service-name": "web"}));
    // The check takes a moment to be in force.
    eventually(|| match stolen.create(&mk_slice("any")) {
        Err(refusal) if refusal.to_string().contains("of BalancingPolicies only") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let refused = |result: Result<(), Refusal>, words: &str| {
        let refusal = result.err().unwrap_or_else(|| panic!("not refused: {words}")).to_string();
        assert!(refusal.contains(words), "{refusal}");
    };
    let owners = json!([{"apiVersion": "balancing.elf.io/v1beta1", "kind": "BalancingPolicy", "name": "p", "uid": "u"}]);
    let owned = of_service.clone().with("/metadata/ownerReferences", owners.clone());
    refused(stolen.create(&owned).map(drop), "of no Service");
    world.plane.client().create(&of_service).unwrap();
    refused(stolen.delete(&of_service), "of BalancingPolicies only");
    let ours = json!({"endpointslice.kubernetes.io/managed-by": "balancing.elf.io"});
    let unowned = mk_slice("unowned").with("/metadata/labels", ours);
    refused(stolen.create(&unowned).map(drop), "belongs to a BalancingPolicy");
    // One of ours that lost its owner may be deleted, as the controller does.
    world.plane.client().create(&unowned).unwrap();
    eventually(|| match world.plane.client().get(&unowned) {
        Err(_) => Ok(()),
        Ok(_) => Err("a slice without a policy is still there".to_owned()),
    });
}

/// The recipe of docs/kubernetes.md, for each account; the one of a node carries an agent.
#[test]
fn kubeconfigs_are_made_as_documented() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.plane.add_node("n1", &[], "192.0.2.1");
    let document = std::fs::read_to_string(repository().join("docs/kubernetes.md")).unwrap();
    let section = document.split_once("## Kubeconfigs").unwrap().1;
    let recipe = section.split("```").nth(1).unwrap();
    let files = TempDir::new("recipe");
    for account in ACCOUNTS {
        let is_node = account == "balancing-agent";
        let mut script = recipe.replace("account=balancing-agent", &format!("account={account}"));
        script = script.replace("out=balancing.kubeconfig", &format!("out={account}.kubeconfig"));
        script = script.replace("--bound-object-name NODE", "--bound-object-name n1");
        if !is_node {
            script =
                script.replace("bound=\"--bound-object-kind Node --bound-object-name n1\"", "bound=\"\"");
        }
        let asked = format!("{script}kubectl --kubeconfig=$out auth whoami -o yaml");
        let answer = world.plane.shell(&asked, files.path());
        assert!(answer.ok, "{account}: {}", answer.stderr);
        assert!(
            answer.stdout.contains(&format!("serviceaccount:{NAMESPACE}:{account}")),
            "{}",
            answer.stdout
        );
        assert_eq!(answer.stdout.contains("authentication.kubernetes.io/node-name"), is_node, "{account}");
    }
    let kubeconfig = files.path().join("balancing-agent.kubeconfig");
    let mut node = Node::in_cluster(&world.plane, "n1", &kubeconfig, NAMESPACE, &[]);
    node.start();
    let _server = node.serve("web", &["10.1.0.1:80"]);
    world.put(&Object::balancing_to("p", "169.254.0.10", 80, &["10.1.0.1"]));
    answered_by(&mut node.client(), "169.254.0.10:80", "web");
}
