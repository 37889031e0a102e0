//! What must not be in a report. Pure.
//!
//! Secrets are never asked for, and our own parts neither log them nor take them as arguments. What is left is what people write: values
//! of environment variables, arguments, and lines that somebody else's program logs. Better one word too many than one too few.

use serde_json::Value;

/// What stands for something that was removed.
const REMOVED: &str = "(removed)";

/// Parts of names whose values are nobody's business. In small letters, without separators.
const SENSITIVE: [&str; 9] = [
    "password",
    "passwd",
    "secretkey",
    "secretaccesskey",
    "accesskey",
    "token",
    "authorization",
    "credential",
    "signature",
];

/// Removes from a resource, or a list of them, what is secret or only noise. `Null` for a Secret.
pub fn redact_resource(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("kind").is_some_and(|kind| kind == "Secret") && fields.contains_key("data") {
                *value = Value::Null;
                return;
            }
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                // It repeats the whole object, in a text where nothing below would be found.
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
            let named_sensitively = fields
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(is_sensitive);
            if named_sensitively && let Some(text @ Value::String(_)) = fields.get_mut("value") {
                *text = REMOVED.into();
            }
            fields.values_mut().for_each(redact_resource);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(redact_resource);
            items.retain(|item| !item.is_null());
        }
        Value::String(text) => {
            if let Some(redacted) = redact_text(text) {
                *text = redacted;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Lines without what follows a sensitive name and `=` or `:`.
pub fn redact_lines(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match redact_text(line) {
            Some(line) => redacted.push_str(&line),
            None => redacted.push_str(line),
        }
    }
    redacted
}

/// `None` if there is nothing to remove.
fn redact_text(text: &str) -> Option<String> {
    let mut redacted = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(separator) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(separator + 1);
        redacted.push_str(before);
        rest = after;
        let name = last_word(&before[..separator]);
        if !is_sensitive(name) {
            continue;
        }
        let (blank, value) = split_leading_blanks(rest);
        let end = value_end(value);
        if end > 0 {
            redacted.push_str(blank);
            redacted.push_str(REMOVED);
            rest = &value[end..];
            changed = true;
        }
    }
    redacted.push_str(rest);
    changed.then_some(redacted)
}

/// The name before a separator; quotes around it do not count.
fn last_word(text: &str) -> &str {
    let text = text.trim_end_matches(['"', '\'', ' ']);
    let start = text
        .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .map_or(0, |index| {
            index + text[index..].chars().next().map_or(1, char::len_utf8)
        });
    &text[start..]
}

fn split_leading_blanks(text: &str) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches([' ', '\t']).len())
}

/// Where a value ends: with its quote, or at the next blank or separator. `Bearer x` and the like are two words.
fn value_end(value: &str) -> usize {
    for quote in ['"', '\''] {
        if let Some(quoted) = value.strip_prefix(quote) {
            return quoted.find(quote).map_or(value.len(), |end| end + 2);
        }
    }
    let word_end = |text: &str| {
        text.find([' ', '\t', '\n', '&', ',', ';', '}', ')'])
            .unwrap_or(text.len())
    };
    let first = word_end(value);
    if ["bearer", "basic", "aws4-hmac-sha256"].contains(&value[..first].to_ascii_lowercase().as_str()) {
        return value.find('\n').unwrap_or(value.len());
    }
    first
}

fn is_sensitive(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SENSITIVE.iter().any(|sensitive| plain.ends_with(sensitive))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_in_lines_are_removed_and_the_rest_stays() {
        for (line, expected) in [
            ("secret_key=abc next", "secret_key=(removed) next"),
            ("AWS_SECRET_ACCESS_KEY: abc", "AWS_SECRET_ACCESS_KEY: (removed)"),
            (
                r#"{"accessKey":"abc","bucket":"b"}"#,
                r#"{"accessKey":(removed),"bucket":"b"}"#,
            ),
            (
                "GET /x?X-Amz-Signature=12ab&y=1",
                "GET /x?X-Amz-Signature=(removed)&y=1",
            ),
            ("Authorization: Bearer abc.def\n", "Authorization: (removed)\n"),
            ("password='a b' user=c", "password=(removed) user=c"),
            (
                "12:30:01 a bucket: https://host:9000/b",
                "12:30:01 a bucket: https://host:9000/b",
            ),
            ("token=\n", "token=\n"),
        ] {
            assert_eq!(redact_lines(line), expected);
        }
    }

    #[test]
    fn secrets_in_resources_are_removed_and_references_to_them_stay() {
        let mut list = json!({"items": [
            {"kind": "Secret", "data": {"a": "b"}},
            {"kind": "Pod", "metadata": {"managedFields": [], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x"}},
             "spec": {"containers": [{"args": ["--secret-key=abc"], "env": [
                {"name": "SECRET_KEY", "value": "abc"},
                {"name": "ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "accessKey"}}},
                {"name": "REGION", "value": "east"}]}]}},
        ]});
        redact_resource(&mut list);
        assert_eq!(
            list,
            json!({"items": [
                {"kind": "Pod", "metadata": {"annotations": {}},
                 "spec": {"containers": [{"args": ["--secret-key=(removed)"], "env": [
                    {"name": "SECRET_KEY", "value": "(removed)"},
                    {"name": "ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "accessKey"}}},
                    {"name": "REGION", "value": "east"}]}]}},
            ]})
        );
    }
}
