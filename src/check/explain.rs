//! One subject, explained for people: the decision of each invariant with its reason, and the figures that were read.

use std::fmt::Write as _;
use std::time::Duration;

use crate::overall_status::OverallStatus;
use crate::report::{Decision, Explained, Explanation};
use crate::text_table::{shown, write_table};

/// The overall verdict on this subject alone, for the exit status.
pub(super) fn overall_status(explained: &Explained) -> OverallStatus {
    let decisions = || explained.invariants.iter().map(|it| it.decision);
    let unknown = [Decision::Unknown, Decision::Inconclusive, Decision::NotSeen];
    if decisions().any(Decision::is_violated) {
        OverallStatus::Violated
    } else if decisions().any(|decision| unknown.contains(&decision)) {
        OverallStatus::Unknown
    } else {
        OverallStatus::Holds
    }
}

/// The explanation as text.
pub(crate) fn text(explained: &Explained) -> String {
    let mut out = format!(
        "{} at {:.0}\n\n",
        shown(&explained.subject),
        explained.judged_at
    );
    let mut rows = vec![["INVARIANT", "DECISION", "WHY"].map(str::to_owned)];
    let invariants = explained.invariants.iter();
    rows.extend(
        invariants.map(|it| [it.name.to_string(), it.decision.to_string(), shown(&it.why)]),
    );
    write_table(&mut out, &rows);
    for explanation in &explained.invariants {
        rule(&mut out, explanation);
    }
    out.push_str("\nREAD\n");
    let before = out.len();
    figures(&mut out, explained);
    if out.len() == before {
        out.push_str("nothing\n");
    }
    out
}

/// What would be reported, and what was found.
fn rule(out: &mut String, explanation: &Explanation) {
    let Some(rule) = &explanation.rule else {
        return;
    };
    let grace = Duration::try_from_secs_f64(rule.terms.grace_period_seconds).unwrap_or_default();
    let lasting = if grace.is_zero() {
        "reported at once".to_owned()
    } else {
        format!("reported after {grace:?}")
    };
    // Writing into a String cannot fail.
    let _ = write!(
        out,
        "\n{}\n  rule      {}\n            {lasting}, {}\n",
        explanation.name, rule.terms.violated_when, rule.severity
    );
    let Some(violation) = &explanation.violation else {
        return;
    };
    let source = explanation.source.as_deref().unwrap_or("unknown");
    let _ = write!(
        out,
        "  evidence  {}\n  source    {}\n  seen      first {:.0}, last {:.0}\n",
        shown(&violation.message),
        shown(source),
        violation.first_seen,
        violation.last_seen,
    );
}

/// What was read, in the names of the JSON.
fn figures(out: &mut String, explained: &Explained) {
    let all = serde_json::to_value(explained).unwrap_or_default();
    for what in ["node", "node_metrics", "counter", "redis"] {
        let fields = all[what].as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(_, value)| !value.is_null()) {
            let _ = writeln!(out, "{what}.{name} = {}", shown(&value.to_string()));
        }
    }
}
