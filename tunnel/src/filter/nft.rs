//! Running `nft`.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::Error;

/// Runs it with a text on its standard input and returns what it printed.
pub(super) fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let mut child = Command::new(find().ok_or(Error::NoNft)?)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Run)?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(input.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(Error::Run)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Refused(complaint.lines().next().unwrap_or("it gave no reason").to_owned()));
    }
    written.map_err(Error::Run)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join("nft")).find(|program| program.is_file())
}
