//! Stream tickets: tokens of a minute for one path, for clients that cannot send headers (EventSource, WebSocket).

use jiff::SignedDuration;
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::{Timestamp, limits};
use serde::{Deserialize, Serialize};

use crate::signer::Signer;

/// The query parameter that carries a ticket.
pub const PARAMETER: &str = "ticket";

#[derive(Serialize, Deserialize)]
struct Payload {
    owner: OwnerId,
    project: ProjectId,
    until: Timestamp,
    scope: Scope,
}

/// A ticket for `path`, which lies in `project`, and when it stops working. It lets its bearer do `scope` there (look at
/// an event stream, or use a terminal), and nothing elsewhere.
pub fn issue(
    signer: &Signer,
    now: Timestamp,
    principal: &Principal,
    project: &ProjectId,
    path: &str,
    scope: Scope,
) -> (String, Timestamp) {
    let until =
        now.saturating_add(SignedDuration::from_secs(limits::TICKET_SECS.cast_signed())).unwrap_or(now);
    let scope = scope.min(principal.scope);
    let payload = Payload { owner: principal.owner.clone(), project: project.clone(), until, scope };
    (signer.seal(PARAMETER, path, &payload), until)
}

/// Who a ticket speaks for at `path`; `None` where it is not one, is for another path, or its time is over.
pub fn open(signer: &Signer, now: Timestamp, ticket: &str, path: &str) -> Option<Principal> {
    let payload: Payload = signer.open(PARAMETER, path, ticket)?;
    (now < payload.until).then(|| Principal {
        owner: payload.owner,
        scope: payload.scope,
        projects: Some(vec![payload.project]),
    })
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::PrefixedId;

    use super::*;
    use crate::settings::Secret;

    #[test]
    fn a_ticket_opens_its_path_for_a_minute_and_only_to_look() {
        let signer = Signer::new(&Secret::new("0123456789abcdef0123456789abcdef")).unwrap();
        let now = Timestamp::from_second(1_000).unwrap();
        let project = ProjectId::from_parts(1, 1);
        let principal =
            Principal { owner: OwnerId::parse("a").unwrap(), scope: Scope::Admin, projects: None };
        let (ticket, until) = issue(&signer, now, &principal, &project, "/api/x/events", Scope::Read);
        assert_eq!(until.as_second(), 1_060);
        let opened = open(&signer, now, &ticket, "/api/x/events").unwrap();
        assert_eq!((opened.scope, opened.projects), (Scope::Read, Some(vec![project])));
        assert!(open(&signer, now, &ticket, "/api/y/events").is_none());
        assert!(open(&signer, until, &ticket, "/api/x/events").is_none());
        assert!(open(&signer, now, "nonsense", "/api/x/events").is_none());
    }
}
