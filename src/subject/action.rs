//! What can be done about a subject: actions as data, for those who decide about them, and the trait that takes them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::observation::Reason;

/// The parameters of an action: values by name.
pub type Parameters = Map<String, Value>;

/// An action under way.
pub type Act<'a> = Pin<Box<dyn Future<Output = Result<(), ActionError>> + Send + 'a>>;

/// Acts on a subject.
pub trait Actor: fmt::Debug + Send + Sync {
    /// The actions there are.
    fn actions(&self) -> Vec<ActionDefinition>;

    /// What an action with these parameters is about, as it may be shown in a log.
    fn about(&self, parameters: &Parameters) -> String;

    /// Takes the action called `name`, with parameters that are as its definition says.
    fn act<'a>(&'a self, name: &'a str, parameters: &'a Parameters) -> Act<'a>;
}

/// Why an action was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ActionError {
    /// In one word. It repeats nothing of the request.
    pub reason: Reason,
    /// In full, for the caller.
    pub message: String,
}

/// An action, described for those who decide whether to take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it does, and what it does not.
    pub description: &'static str,
    /// Its parameters by name.
    pub parameters: BTreeMap<&'static str, Parameter>,
    /// How much harm it can do.
    pub risk_level: Risk,
    /// Whether a person has to approve it first.
    pub requires_approval: bool,
}

/// How much harm an action can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Little, and it heals by itself.
    Low,
    /// Some.
    Medium,
    /// An outage.
    High,
}

/// A parameter of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its JSON type.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// What it means.
    pub description: &'static str,
    /// Whether it must be given.
    pub required: bool,
}

/// The JSON type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterType {
    /// Text.
    String,
}

impl ActionDefinition {
    /// The name of the parameter that [`ActionDefinition::with_target`] adds.
    pub const TARGET: &'static str = "target";

    /// The action for an exporter that watches several subjects, with a parameter that names the subject.
    #[must_use]
    pub fn with_target(mut self) -> Self {
        let target = Parameter {
            kind: ParameterType::String,
            description: "The limiter, by its name under targets in the configuration file; without it the default one.",
            required: false,
        };
        self.parameters.insert(Self::TARGET, target);
        self
    }

    /// Checks that the parameters are those of the action. An error repeats no value: it may be personal.
    pub fn check(&self, parameters: &Parameters) -> Result<(), String> {
        for (name, parameter) in &self.parameters {
            match parameters.get(*name) {
                Some(Value::String(_)) => {}
                Some(_) => return Err(format!("{name}: expected a string")),
                None if parameter.required => {
                    return Err(format!("{name} is missing: expected a string"));
                }
                None => {}
            }
        }
        let mut names = parameters.keys();
        if names.any(|name| !self.parameters.contains_key(name.as_str())) {
            let known: Vec<&str> = self.parameters.keys().copied().collect();
            let known = known.join(", ");
            return Err(format!(
                "a parameter that {} does not have: expected {known}",
                self.name
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_checked_against_the_definition() {
        let parameter = |required| Parameter {
            kind: ParameterType::String,
            description: "",
            required,
        };
        let definition = ActionDefinition {
            name: "restart",
            description: "",
            parameters: BTreeMap::from([("store", parameter(true)), ("why", parameter(false))]),
            risk_level: Risk::High,
            requires_approval: true,
        };
        let check = |parameters: Value| {
            let parameters = parameters.as_object().unwrap();
            definition.check(parameters).err().unwrap_or_default()
        };
        for (parameters, error) in [
            (json!({"store": "a"}), ""),
            (json!({"store": "a", "why": "b"}), ""),
            (json!({}), "store is missing: expected a string"),
            (json!({"store": 1}), "store: expected a string"),
            (json!({"store": "a", "why": null}), "why: expected a string"),
            (
                json!({"store": "a", "target": "b"}),
                "a parameter that restart does not have: expected store, why",
            ),
        ] {
            assert_eq!(check(parameters), error);
        }
        let offered = definition.with_target();
        let parameters = json!({"store": "a", "target": "b"});
        assert_eq!(offered.check(parameters.as_object().unwrap()), Ok(()));
    }
}
