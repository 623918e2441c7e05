//! `balancingctl convert` as users run it: the seeds, whole manifests with their golden output, exit statuses.
//!
//! `BALANCING_BLESS=1` writes the golden files instead of comparing them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use balancing_core::{
    manifest::{Format, parse},
    objects::Object,
};

fn fixtures(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(below)
}

/// Runs the command in the directory of fixtures, with this standard input.
fn run(args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_balancingctl"))
        .arg("convert")
        .args(args)
        .current_dir(fixtures("convert"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A command that stops at its arguments does not read; that is seen in its status.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() { written.map(|()| output) } else { Ok(output) }
}

fn status(args: &[&str], input: &str) -> Option<i32> {
    run(args, input).ok()?.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(dir: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(fixtures(dir))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".yaml") && !name.ends_with(".out.yaml") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn compare(file: &str, found: &str) {
    let path = fixtures("convert").join(file);
    if env::var_os("BALANCING_BLESS").is_some() {
        assert!(fs::write(path, found).is_ok(), "{file}");
    } else {
        assert_eq!(fs::read_to_string(path).ok().as_deref(), Some(found), "{file}");
    }
}

/// The agent takes all of it; how many policies that are.
fn assert_accepted(text: &str, format: Format) -> usize {
    let manifest = match parse(text, format) {
        Ok(manifest) => manifest,
        Err(error) => panic!("{error}: {text}"),
    };
    assert!(manifest.problems.is_empty() && manifest.ignored.is_empty(), "{:?}", manifest.problems);
    for object in &manifest.objects {
        let Object::Policy(policy) = object else { panic!("{object:?}") };
        assert!(policy.spec.is_ok(), "{policy:?}");
    }
    manifest.objects.len()
}

#[test]
fn golden_files() {
    let cases = files("convert").unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let output = run(&["-f", &case], "").unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(assert_accepted(&out, Format::Yaml) > 0, "{case}");
        assert_eq!(output.status.code(), Some(i32::from(err.contains("error: "))), "{case}");
        let name = case.trim_end_matches(".yaml");
        compare(&format!("{name}.out.yaml"), &out);
        compare(&format!("{name}.notes"), &err);
        let again = run(&["-f", "-"], &out).unwrap();
        assert_eq!(text(&again.stdout), out, "{case}: what is converted stays as it is");
    }
}

#[test]
fn seeds() {
    let paths: Vec<_> = files("seeds").unwrap().iter().map(|file| format!("../seeds/{file}")).collect();
    let args: Vec<_> = paths.iter().flat_map(|path| ["-f", path]).collect();
    let output = run(&args, "").unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    // Two of the eight policies of the original project are the same as two others.
    assert_eq!(assert_accepted(&out, Format::Yaml), 6 + 2);
    compare("seeds.out.yaml", &out);
    compare("seeds.notes", &err);
}

#[test]
fn what_is_fine_is_not_touched() {
    let before = fs::read_to_string(fixtures("seeds/10-balancingpolicy-test-addr.yaml")).unwrap();
    let output = run(&["-f", "-", "--strict"], &before).unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let trees =
        [before, text(&output.stdout)].map(|text| yaml_serde::from_str::<serde_json::Value>(&text).unwrap());
    assert_eq!(trees[0], trees[1]);
}

#[test]
fn json_is_one_list() {
    let output = run(&["-f", "collisions.yaml", "-o", "json"], "").unwrap();
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["kind"], "List");
    assert_eq!(assert_accepted(&text(&output.stdout), Format::Json), list["items"].as_array().unwrap().len());
    let output = run(&["-f", "-", "-o", "json"], &list.to_string()).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap(), list);
}

#[test]
fn exit_statuses() {
    assert_eq!(status(&["-f", "cilium-traps.yaml"], ""), Some(0));
    assert_eq!(status(&["-f", "cilium-traps.yaml", "--strict"], ""), Some(1), "warnings");
    assert_eq!(status(&["-f", "node-local-dns.yaml", "--strict"], ""), Some(0), "notes are no warnings");
    assert_eq!(status(&["-f", "cilium-refused.yaml"], ""), Some(1));
    assert_eq!(status(&["-f", "-"], ""), Some(0), "nothing to do");
    for args in
        [&[][..], &["-f"], &["node-local-dns.yaml"], &["-f", "-", "-o", "table"], &["-f", "-", "-o", "xml"]]
    {
        assert_eq!(status(args, ""), Some(64), "{args:?}");
    }
}

#[test]
fn a_file_that_is_missing_does_not_hide_the_others() {
    let output = run(&["-f", "missing.yaml", "-f", "node-local-dns.yaml"], "").unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(assert_accepted(&text(&output.stdout), Format::Yaml), 1);
    assert!(text(&output.stderr).starts_with("error: missing.yaml: cannot be read: "));
}
