//! A project's VM: the lease that says which one it is, and the recipe that rebuilds it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fair_use::Counted;
use crate::ids::{OperationId, OwnerId, ProjectId};
use crate::limits;
use crate::project::Project;

/// A VM's state as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmStatus {
    /// There is none; the next use makes one.
    None,
    /// Being made, resumed or restored.
    Starting,
    /// Ready.
    Active,
    /// Kept, but not running; any use resumes it.
    Paused,
    /// Being saved and ended.
    Stopping,
    /// The last set-up failed; `reason` says why, and the next use tries again.
    Failed,
}

/// Which VM a project has now. One record per project; every change of hands raises `epoch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmLease {
    /// The project.
    pub project_id: ProjectId,
    /// The provider's id of the VM, if there is one.
    pub vm_id: Option<String>,
    /// Its state.
    pub state: VmStatus,
    /// Counts VMs of this project: files and commands remember the epoch they belong to.
    pub epoch: u64,
    /// The VM's boot id when it was last readied; a new one means that running commands were lost.
    pub boot_id: Option<String>,
    /// The lifecycle operation under way, if any.
    pub operation: Option<OperationId>,
    /// Until when that operation is believed to be alive.
    pub operation_until: Option<Timestamp>,
    /// Who needs the VM awake: run and command ids.
    pub holders: BTreeSet<String>,
    /// When anything last used it.
    pub last_activity: Timestamp,
    /// When the VM was made or resumed.
    pub started_at: Option<Timestamp>,
    /// Until when its provider keeps it awake, as far as it was asked to.
    #[serde(default)]
    pub awake_until: Option<Timestamp>,
    /// When the clean-up last saw that a paused one is still there.
    #[serde(default)]
    pub seen_at: Option<Timestamp>,
    /// The template it was made from.
    pub template: Option<String>,
    /// Why the last set-up failed.
    pub reason: Option<String>,
    /// Whether that was by an error that the same try would meet again, such as a template that the provider lacks.
    #[serde(default)]
    pub refused: bool,
    /// The project's owner, in whose name running VMs are counted.
    #[serde(default)]
    pub owner: Option<OwnerId>,
    /// Whether it is counted as running.
    #[serde(default)]
    pub counted: Counted,
    /// Seconds without use after which it is paused, where the project sets them.
    #[serde(default)]
    pub idle_secs: Option<u64>,
    /// Seconds that a paused one is kept, where the project sets them.
    #[serde(default)]
    pub paused_secs: Option<u64>,
    /// Seconds that VMs of this project were active, without the time since `started_at`.
    #[serde(default)]
    pub active_secs: u64,
    /// Counts the changes of this record.
    pub version: u64,
}

impl VmLease {
    /// Takes over what the project says of its VM.
    pub fn follow(&mut self, project: &Project) {
        self.owner = Some(project.owner.clone());
        self.idle_secs = project.vm_idle_secs;
        self.paused_secs = project.vm_paused_secs;
    }

    /// Seconds without use after which the VM is paused.
    pub fn idle_secs(&self) -> u64 {
        self.idle_secs.unwrap_or(limits::VM_IDLE_SECS)
    }

    /// Seconds that a paused VM is kept.
    pub fn paused_secs(&self) -> u64 {
        self.paused_secs.unwrap_or(limits::VM_PAUSED_SECS)
    }

    /// Whether the VM takes up a machine, or is about to. One whose set-up failed half-way does.
    pub fn is_running(&self) -> bool {
        match self.state {
            VmStatus::Starting | VmStatus::Active | VmStatus::Stopping => true,
            VmStatus::Failed => self.vm_id.is_some(),
            VmStatus::None | VmStatus::Paused => false,
        }
    }

    /// Whether nobody has used it for so many seconds at `now`.
    pub fn is_quiet_for(&self, secs: u64, now: Timestamp) -> bool {
        now >= after(self.last_activity, secs)
    }

    /// Its provider was asked at `now` to keep it awake.
    pub fn kept_awake(&mut self, now: Timestamp) {
        self.awake_until = Some(after(now, limits::VM_TIMEOUT_SECS));
    }

    /// Whether its provider should be asked for more time at `now`: half of what it gave is over.
    pub fn needs_time_at(&self, now: Timestamp) -> bool {
        self.time_is_short_at().is_none_or(|short| now >= short)
    }

    fn time_is_short_at(&self) -> Option<Timestamp> {
        let half = SignedDuration::from_secs((limits::VM_TIMEOUT_SECS / 2).cast_signed());
        self.awake_until?.saturating_sub(half).ok()
    }

