//! The misbehaviours of a limiter node, as switches.
//!
//! Each was recorded from a real limiter, or is what a broken proxy before one does. With all of them off, a node is healthy.
//! `process` and `proxy` inject the faults of processes and networks.

use serde::{Deserialize, Serialize};

/// What a node does wrong. In JSON every field may be left out, and an unknown one is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own; any combination makes sense"
)]
pub struct Faults {
    /// Every `/check` takes this much longer, and its histogram says so.
    pub check_delay_ms: u64,
    /// Only one `/check` in this many takes longer, if this is above 1.
    pub check_delay_every: u64,
    /// `/health` answers this much later.
    pub health_delay_ms: u64,
    /// `/api/*` answers this much later: slow, and healthy.
    pub api_delay_ms: u64,
    /// `ratelimiter_check_duration_seconds` is exported and never counts.
    pub histogram_never_counts: bool,
    /// Limits set by `PUT /api/limits/K` are shown, and `/check` does not know them.
    pub stored_limits_not_enforced: bool,
    /// The registration is not renewed and runs out.
    pub no_heartbeat: bool,
    /// The registration is renewed this much later than every ten seconds.
    pub heartbeat_delay_ms: u64,
    /// The status of every answer of `/api/*`.
    pub api_status: Option<u16>,
    /// The body of every answer of `/api/*`.
    pub api_body: Option<String>,
    /// `/api/*` announces more bytes than it sends, then closes.
    pub api_truncate: bool,
    /// `/api/*` sends a body that never ends.
    pub api_endless: bool,
    /// `/api/*` never answers.
    pub api_hang: bool,
    /// What this node's `/api/nodes` says of itself instead of `Up`.
    pub node_state: Option<String>,
    /// Every check is allowed, and counted, whatever the limit; also without Redis.
    pub fail_open: bool,
    /// The status of `/metrics`.
    pub metrics_status: Option<u16>,
    /// The body of `/metrics`.
    pub metrics_body: Option<String>,
    /// The status of `/health`.
    pub health_status: Option<u16>,
    /// The status of `/check`, which then counts nothing in Redis.
    pub check_status: Option<u16>,
    /// The node's clock is this much ahead: the requests that it admits are later than they were.
    pub clock_ahead_ms: u32,
    /// The connection stays open after a 500. A real node closes it, without `Connection: close`.
    pub keep_open_after_500: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_leaves_out_is_as_in_a_healthy_node() {
        let faults: Faults = serde_json::from_str(r#"{"check_delay_ms":120}"#).unwrap();
        let expected = Faults {
            check_delay_ms: 120,
            ..Faults::default()
        };
        assert_eq!(faults, expected);
        assert_eq!(
            serde_json::from_str::<Faults>("{}").unwrap(),
            Faults::default()
        );
    }

    #[test]
    fn json_goes_round() {
        let faults = Faults {
            api_status: Some(500),
            api_body: Some("{\"nodes\":".to_owned()),
            keep_open_after_500: true,
            ..Faults::default()
        };
        let text = serde_json::to_string(&faults).unwrap();
        assert_eq!(serde_json::from_str::<Faults>(&text).unwrap(), faults);
    }

    #[test]
    fn an_unknown_fault_is_an_error_that_names_it() {
        let error = serde_json::from_str::<Faults>(r#"{"api_dely_ms":1}"#).unwrap_err();
        assert!(error.to_string().contains("api_dely_ms"), "{error}");
    }
}
