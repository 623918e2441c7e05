//! Running `nft`.

use std::{
    env,
    ffi::OsStr,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::Error;

/// Runs it with a text on its standard input and returns what it printed.
pub(crate) fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let program = env::var_os("PATH").and_then(|path| find(&path)).ok_or(Error::NoNft)?;
    let mut child = Command::new(program)
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

fn find(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join("nft")).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_program_is_told_what_to_do() {
        assert_eq!(find(OsStr::new("/nowhere:/proc")), None);
        let told = Error::NoNft.to_string();
        assert!(told.contains("install nftables") && told.contains("acceptFrom: Anyone"), "{told}");
    }
}