    /// When the clean-up should next look at it: an overdue operation, an idle VM, one whose provider would soon pause
    /// it, one paused for long or under somebody who needs it, one whose set-up failed. `None` where there is nothing.
    pub fn due_at(&self) -> Option<Timestamp> {
        if let Some(until) = self.operation_until {
            return Some(until);
        }
        let idle = after(self.last_activity, self.idle_secs());
        match self.state {
            VmStatus::Active => Some(self.time_is_short_at().unwrap_or(self.last_activity).min(idle)),
            VmStatus::Paused if !self.holders.is_empty() => Some(self.last_activity),
            VmStatus::Paused => {
                let seen = self.seen_at.map_or(self.last_activity, |seen| seen.max(self.last_activity));
                let over = after(self.last_activity, self.paused_secs());
                Some(over.min(after(seen, limits::VM_PAUSED_LOOK_SECS)))
            }
            VmStatus::Failed => self.vm_id.as_ref().map(|_| idle),
            VmStatus::Starting | VmStatus::Stopping => Some(self.last_activity),
            VmStatus::None => None,
        }
    }

    /// Seconds that VMs of this project were active up to `now`.
    pub fn active_secs_at(&self, now: Timestamp) -> u64 {
        let running = self.started_at.filter(|_| self.is_running());
        let since = running.map_or(0, |since| now.duration_since(since).as_secs().max(0));
        self.active_secs + since.unsigned_abs()
    }

    /// The VM runs no more at `now`: its time is added up.
    pub fn add_up(&mut self, now: Timestamp) {
        let running = self.started_at.take();
        self.active_secs +=
            running.map_or(0, |since| now.duration_since(since).as_secs().max(0)).unsigned_abs();
    }

    /// The lease of a project that has no VM yet.
    pub fn none(project_id: ProjectId, now: Timestamp) -> Self {
        Self {
            project_id,
            vm_id: None,
            state: VmStatus::None,
            epoch: 0,
            boot_id: None,
            operation: None,
            operation_until: None,
            holders: BTreeSet::new(),
            last_activity: now,
            started_at: None,
            awake_until: None,
            seen_at: None,
            template: None,
            reason: None,
            refused: false,
            owner: None,
            counted: Counted::default(),
            idle_secs: None,
            paused_secs: None,
            active_secs: 0,
            version: 0,
        }
    }

    /// Whether a lifecycle operation is under way and believed alive at `now`.
    pub fn is_busy_at(&self, now: Timestamp) -> bool {
        self.operation.is_some() && self.operation_until.is_some_and(|until| now < until)
    }

    /// Takes the lease for a lifecycle operation, with the state that users see meanwhile.
    ///
    /// # Errors
    /// Another operation is under way.
    pub fn begin(&mut self, operation: OperationId, state: VmStatus, now: Timestamp) -> Result<(), Busy> {
        if self.is_busy_at(now) && self.operation.as_ref() != Some(&operation) {
            return Err(Busy);
        }
        self.operation = Some(operation);
        self.renew(now);
        self.state = state;
        self.reason = None;
        Ok(())
    }

    /// The operation under way is alive at `now`.
    pub fn renew(&mut self, now: Timestamp) {
        self.operation_until = self.operation.as_ref().map(|_| after(now, limits::VM_OPERATION_SECS));
    }

    /// Whether the operation under way should say at `now` that it is alive: what is left must be enough for any step.
    pub fn needs_renewal_at(&self, now: Timestamp) -> bool {
        self.operation_until.is_some_and(|until| after(now, limits::VM_STEP_SECS) > until)
    }

    /// The operation made or resumed a VM. A VM other than the one before starts a new epoch.
    pub fn attach(&mut self, vm_id: &str, boot_id: &str, now: Timestamp) {
        if self.vm_id.as_deref() != Some(vm_id) || self.boot_id.as_deref() != Some(boot_id) {
            self.epoch += 1;
        }
        self.vm_id = Some(vm_id.to_owned());
        self.boot_id = Some(boot_id.to_owned());
        self.add_up(now);
        self.started_at = Some(now);
        self.last_activity = now;
        self.kept_awake(now);
    }

    /// The operation ended, with the VM in `state`.
    pub fn finish(&mut self, state: VmStatus, reason: Option<String>) {
        self.operation = None;
        self.operation_until = None;
        self.state = state;
        self.reason = reason;
        self.refused = false;
        if state == VmStatus::None {
            self.vm_id = None;
            self.boot_id = None;
            self.started_at = None;
        }
    }

    /// The VM turned out to be gone: the next use makes a new one.
    pub fn lost(&mut self, reason: &str) {
        self.finish(VmStatus::None, Some(reason.to_owned()));
        self.epoch += 1;
    }
}

fn after(at: Timestamp, secs: u64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(secs.cast_signed())).unwrap_or(Timestamp::MAX)
}

/// Another lifecycle operation holds the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another operation on this VM is under way")]
pub struct Busy;

/// How to rebuild a project's VM: everything that is not in the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmRecipe {
    /// The project.
    pub project_id: ProjectId,
    /// The template it was first made from.
    pub template: Option<String>,
    /// Environment of everything that runs in it.
    pub env: BTreeMap<String, String>,
    /// Installs and environment steps that succeeded, in order, each as a shell line.
    pub installs: Vec<InstallStep>,
    /// The highest epoch whose VM has all of `installs`, but for those of `failed`.
    pub replayed_epoch: u64,
    /// Steps that could not be repeated in that epoch.
    #[serde(default)]
    pub failed: Vec<FailedStep>,
    /// Counts the changes of this record.
    pub version: u64,
}

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallStep {
    /// The shell line.
    pub command: String,
    /// Where it ran.
    pub working_dir: String,
    /// As whom it ran: `user` or `root`.
    pub user: String,
    /// The epoch it first ran in; VMs of a later epoch need it replayed.
    pub epoch: u64,
}

