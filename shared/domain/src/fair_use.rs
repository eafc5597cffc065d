//! Fair use: what an owner may have and do at the same time. Counts are kept in the transaction that changes what is
//! counted, so that they are exact however many callers there are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::OwnerId;
use crate::{Invalid, limits};

/// Something that is counted and limited per owner.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// VMs that are starting, active or stopping.
    VmsRunning,
    /// Conversations with a run under way.
    ConversationsRunning,
    /// Services that exist.
    Services,
    /// Bytes of files: of their current and earlier versions, and of deleted ones while they are kept.
    StorageBytes,
    /// Commands accepted within one minute of the clock, tool calls that run one included.
    CommandsPerMinute,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::VmsRunning,
        Self::ConversationsRunning,
        Self::Services,
        Self::StorageBytes,
        Self::CommandsPerMinute,
    ];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VmsRunning => "vms_running",
            Self::ConversationsRunning => "conversations_running",
            Self::Services => "services",
            Self::StorageBytes => "storage_bytes",
            Self::CommandsPerMinute => "commands_per_minute",
        }
    }

    /// The limit of an owner for whom none was set.
    pub fn default_most(self) -> u64 {
        match self {
            Self::VmsRunning => limits::VMS_RUNNING,
            Self::ConversationsRunning => limits::CONVERSATIONS_RUNNING,
            Self::Services => limits::SERVICES,
            Self::StorageBytes => limits::STORAGE_BYTES,
            Self::CommandsPerMinute => limits::COMMANDS_PER_MINUTE,
        }
    }

    /// Seconds after which it is worth asking again at `now`.
    pub fn retry_after_secs(self, now: Timestamp) -> u64 {
        match self {
            // The next minute has a count of its own.
            Self::CommandsPerMinute => 60 - now.as_second().rem_euclid(60).unsigned_abs(),
            Self::VmsRunning | Self::ConversationsRunning => 30,
            Self::Services | Self::StorageBytes => 60,
        }
    }

    /// What to do about a limit that is reached, for the user.
    pub fn advice(self) -> &'static str {
        match self {
            Self::VmsRunning => "pause or end a VM that you do not need",
            Self::ConversationsRunning => "wait for a conversation's run to end, or cancel one",
            Self::Services => "stop a service that you do not need",
            Self::StorageBytes => {
                "delete files that you do not need; their earlier versions and those that the VM deleted count too"
            }
            Self::CommandsPerMinute => "send fewer commands; several lines can go into one",
        }
    }
}

/// A change of what an owner uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Whose.
    pub owner: OwnerId,
    /// Of what.
    pub resource: Resource,
    /// How much more, or less.
    pub add: i64,
}

/// How much a record has been counted as, kept in the record itself: whoever stores it next knows what changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counted(u64);

impl Counted {
    /// The change that makes it count as `now`. A record without an owner (made before counting was) is not counted.
    pub fn count(&mut self, resource: Resource, owner: Option<&OwnerId>, now: u64) -> Option<Use> {
        let owner = owner?.clone();
        let add = i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(self.0).unwrap_or(i64::MAX);
        self.0 = now;
        (add != 0).then_some(Use { owner, resource, add })
    }

    /// The change that makes it count no more.
    pub fn uncount(mut self, resource: Resource, owner: Option<&OwnerId>) -> Option<Use> {
        self.count(resource, owner, 0)
    }
}

/// The limits of one owner, as set by an operator; what is not in it has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerLimits {
    /// Whose.
    pub owner: OwnerId,
    /// The limits that were set.
    pub most: BTreeMap<Resource, u64>,
    /// When they were last set.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

impl OwnerLimits {
    /// The limits of an owner for whom none were set.
    pub fn none(owner: OwnerId) -> Self {
        Self { owner, most: BTreeMap::new(), updated_at: Timestamp::UNIX_EPOCH, version: 0 }
    }

    /// The limit of `resource`.
    pub fn most(&self, resource: Resource) -> u64 {
        self.most.get(&resource).copied().unwrap_or_else(|| resource.default_most())
    }

    /// Sets limits; `None` gives one its default back.
    ///
    /// # Errors
    /// A limit that no counter could hold.
    pub fn set(&mut self, change: &BTreeMap<Resource, Option<u64>>) -> Result<(), Invalid> {
        for (resource, most) in change {
            match most {
                Some(most) if i64::try_from(*most).is_err() => {
                    return Err(Invalid::new(resource.as_str(), "must be at most 9,223,372,036,854,775,807"));
                }
                Some(most) => drop(self.most.insert(*resource, *most)),
                None => drop(self.most.remove(resource)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_until_it_is_given_its_default_back() {
        let mut limits = OwnerLimits::none(OwnerId::parse("a").unwrap());
        assert_eq!(limits.most(Resource::Services), limits::SERVICES);
        limits.set(&BTreeMap::from([(Resource::Services, Some(3))])).unwrap();
        assert_eq!(
            (limits.most(Resource::Services), limits.most(Resource::VmsRunning)),
            (3, limits::VMS_RUNNING)
        );
        limits.set(&BTreeMap::from([(Resource::Services, None)])).unwrap();
        assert_eq!(limits.most(Resource::Services), limits::SERVICES);
        assert!(limits.set(&BTreeMap::from([(Resource::Services, Some(u64::MAX))])).is_err());
    }

    #[test]
    fn a_record_is_counted_once_as_what_it_is() {
        let owner = OwnerId::parse("a").unwrap();
        let mut counted = Counted::default();
        let mut add = |now| counted.count(Resource::StorageBytes, Some(&owner), now).map(|used| used.add);
        assert_eq!((add(10), add(10), add(4), add(0)), (Some(10), None, Some(-6), Some(-4)));
        let mut nobodys = Counted::default();
        assert_eq!(nobodys.count(Resource::Services, None, 1), None);
        assert_eq!(nobodys.uncount(Resource::Services, Some(&owner)), None);
    }

    #[test]
    fn commands_may_come_again_with_the_next_minute() {
        let at =
            |second| Resource::CommandsPerMinute.retry_after_secs(Timestamp::from_second(second).unwrap());
        assert_eq!((at(120), at(121), at(179)), (60, 59, 1));
    }

    #[test]
    fn names_on_the_wire_are_those_of_serde() {
        for resource in Resource::ALL {
            assert_eq!(serde_json::to_value(resource).unwrap(), resource.as_str());
        }
    }
}
