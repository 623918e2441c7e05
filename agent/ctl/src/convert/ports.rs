//! Lists of ports: names that others read more loosely, and which frontend port pairs with which backend port.
//!
//! What is wrong with an entry is left to the validation; this only changes what is fine for its writer.

use serde_json::{Value, json};

use super::{Origin, Report};
use balancing_core::manifest::name::is_port_name;

/// One list of ports and its path.
pub(super) struct Ports {
    pub(super) path: String,
    pub(super) list: Vec<Value>,
    /// It belongs to an `addressMatcher`.
    pub(super) of_address: bool,
}

/// Adapts both lists. An empty frontend list means every port of a Service.
pub(super) fn adapt(origin: Origin, frontend: &mut Ports, backend: &mut Ports, report: &mut Report<'_>) {
    for ports in [&mut *frontend, &mut *backend] {
        ports.lower_case_names(report);
        if origin == Origin::Cilium {
            ports.read_octal(report);
        }
    }
    frontend.drop_unused_name(report);
    if frontend.list.len() <= 1 {
        backend.drop_unused_name(report);
    }
    if origin == Origin::Cilium {
        narrow(frontend, backend, report);
    }
    pair(origin, frontend, backend, report);
}

impl Ports {
    /// Others compare names without regard to case; here they are lower-case.
    fn lower_case_names(&mut self, report: &mut Report<'_>) {
        for (index, entry) in self.list.iter_mut().enumerate() {
            let Some(Value::String(name)) = entry.get_mut("name") else { continue };
            let lower = name.to_ascii_lowercase();
            if *name != lower {
                report.note(format!("{}[{index}].name", self.path), format!("{name:?} becomes {lower:?}"));
                *name = lower;
            }
        }
    }

    /// Cilium's pattern admits a leading zero, and then its parser takes the number for an octal one
    /// (Go, `strconv.ParseUint` with base 0).
    fn read_octal(&mut self, report: &mut Report<'_>) {
        for (index, entry) in self.list.iter_mut().enumerate() {
            let Some(Value::String(port)) = entry.get_mut("port") else { continue };
            let octal = port.strip_prefix('0').and_then(|digits| u16::from_str_radix(digits, 8).ok());
            if let Some(number) = octal.filter(|number| *number != 0) {
                report.warn(
                    format!("{}[{index}].port", self.path),
                    format!(
                        "{port:?} is octal for Cilium and becomes \"{number}\"; correct it if the number was meant as \
                         it looks"
                    ),
                );
                *port = number.to_string();
            }
        }
    }

    /// Nobody reads the name of a port that pairs whatever its name.
    fn drop_unused_name(&mut self, report: &mut Report<'_>) {
        let [entry] = self.list.as_mut_slice() else { return };
        let name = entry.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || is_port_name(name) {
            return;
        }
        report.note(
            format!("{}[0].name", self.path),
            format!("{name:?} is left out: it is no port name, and a single port needs none"),
        );
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("name");
        }
    }
}

/// A single frontend port of Cilium ignores names: keeps the one backend port it can mean here.
fn narrow(frontend: &Ports, backend: &mut Ports, report: &mut Report<'_>) {
    let ([port], [first, _, ..]) = (frontend.list.as_slice(), backend.list.as_slice()) else { return };
    if let Some(index) = backend.list.iter().position(|other| pairs(port, other)) {
        if frontend.of_address {
            report.warn(
                &backend.path,
                format!(
                    "only [{index}] serves the frontend, by its name; Cilium spreads connections over all these ports"
                ),
            );
        }
    } else if protocol(port) == protocol(first) {
        report.warn(
            &backend.path,
            "only [0] is kept: the frontend has one port, and none of these has its name; write one policy for each \
             pair of ports if you need the others",
        );
        backend.list.truncate(1);
    }
}

/// Says which frontend ports lead nowhere.
fn pair(origin: Origin, frontend: &Ports, backend: &Ports, report: &mut Report<'_>) {
    match (frontend.list.as_slice(), backend.list.as_slice()) {
        ([], [only]) if origin == Origin::Cilium => report.note(
            &frontend.path,
            format!(
                "without ports, the {} ports of the Service are redirected, all to the one backend port; other \
                 protocols are left alone",
                protocol(only)
            ),
        ),
        ([] | [_], [_]) | ([], _) | (_, []) => {}
        (ports, others) => {
            let is_alone = |port: &&Value| !others.iter().any(|other| pairs(port, other));
            let none_pairs = ports.iter().all(|port| is_alone(&port));
            for (index, port) in ports.iter().enumerate().filter(|(_, port)| is_alone(port)) {
                let field = format!("{}[{index}]", frontend.path);
                let message = "pairs with no backend port and is left alone: ports pair by equal name and protocol; \
                               give it the name of its backend port";
                // A missing name is a problem of its own there.
                if ports.len() > 1 && name(port).is_empty() {
                } else if none_pairs && origin == Origin::Cilium {
                    report.error(field, message);
                } else {
                    report.warn(field, message);
                }
            }
        }
    }
}

fn pairs(port: &Value, other: &Value) -> bool {
    !name(port).is_empty() && name(port) == name(other) && protocol(port) == protocol(other)
}

fn name(port: &Value) -> &str {
    port.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn protocol(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}

/// Takes the list at `pointer` out of a tree. A list that is absent is empty; `None` when it is no list, which
/// the validation reports.
pub(super) fn take(tree: &mut Value, pointer: &str, path: String, of_address: bool) -> Option<Ports> {
    let list = match tree.pointer_mut(pointer) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => std::mem::take(list),
        Some(_) => return None,
    };
    Some(Ports { path, list, of_address })
}

/// Puts a list back where it was taken from.
pub(super) fn put(tree: &mut Value, pointer: &str, ports: Ports) {
    if let Some(value) = tree.pointer_mut(pointer).filter(|value| value.is_array()) {
        *value = json!(ports.list);
    }
}
