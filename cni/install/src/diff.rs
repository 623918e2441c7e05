//! What steps would change, for people: lines that go and lines that come. Pure.

use crate::{
    conflist::Conflist,
    entry,
    placement::{DROP_IN, Directory, Step},
};

/// The changes of some steps to a directory; empty when there are none.
pub(crate) fn of(before: &Directory, steps: &[Step]) -> String {
    let mut now = before.clone();
    let mut said = String::new();
    for step in steps {
        said.push_str(&one(&now, step));
        now = now.after(std::slice::from_ref(step));
    }
    said
}

fn one(before: &Directory, step: &Step) -> String {
    match step {
        Step::Write { file, text, .. } => lines(file, before.file(file).unwrap_or_default(), text),
        Step::Remove(file) => lines(file, before.file(file).unwrap_or_default(), ""),
        Step::Rename { from, to } => format!("rename {from} to {to}\n"),
        Step::PutDropIn { network, text } => {
            lines(&format!("{network}/{DROP_IN}"), before.drop_in(network).unwrap_or_default(), text)
        }
        Step::RemoveDropIn(network) => {
            lines(&format!("{network}/{DROP_IN}"), before.drop_in(network).unwrap_or_default(), "")
        }
    }
}

/// What the steps take from entries of ours that are there, in words.
pub(crate) fn overwritten(seen: &Directory, steps: &[Step]) -> Vec<String> {
    let parsed = |text: &str| Some(Conflist::parse(text).ok()?.ours()?.to_owned());
    let told = steps.iter().filter_map(|step| {
        let (file, old, new) = match step {
            Step::Write { file, text, .. } => (file, parsed(seen.file(file)?)?, parsed(text)?),
            Step::PutDropIn { network, text } => (network, seen.drop_in(network)?.to_owned(), text.clone()),
            Step::Rename { .. } | Step::Remove(_) | Step::RemoveDropIn(_) => return None,
        };
        let keys = entry::overwritten(&old, &new).join(", ");
        let advice = "the installer keeps no key that somebody else has set: use its flags";
        (!keys.is_empty()).then(|| format!("our entry in {file} had {keys}, which is replaced: {advice}"))
    });
    told.collect()
}

/// The lines between those at the begin and at the end that stay.
fn lines(file: &str, old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same..], &new[same..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut said = format!("{file}, line {}\n", same + 1);
    for (sign, lines) in [('-', &old[..old.len() - tail]), ('+', &new[..new.len() - tail])] {
        for line in lines {
            said.push_str(&format!("{sign}{line}\n"));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::File;

    #[test]
    fn g44_only_what_changes_is_told() {
        let old = "{\n  \"plugins\": [\n    {\"type\": \"a\"}\n  ]\n}\n";
        let new = old.replace("\"a\"}\n", "\"a\"},\n    {\"type\": \"b\"}\n");
        let file = || "net.conflist".to_owned();
        let before =
            Directory { files: vec![File { name: file(), text: Ok(old.to_owned()) }], drop_ins: Vec::new() };
        let write = Step::Write { file: file(), text: new, like: file() };
        let said = of(&before, std::slice::from_ref(&write));
        assert_eq!(
            said,
            "net.conflist, line 3\n-    {\"type\": \"a\"}\n+    {\"type\": \"a\"},\n+    {\"type\": \"b\"}\n"
        );
        let put = Step::PutDropIn { network: "net".to_owned(), text: "{}".to_owned() };
        let rename = Step::Rename { from: file(), to: "x".to_owned() };
        let said = of(&before, &[put, Step::RemoveDropIn("net".to_owned()), rename]);
        let drop_in = "net/99-balancing.conf, line 1\n";
        assert_eq!(said, format!("{drop_in}+{{}}\n{drop_in}-{{}}\nrename net.conflist to x\n"));
        assert_eq!(of(&before, &[]), "");
    }
}
