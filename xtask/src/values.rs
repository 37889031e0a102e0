//! Documentation of the chart's values, made from the comments in `values.yaml`: `docs/values.md`.
//!
//! The file is our own and has one form: a comment stands above what it is about, each level is two spaces deeper, and defaults stand on the
//! line of their key. What has another form is an error, not a gap in the documentation.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// From and to where, within the repository.
const VALUES: &str = "charts/twinshore/values.yaml";
const DOCUMENT: &str = "docs/values.md";

const BEGIN: &str = "# Values of the chart\n\nMade from `charts/twinshore/values.yaml` by `cargo xtask values`; do not edit. Unknown values are refused.\n\n\
                     | value | default | meaning |\n|---|---|---|\n";

/// Writes the document.
pub fn write(root: &Path) -> Result<(), String> {
    let document = document(root)?;
    let path = root.join(DOCUMENT);
    fs::write(&path, document).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Complains if the document is not what the values say.
pub fn check(root: &Path) -> Result<(), String> {
    let expected = document(root)?;
    let found = fs::read_to_string(root.join(DOCUMENT)).unwrap_or_default();
    if found == expected {
        Ok(())
    } else {
        Err(format!(
            "{DOCUMENT} is not what {VALUES} says: run `cargo xtask values`"
        ))
    }
}

fn document(root: &Path) -> Result<String, String> {
    let path = root.join(VALUES);
    let text =
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    describe(&text)
}

/// A line that names a value.
struct Line<'a> {
    depth: usize,
    key: &'a str,
    default: &'a str,
}

fn describe(values: &str) -> Result<String, String> {
    let mut document = BEGIN.to_owned();
    let mut path: Vec<&str> = Vec::new();
    let mut comment = String::new();
    for (index, line) in values.lines().enumerate() {
        let wrong = |why: &str| format!("{VALUES}:{}: {why}", index + 1);
        let bare = line.trim_start();
        if bare.is_empty() {
            comment.clear();
        } else if let Some(words) = bare.strip_prefix('#') {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(words.trim());
        } else {
            let Line { depth, key, default } = parse(line).ok_or_else(|| wrong("expected `key: value`"))?;
            if depth > path.len() {
                return Err(wrong("expected two spaces for each level"));
            }
            path.truncate(depth);
            path.push(key);
            row(&mut document, &path.join("."), default, &comment);
            comment.clear();
        }
    }
    Ok(document)
}

fn parse(line: &str) -> Option<Line<'_>> {
    let bare = line.trim_start();
    let indentation = line.len() - bare.len();
    let (key, default) = bare.split_once(':')?;
    let is_key = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_key && indentation.is_multiple_of(2)).then_some(Line {
        depth: indentation / 2,
        key,
        default: default.trim(),
    })
}

fn row(document: &mut String, path: &str, default: &str, comment: &str) {
    // What holds others and has nothing to say is only their place.
    if default.is_empty() && comment.is_empty() {
        return;
    }
    let default = if default.is_empty() {
        String::new()
    } else {
        format!("`{}`", default.replace('|', "\\|"))
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        document,
        "| `{path}` | {default} | {} |",
        comment.replace('|', "\\|")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_a_line_with_its_path_its_default_and_its_comment() {
        let values = "# Where it is.\nregion: \"\"\n\n# The operator,\n# one for each cluster.\noperator:\n  resources:\n    # At most.\n    limit: 1|2\n  name: x\n";
        let rows: Vec<String> = describe(values)
            .into_iter()
            .flat_map(|document| {
                document[BEGIN.len()..]
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(
            rows,
            [
                "| `region` | `\"\"` | Where it is. |",
                "| `operator` |  | The operator, one for each cluster. |",
                "| `operator.resources.limit` | `1\\|2` | At most. |",
                "| `operator.name` | `x` |  |",
            ]
        );
    }

    #[test]
    fn what_has_another_form_is_an_error() {
        for wrong in ["- a", "a:\n      b: 1", "a:\n   b: 1", "just words"] {
            assert!(describe(wrong).is_err(), "{wrong}");
        }
    }
}
