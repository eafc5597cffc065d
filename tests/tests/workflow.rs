//! Conversations over a whole stack in process: the shipped state machines, real VMs, the replay model.

use pvm_tests::api::Api;
use pvm_tests::scenarios::conversations;
use pvm_tests::stack::with_stack;

macro_rules! stories {
    ($($name:ident: $story:path;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            with_stack(async |api: Api| $story(&api).await).await;
        }
    )*};
}

stories! {
    vm_lines_run_in_order_with_directory_and_variables_carried: conversations::vm_lines;
    two_agents_take_turns_with_tool_calls: conversations::two_agents;
    messages_queue_and_none_is_lost: conversations::messages_queue;
    a_cancel_ends_the_run_and_kills_its_command: conversations::cancel;
    agents_in_parallel_have_copies_that_are_merged: conversations::parallel;
    a_fork_goes_on_from_any_point: conversations::fork;
    a_full_disk_is_a_result_and_the_run_goes_on: conversations::full_disk;
    a_call_that_needs_an_approval_waits_and_runs_as_it_was_shown: conversations::approvals;
}