/// A step of a recipe that could not be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// The shell line, shortened where it is long.
    pub command: String,
    /// How its shell ended; `None` where it was killed at its time limit.
    pub exit_code: Option<i32>,
    /// The end of its output.
    pub output: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PrefixedId;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    #[test]
    fn a_second_operation_waits_until_the_first_is_over_or_dead() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        let (one, two) = (OperationId::from_parts(1, 1), OperationId::from_parts(2, 2));
        lease.begin(one.clone(), VmStatus::Starting, at(0)).unwrap();
        assert_eq!(lease.begin(two.clone(), VmStatus::Starting, at(1)), Err(Busy));
        assert!(lease.begin(one, VmStatus::Starting, at(1)).is_ok());
        let dead = at(2 + limits::VM_OPERATION_SECS.cast_signed());
        assert!(lease.begin(two, VmStatus::Starting, dead).is_ok());
    }

    #[test]
    fn an_operation_that_goes_on_is_alive() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        lease.begin(OperationId::from_parts(1, 1), VmStatus::Starting, at(0)).unwrap();
        let (all, step) = (limits::VM_OPERATION_SECS.cast_signed(), limits::VM_STEP_SECS.cast_signed());
        assert!(!lease.needs_renewal_at(at(all - step)));
        assert!(lease.needs_renewal_at(at(all - step + 1)));
        lease.renew(at(all - 1));
        assert!(lease.is_busy_at(at(all + step)));
        // Nothing is renewed that is over.
        lease.finish(VmStatus::Active, None);
        lease.renew(at(all));
        assert_eq!((lease.operation_until, lease.needs_renewal_at(at(all))), (None, false));
    }

    #[test]
    fn a_vm_is_looked_at_before_its_provider_pauses_it_however_long_it_may_idle() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        lease.attach("a", "boot", at(0));
        lease.finish(VmStatus::Active, None);
        assert_eq!(lease.due_at(), Some(at(limits::VM_IDLE_SECS.cast_signed())));
        lease.idle_secs = Some(limits::VM_IDLE_MAX_SECS);
        let half = (limits::VM_TIMEOUT_SECS / 2).cast_signed();
        assert_eq!(lease.due_at(), Some(at(half)));
        assert!(!lease.needs_time_at(at(half - 1)) && lease.needs_time_at(at(half)));
        lease.kept_awake(at(half));
        assert_eq!(lease.due_at(), Some(at(2 * half)), "more time, and no use of it");
        assert!(lease.is_quiet_for(limits::VM_IDLE_MAX_SECS, at(limits::VM_IDLE_MAX_SECS.cast_signed())));
    }

    #[test]
    fn a_vm_whose_setup_failed_takes_up_a_machine_and_is_looked_at() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        lease.finish(VmStatus::Failed, Some("no such template".to_owned()));
        assert_eq!((lease.is_running(), lease.due_at()), (false, None), "there is none");
        lease.attach("a", "boot", at(0));
        lease.finish(VmStatus::Failed, Some("no files".to_owned()));
        assert_eq!(
            (lease.is_running(), lease.due_at()),
            (true, Some(at(limits::VM_IDLE_SECS.cast_signed())))
        );
    }

    #[test]
    fn a_paused_vm_is_looked_at_now_and_then_and_at_once_where_somebody_needs_it() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        lease.attach("a", "boot", at(0));
        lease.finish(VmStatus::Paused, None);
        let look = limits::VM_PAUSED_LOOK_SECS.cast_signed();
        assert_eq!(lease.due_at(), Some(at(look)));
        lease.seen_at = Some(at(look));
        assert_eq!(lease.due_at(), Some(at(2 * look)));
        lease.seen_at = Some(at(limits::VM_PAUSED_SECS.cast_signed()));
        assert_eq!(lease.due_at(), Some(at(limits::VM_PAUSED_SECS.cast_signed())));
        lease.holders.insert("cmd_1".to_owned());
        assert_eq!(lease.due_at(), Some(at(0)));
    }

    #[test]
    fn a_new_vm_or_boot_starts_a_new_epoch_and_a_resume_does_not() {
        let mut lease = VmLease::none(ProjectId::from_parts(1, 1), at(0));
        lease.attach("a", "boot1", at(1));
        assert_eq!(lease.epoch, 1);
        lease.attach("a", "boot1", at(2));
        assert_eq!(lease.epoch, 1);
        lease.attach("a", "boot2", at(3));
        assert_eq!(lease.epoch, 2);
        lease.lost("gone");
        assert_eq!((lease.epoch, lease.vm_id.clone(), lease.state), (3, None, VmStatus::None));
    }
}
