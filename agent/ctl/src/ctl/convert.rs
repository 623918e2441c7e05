//! `balancingctl convert`: files in, manifests on standard output, notes on standard error.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
    process::ExitCode,
};

use super::{CtlError, Output};
use crate::convert::{Conversion, Input, Level, convert};
use balancing_core::manifest::Format;

/// More than any list of policies that an API server holds; a larger file is a mistake.
const MAX_INPUT: u64 = 64 << 20;
/// Standard input, as a file.
const STDIN: &str = "-";

/// Reads CiliumLocalRedirectPolicy objects and the original project's policies, prints ours, and says on standard
/// error what does not carry over.
///
/// Exit status: 0 when everything was converted, 1 when something was not, 64 for wrong arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// YAML or JSON, several objects and lists too; - reads standard input. May be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Namespace of Cilium's policies that name none.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Exit with status 1 on warnings too.
    #[arg(long)]
    strict: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, output: Option<Output>) -> Result<ExitCode, CtlError> {
    if output == Some(Output::Table) {
        return Err(CtlError::Usage("convert prints manifests: use -o yaml or -o json".to_owned()));
    }
    let mut texts = Vec::new();
    let mut unread = false;
    for file in &args.files {
        match read(file) {
            Ok(text) => texts.push((file, text)),
            Err(error) => {
                eprintln!("{}: {file}: cannot be read: {error}", Level::Error);
                unread = true;
            }
        }
    }
    let inputs: Vec<_> = texts
        .iter()
        .map(|(name, text)| Input { name: title(name), text, format: format(name, text) })
        .collect();
    let conversion = convert(&inputs, args.namespace.as_deref());
    for note in &conversion.notes {
        eprintln!("{note}");
    }
    if conversion == Conversion::default() && !unread {
        eprintln!("{}: there are no policies to convert", Level::Note);
    }
    let text = if output == Some(Output::Json) { conversion.to_json() } else { conversion.to_yaml() };
    io::stdout().lock().write_all(text.as_bytes())?;
    let worst = if args.strict { Level::Warning } else { Level::Error };
    Ok(if unread || conversion.has(worst) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: &str) -> io::Result<String> {
    let mut text = String::new();
    let size = match file {
        STDIN => io::stdin().lock().take(MAX_INPUT + 1).read_to_string(&mut text)?,
        path => File::open(path)?.take(MAX_INPUT + 1).read_to_string(&mut text)?,
    };
    if u64::try_from(size).is_ok_and(|size| size <= MAX_INPUT) {
        return Ok(text);
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {} MiB; split it", MAX_INPUT >> 20),
    ))
}

fn title(file: &str) -> &str {
    if file == STDIN { "standard input" } else { file }
}

/// By the extension of the file; else, as kubectl does, by the first character.
fn format(file: &str, text: &str) -> Format {
    let looks_like = if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
    Format::of(Path::new(file)).unwrap_or(looks_like)
}
