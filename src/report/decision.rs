//! Why a subject is reported, or is not: one named reason for each. Pure.

closed_list! {
    /// Why a subject is reported, or is not.
    pub enum Decision;

    /// Violated, and the grace period is over: it is reported.
    Reported => "reported",
    /// Reported, and it could not be evaluated this time: it stays reported for `checker.unknown_hold`.
    HeldUnknown => "held_unknown",
    /// Violated, and the grace period is not over: it is pending.
    InGrace => "in_grace",
    /// The count was legal under the limit before it fell: it is pending while it may drain, whatever its grace period.
    Draining => "draining",
    /// Pending, and it could not be evaluated this time: it stays pending for `checker.unknown_hold`.
    PendingUnknown => "pending_unknown",
    /// It was evaluated, and the invariant holds.
    Holds => "holds",
    /// It was reported a while ago, and the invariant holds again.
    Cleared => "cleared",
    /// It could not be evaluated, and no violation was in progress.
    Unknown => "unknown",
    /// It was read, and proves neither that the invariant holds nor that it is violated: a violation that was in progress has ended.
    Inconclusive => "inconclusive",
    /// There is no such node, and no such key with requests inside its window. The API also says this of a key that is neither in violation nor among the fullest; `check --explain` counts the key that it explains.
    NotSeen => "not_seen",
    /// The invariant is switched off.
    SwitchedOff => "switched_off",
    /// The invariant does not apply to this kind of limiter.
    NotApplicable => "not_applicable",
}

impl Decision {
    /// Whether a violation is in progress, reported or pending.
    pub fn is_violated(self) -> bool {
        match self {
            Self::Reported
            | Self::HeldUnknown
            | Self::InGrace
            | Self::Draining
            | Self::PendingUnknown => true,
            Self::Holds
            | Self::Cleared
            | Self::Unknown
            | Self::Inconclusive
            | Self::NotSeen
            | Self::SwitchedOff
            | Self::NotApplicable => false,
        }
    }
}
