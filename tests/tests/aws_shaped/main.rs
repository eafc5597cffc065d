//! The AWS form, deployed on an emulator: the real template, Lambda programs, state machines and policies. The stories
//! are those of the embedded suites, and some that only this form has.
//!
//! What the emulator cannot do runs on the interpreter or in process only: an execution that times out as a whole
//! (TIMED_OUT never occurs), `MaxConcurrencyPath`, jitter, the 256 KiB limit of a state's payload, a missing JSONPath
//! (becomes null there), answers that are streamed (it takes whole ones; `streams` runs a program by itself instead),
//! methods that a path does not have (API Gateway answers 404 to both), and restarts.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod approvals;
mod demo;
mod faults;
mod gateway;
mod programs;
mod watch;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use pvm_tests::aws::AwsStack;
use pvm_tests::scenarios::{
    commands, conversations, fair_use, files, input, mcp, projects, secrets, services,
};

type Story = fn(AwsStack) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! stories {
    ($($name:ident: |$stack:ident| $story:expr;)*) => {
        const STORIES: &[(&str, Story)] = &[$((stringify!($name), |$stack: AwsStack| Box::pin(async move { $story.await }))),*];
    };
}

stories! {
    a_project_is_made_read_changed_listed_and_deleted: |aws| projects::crud(&aws.api);
    lists_page_without_loss_and_refuse_bad_cursors: |aws| projects::paging(&aws.api);
    an_idempotency_key_makes_one_thing: |aws| projects::idempotency(&aws.api);
    keys_are_shown_once_scoped_and_revoked: |aws| projects::keys(&aws.api);
    bad_projects_are_refused_and_nothing_is_made: |aws| input::projects(&aws.api);
    bad_input_inside_a_project_is_refused_by_field: |aws| input::inside(&aws.api);
    every_end_of_a_command_is_told_apart: |aws| commands::outcomes(&aws.api);
    the_same_request_runs_a_command_once: |aws| commands::once(&aws.api);
    long_output_keeps_head_and_tail: |aws| commands::long_output(&aws.api);
    a_kill_ends_all_that_a_command_started: |aws| commands::kill_the_group(&aws.api);
    the_status_document_is_complete_and_true: |aws| projects::status(&aws.api);
    a_projects_vm_clocks_are_checked_and_kept: |aws| projects::clocks(&aws.api);
    use_is_counted_and_given_back: |aws| fair_use::counted(&aws.api);
    a_limit_holds_exactly_under_many_callers: |aws| fair_use::exact(&aws.api);
    every_limit_holds_exactly_when_it_is_raced: |aws| fair_use::raced(&aws.api);
    commands_over_the_limit_are_refused_without_a_trace: |aws| fair_use::commands(&aws.api);
    commands_of_agents_count_and_a_model_over_the_limit_is_told_to_wait: |aws| fair_use::agents(&aws.api);
    vms_and_conversations_over_the_limit_are_refused: |aws| fair_use::running(&aws.api);
    storage_is_limited_and_given_back: |aws| fair_use::storage(&aws.api);
    a_service_waits_for_those_it_depends_on: |aws| services::dependencies(&aws.api);
    a_port_that_is_taken_is_told: |aws| services::port_taken(&aws.api);
    a_service_is_started_again_by_its_policy: |aws| services::restarts(&aws.api);
    a_port_opens_by_a_link_until_it_is_revoked: |aws| services::links(&aws.api);
    web_sockets_pass_through_a_services_url: |aws| services::web_socket(&aws.api);
    a_paused_vm_has_no_urls_and_a_link_brings_it_back: |aws| services::paused(&aws.api);
    files_go_both_ways: |aws| files::both_ways(&aws.api);
    the_workspace_outlives_its_vm: |aws| files::outlive_the_vm(&aws.api);
    an_upload_in_parts_is_one_file: |aws| files::in_parts(&aws.api);
    versions_are_kept_and_brought_back: |aws| files::versions(&aws.api);
    a_deleted_file_is_listed_and_brought_back: |aws| files::deleted(&aws.api);
    links_and_permission_bits_are_kept: |aws| files::links_and_modes(&aws.api);
    the_workspace_is_downloaded_as_one_archive: |aws| files::archive(&aws.api);
    a_secret_is_set_and_never_read_back: |aws| secrets::crud(&aws.api);
    a_secret_is_in_force_for_its_host_and_never_inside: |aws| secrets::in_force(&aws.api);
    a_web_server_is_a_service: |aws| services::web_server(&aws.api);
    a_service_that_ends_at_once_has_failed_and_says_why: |aws| services::failure(&aws.api);
    a_service_start_that_was_never_ready_is_ended_before_the_next: |aws| services::retried(&aws.api);
    services_come_back_on_a_new_vm: |aws| services::brought_back(&aws.api);
    clients_of_both_eras_use_tools_and_resources: |aws| mcp::both_eras(&aws.api);
    vm_lines_run_in_order_with_directory_and_variables_carried: |aws| conversations::vm_lines(&aws.api);
    messages_queue_and_none_is_lost: |aws| conversations::messages_queue(&aws.api);
    a_cancel_ends_the_run_and_kills_its_command: |aws| conversations::cancel(&aws.api);
    agents_in_parallel_have_copies_that_are_merged: |aws| conversations::parallel(&aws.api);
    a_fork_goes_on_from_any_point: |aws| conversations::fork(&aws.api);
    a_full_disk_is_a_result_and_the_run_goes_on: |aws| conversations::full_disk(&aws.api);
    a_call_that_needs_an_approval_waits_and_runs_as_it_was_shown: |aws| conversations::approvals(&aws.api);
    a_vm_that_cannot_be_made_says_why_and_the_next_try_works: |aws| projects::vm_failure(&aws.api);

    two_agents_take_turns_with_tool_calls: |aws| conversations::two_agents(&aws.api);
    an_approval_waits_for_a_person_by_task_token: |aws| approvals::allowed(&aws);
    a_denied_call_is_told_to_the_agent: |aws| approvals::denied(&aws);
    a_step_that_fails_once_is_retried_by_name: |aws| faults::once(&aws);
    a_step_that_fails_for_good_is_caught_and_frees_the_vm: |aws| faults::for_good(&aws);
    a_killed_function_is_called_again_without_a_second_effect: |aws| faults::killed(&aws);
    a_stopped_execution_closes_its_run: |aws| watch::stopped(&aws);
    the_clean_up_fires_by_itself: |aws| watch::cleanup(&aws);
    the_gateway_tells_errors_as_we_do: |aws| gateway::problems(&aws);
    a_function_without_a_variable_says_which: |aws| programs::missing_variable(&aws);
    a_throttled_table_is_asked_again_and_told_with_a_time_to_come_back: |aws| programs::throttled(&aws);
    the_demo_holds_unchanged: |aws| demo::holds(&aws);
    an_answer_is_streamed_with_its_prelude: |aws| programs::streams(&aws);
}

/// The stack of this run, deployed when the first story needs it.
static DEPLOYED: OnceLock<AwsStack> = OnceLock::new();

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two cores run the emulator, the functions and the VMs too.
    arguments.test_threads = arguments.test_threads.or(Some(3));
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    let trials = STORIES.iter().map(|(name, story)| {
        let runtime = Arc::clone(&runtime);
        Trial::test(*name, move || {
            let stack = DEPLOYED.get_or_init(|| {
                // Out of any task: the stack lives longer than the story that starts it.
                runtime.block_on(AwsStack::start(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("aws-shaped")))
            });
            // Each story has an owner of its own, so that none counts another's projects.
            let told = runtime.block_on(async { tokio::spawn(story(stack.for_owner(name).await)).await });
            told.map_err(|failed| Failed::from(message(failed)))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(stack) = DEPLOYED.get() {
        runtime.block_on(stack.stop());
    }
    conclusion.exit_code()
}

fn message(failed: tokio::task::JoinError) -> String {
    let panic = failed.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}
