//! Mistakes in sources of limits and in nodes.

use super::*;

#[test]
fn mistakes_in_sources_name_their_line() {
    let own = COUNTER.trim_start();
    for (text, line, words) in [
        (
            format!("{own}    when: {{outlives_windows: 2}}\n"),
            5,
            &["when", "window_index"][..],
        ),
        (
            format!("{own}    limits:\n      - fields: {{limit: a}}\n"),
            13,
            &["fields", "expected type: hash"],
        ),
        (
            format!("{own}    limits:\n      - key: {{name: $user, type: hash, limit: a}}\n"),
            13,
            &["user", "expected one of scope, key"],
        ),
        (
            format!("{own}    malformed: {{foreign_unless: '$user:timer'}}\n"),
            12,
            &["malformed", "user", "expected one of scope, key"],
        ),
        (
            format!("{own}limits:\n  - http: {{path: /a}}\n"),
            13,
            &["http", "line and json"],
        ),
        (
            format!("{own}limits:\n  - htpp: {{path: /a}}\n"),
            13,
            &["htpp", "did you mean http"],
        ),
        (
            format!("{own}limits:\n  - {{fixed: {{limit: 1}}, http: {{path: /a}}}}\n"),
            13,
            &["expected"],
        ),
        (
            format!("{own}limits:\n  - http: {{path: /a/$scop, json: {{limit: /l}}}}\n"),
            13,
            &["limits", "scop", "did you mean scope"],
        ),
        (
            format!(
                "{own}limits:\n  - http: {{path: /a, line: '^(?P<limit>.+)$', levels: {{group: domain, split: ., join: _}}}}\n"
            ),
            13,
            &["domain", "expected one of scope, key"],
        ),
        (
            format!("{own}limits:\n  - http: {{url: 'h:1/limits', json: {{limit: /l}}}}\n"),
            13,
            &["url", "expected http://"],
        ),
        (
            format!("{own}limits:\n  - http: {{path: /a, json: {{each: data, limit: /l}}}}\n"),
            13,
            &["\"data\"", "expected a JSON pointer"],
        ),
        (
            format!("{own}limits:\n  - http: {{path: /a, json: {{limit: $scope/l}}}}\n"),
            13,
            &["expected JSON pointers"],
        ),
        (
            format!(
                "{own}limits:\n  - http: {{path: /a, line: '^(?P<limit>.+)$', levels: {{group: scope, split: ., join: _}}}}\n"
            ),
            13,
            &["levels", "expected a group of line"],
        ),
        (
            own.replace("(?P<scope>", "(?P<name>")
                .replace("$scope", "$name"),
            5,
            &["expected another group than name"],
        ),
        (
            format!("{own}nodes:\n  health: {{path: /}}\n  canary: {{path: 'check'}}\n"),
            13,
            &["canary", "expected a path"],
        ),
    ] {
        assert_mistake(&text, line, words);
    }
}

#[test]
fn mistakes_in_nodes_name_their_line() {
    let own = COUNTER.trim_start();
    for (text, line, words) in [
        (
            format!("{own}nodes:\n  health: {{path: healthz}}\n"),
            13,
            &["healthz", "expected a path"][..],
        ),
        (
            format!("{own}nodes:\n  latency: ['x{{a}}']\n  metrics: {{}}\n"),
            13,
            &["x{a}", "a selector"],
        ),
        (
            format!("{own}nodes:\n  latency: [x]\n"),
            13,
            &["expected metrics"],
        ),
        (
            format!("{own}nodes:\n  canary: {{path: /, refused: 200}}\n"),
            13,
            &["refused", "400"],
        ),
        (
            format!("{own}nodes:\n  canary: {{path: /, headers: {{'a b': x}}}}\n"),
            13,
            &["a b", "expected the name of a header"],
        ),
        (
            format!("{own}nodes:\n  canary: {{path: /, headers: {{a: $user}}}}\n"),
            13,
            &["$user", "expected $key"],
        ),
        (
            format!("{own}nodes:\n  canary: {{path: /, body: $limit}}\n"),
            13,
            &["expected $key beside $limit"],
        ),
    ] {
        assert_mistake(&text, line, words);
    }
}

#[test]
fn a_misspelt_group_that_compares_rules_is_refused() {
    let own = COUNTER.trim_start();
    let with = |api: &str| format!("{own}limits:\n  - http: {{path: /a, {api}}}\n");
    for (api, words) in [
        (
            r"line: '^(?P<scoep>\S+) (?P<limit>\d+)'",
            &["unknown group \"scoep\"", "did you mean scope?"][..],
        ),
        (
            r"line: '^(?P<scope>\S+) (?P<limit>\d+) (?P<unti>\w+)'",
            &["unknown group \"unti\"", "did you mean unit?"],
        ),
        (
            "json: {limit: /l, match: {route: /route}}",
            &["unknown group \"route\"", "expected one of scope, key"],
        ),
    ] {
        assert_mistake(&with(api), 13, words);
    }
    for api in [
        r"line: '^(?P<scope>\S+) (?P<limit>\d+) (?P<window>\S+) (?P<unit>\w+) (?P<burst>\d+)'",
        "json: {limit: /l, match: {scope: /route, name: /name}}",
    ] {
        Description::parse(&with(api)).unwrap();
    }
}
