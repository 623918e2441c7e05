//! What pods of the test cluster run: a server that says who it is, and clients that ask at a fixed rate and count.
//!
//! It is linked to musl for one image and to glibc for another, so `resolve` shows what the resolvers of both make of
//! the cluster's DNS. Nothing but the standard library.

#![allow(clippy::print_stdout, reason = "its reports")]

mod ask;
mod load;
mod serve;

use std::process::ExitCode;

const USAGE: &str = "cluster-probe serve PORT NAME
cluster-probe http|echo ADDRESS:PORT COUNT PER_SECOND
cluster-probe query SERVER:PORT NAME COUNT PER_SECOND
cluster-probe resolve NAME COUNT PER_SECOND
cluster-probe hold ADDRESS:PORT SECONDS
cluster-probe pause
PROBE_STOP=FILE: load ends early once that file is there";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(64)
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode, String> {
    match words {
        ["serve", port, name] => serve::serve(number(port)?, name).map_err(|error| format!("serve: {error}")),
        ["http", to, count, rate] => {
            let to = address(to)?;
            Ok(load::run(number(count)?, number(rate)?, move || ask::http(to)))
        }
        ["echo", to, count, rate] => {
            let to = address(to)?;
            Ok(load::run(number(count)?, number(rate)?, move || ask::datagram(to)))
        }
        ["query", to, name, count, rate] => {
            let (to, name) = (address(to)?, (*name).to_owned());
            Ok(load::run(number(count)?, number(rate)?, move || ask::query(to, &name)))
        }
        ["resolve", name, count, rate] => {
            let name = (*name).to_owned();
            Ok(load::run(number(count)?, number(rate)?, move || ask::resolve(&name)))
        }
        ["hold", to, seconds] => Ok(load::hold(address(to)?, number(seconds)?)),
        // As the container of a sandbox: until it is killed.
        ["pause"] => loop {
            std::thread::park();
        },
        _ => Err(USAGE.to_owned()),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().ok().ok_or_else(|| format!("'{text}' is no number"))
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().ok().ok_or_else(|| format!("'{text}' is no ADDRESS:PORT"))
}
