//! The resource definition as the chart ships it.

use kube::CustomResourceExt as _;
use serde_json::Value;

use crate::volume::ReplicatedVolume;

/// Where it lies, from the root of the repository.
pub const PATH: &str = "charts/twinshore/files/crds/replicatedvolumes.yaml";

/// What it begins with.
const HEADER: &str = "# Made by `cargo xtask crds` from crds/src. Do not edit.\n";

/// The definition could not be written as YAML.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// As JSON.
    #[error("cannot express the resource definition as JSON")]
    Json(#[from] serde_json::Error),
    /// As YAML.
    #[error("cannot express the resource definition as YAML: {0}")]
    Yaml(String),
}

/// The resource definition.
pub fn definition() -> Result<Value, YamlError> {
    let mut definition = serde_json::to_value(ReplicatedVolume::crd())?;
    remove_nullable(&mut definition);
    Ok(definition)
}

/// The resource definition as YAML.
pub fn render() -> Result<String, YamlError> {
    let yaml = serde_saphyr::to_string(&definition()?).map_err(|error| YamlError::Yaml(error.to_string()))?;
    Ok(format!("{HEADER}{yaml}"))
}

/// An `Option` becomes `nullable`. Without it the API server drops a `null` before it validates, so that rules need to tell present
/// from absent only.
fn remove_nullable(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("nullable") == Some(&Value::Bool(true)) {
                object.remove("nullable");
            }
            object.values_mut().for_each(remove_nullable);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nullable),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_committed_definition_is_the_one_of_the_types() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(PATH);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == render().unwrap(),
            "{PATH} has drifted: run `cargo xtask crds` and commit what it writes"
        );
    }

    /// The API server estimates what a rule costs from the sizes that the schema allows, and refuses rules over values without a limit.
    #[test]
    fn every_text_and_list_of_the_spec_has_a_limit() {
        let definition = definition().unwrap();
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut without = Vec::new();
        collect_unlimited(spec, "spec", &mut without);
        assert!(without.is_empty(), "without a limit: {without:?}");
    }

    fn collect_unlimited(schema: &Value, path: &str, found: &mut Vec<String>) {
        // Foreign types are as Kubernetes defines them; no rule looks into them.
        if ["resources", "tolerations", "imagePullSecrets"]
            .iter()
            .any(|foreign| path.ends_with(foreign))
        {
            return;
        }
        let missing = match schema["type"].as_str() {
            Some("string") => schema.get("maxLength").is_none() && schema.get("enum").is_none(),
            Some("array") => schema.get("maxItems").is_none(),
            _ => false,
        };
        if missing {
            found.push(path.to_owned());
        }
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                collect_unlimited(property, &format!("{path}.{name}"), found);
            }
        }
        if schema["items"].is_object() {
            collect_unlimited(&schema["items"], &format!("{path}[]"), found);
        }
    }

    #[test]
    fn every_field_of_the_resource_is_documented() {
        let definition = definition().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut without = Vec::new();
        for part in ["spec", "status"] {
            collect_undocumented(&schema["properties"][part], part, &mut without);
        }
        assert!(without.is_empty(), "without a description: {without:?}");
    }

    fn collect_undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            if property.get("description").is_none() {
                found.push(path.clone());
            }
            collect_undocumented(property, &path, found);
            collect_undocumented(&property["items"], &path, found);
        }
    }
}
