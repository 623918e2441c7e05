use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
};
use balancing_abi::model::PolicyKind;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::writer::{NOTE, shortened};
use super::*;
use balancing_core::{failure::FailureReason, health::Problem};

/// An API server that takes Events. It first gives the answers of the list, then takes everything.
#[derive(Clone)]
struct ApiServer {
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    requests: mpsc::UnboundedSender<(String, Value)>,
}

async fn take(
    State(server): State<ApiServer>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> (StatusCode, String) {
    let event: Value = serde_json::from_slice(&body).unwrap();
    server.requests.send((format!("{method} {}", uri.path()), event.clone())).unwrap();
    match server.answers.lock().unwrap().pop_front() {
        Some(code) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "no", "reason": "No", "code": code.as_u16()});
            (code, status.to_string())
        }
        None => (StatusCode::CREATED, event.to_string()),
    }
}

/// The task at work, and what it is told and tells.
struct World {
    health: watch::Sender<Health>,
    requests: mpsc::UnboundedReceiver<(String, Value)>,
}

impl World {
    async fn start(answers: &[StatusCode]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
        let server = ApiServer { answers, requests: sender };
        let routes = Router::new().fallback(take).with_state(server);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let client = kube::Client::try_from(kube::Config::new(uri)).unwrap();
        let (health, receiver) = watch::channel(Health::new());
        tokio::spawn(Events::new(client, "n1").run(receiver));
        Self { health, requests }
    }

    fn set(&self, name: &str, message: Option<&str>) {
        let problem = message.map(|message| Problem {
            failed: 2,
            reason: FailureReason::TableFull,
            message: message.to_owned(),
        });
        let policy = PolicyRef { kind: PolicyKind::LocalRedirect, name: name.to_owned() };
        let health = PolicyHealth { uid: format!("uid-{name}"), frontends: 3, problem };
        self.health.send_modify(|all| drop(all.insert(policy, health)));
    }

    async fn request(&mut self) -> (String, Value) {
        timeout(Duration::from_secs(10), self.requests.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn an_event_names_the_policy_the_node_and_the_remedy() {
    let mut world = World::start(&[]).await;
    world.set("web", Some("table frontends4 is full: raise --max-frontends"));
    let (request, event) = world.request().await;
    // Events on objects without a namespace are kept in `default`.
    assert_eq!(request, "POST /apis/events.k8s.io/v1/namespaces/default/events");
    let regarding = json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": "LocalRedirectPolicy",
        "name": "web", "uid": "uid-web"});
    assert_eq!(event["regarding"], regarding);
    for (field, value) in [
        ("type", "Warning"),
        ("reason", "ProgrammingFailed"),
        ("action", "Program"),
        ("reportingController", "balancing-agent"),
        ("reportingInstance", "n1"),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    let note = "2 of 3 frontends are not programmed on n1: table frontends4 is full: raise --max-frontends";
    assert_eq!(event["note"], note);
}

#[tokio::test]
async fn an_event_is_tried_again_unless_it_is_forbidden() {
    let mut world = World::start(&[StatusCode::INTERNAL_SERVER_ERROR, StatusCode::CREATED]).await;
    world.set("web", Some("full"));
    let (first, second) = (world.request().await, world.request().await);
    assert_eq!((&first.1["note"], &first.1["regarding"]), (&second.1["note"], &second.1["regarding"]));

    let mut world = World::start(&[StatusCode::FORBIDDEN]).await;
    world.set("forbidden", Some("full"));
    assert_eq!(world.request().await.1["regarding"]["name"], "forbidden");
    world.set("next", Some("full"));
    assert_eq!(world.request().await.1["regarding"]["name"], "next", "nobody waits for what is dropped");
}

#[test]
fn notes_are_cut_at_a_character() {
    assert_eq!(shortened("é".repeat(600), NOTE).len(), NOTE);
    assert_eq!(shortened(format!("x{}", "é".repeat(600)), NOTE).len(), NOTE - 1);
    assert_eq!(shortened("short".to_owned(), NOTE), "short");
}

#[test]
fn the_end_of_a_failure_is_normal() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let events = Events::new(kube::Client::try_from(config).unwrap(), "n1");
    let policy = PolicyRef { kind: PolicyKind::Balancing, name: "web".to_owned() };
    let notice =
        Notice { subject: policy, state: PolicyHealth { uid: "u".to_owned(), frontends: 3, problem: None } };
    let (event, regarding) = events.event(&notice);
    assert_eq!((event.type_, event.reason.as_str()), (EventType::Normal, "Programmed"));
    assert_eq!(event.note.as_deref(), Some("all 3 frontends are programmed on n1"));
    assert_eq!(regarding.kind.as_deref(), Some("BalancingPolicy"));
}
