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
}
