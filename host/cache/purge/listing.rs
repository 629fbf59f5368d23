//! How the servers of logs write what they have of a member, and the numbers that tell records and logs apart.

use super::{
    log::{Member, Report},
    table::{INCARNATION_BITS, Incarnation, Position},
};

/// A number that no other has; not zero, and exact in the language of Redis's scripts.
pub(super) fn random() -> u64 {
    fastrand::u64(1..1 << 53)
}

/// The random part of an incarnation.
pub(super) fn lower_bits() -> u64 {
    fastrand::u64(1..1 << INCARNATION_BITS)
}

/// Under which name a member is listed: a process is a member, not a name.
pub(super) fn field(member: &Member) -> String {
    format!("{}/{}", member.node, member.instance)
}

/// A member's fence, and how long it counts with being waited for.
pub(super) fn limits(report: &Report) -> String {
    let fence = report.fence_ms.map_or_else(|| "serve".to_owned(), |ms| ms.to_string());
    format!("{fence} {}", report.lost_ms)
}

/// What is listed of a member.
pub(super) fn said(member: &Member) -> String {
    let report = &member.report;
    format!("{} {} {} {}", member.log.0, report.applied.0, limits(report), report.beat)
}

/// Reads what is listed of a member; `None` if it was written otherwise.
pub(super) fn member(field: &str, said: &str) -> Option<Member> {
    let (node, instance) = field.rsplit_once('/')?;
    let [log, applied, fence, lost, beat] = <[&str; 5]>::try_from(said.split(' ').collect::<Vec<_>>()).ok()?;
    Some(Member {
        node: node.to_owned(),
        instance: instance.parse().ok()?,
        log: Incarnation(log.parse().ok()?),
        report: Report {
            applied: Position(applied.parse().ok()?),
            fence_ms: if fence == "serve" { None } else { Some(fence.parse().ok()?) },
            lost_ms: lost.parse().ok()?,
            beat: beat.parse().ok()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_of_a_member_is_read_as_it_was_written() {
        for fence_ms in [Some(4_000), None] {
            let report = Report { applied: Position(7), fence_ms, lost_ms: 60_000, beat: 99 };
            let one = Member { node: "a/b".to_owned(), instance: 3, log: Incarnation(5), report };
            assert_eq!(member(&field(&one), &said(&one)), Some(one));
        }
        assert_eq!(member("a/3", "5 7 4000 99"), None, "a report that lacks something is not guessed at");
    }
}
