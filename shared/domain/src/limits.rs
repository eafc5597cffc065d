//! Limits, each with its unit and reason. Relations between them are checked when this compiles.

/// A command's time unless asked otherwise, in seconds: long enough for most shell work, short enough to notice a hang.
pub const COMMAND_TIMEOUT_DEFAULT_SECS: u64 = 60;
/// The longest a command may run, in seconds (a day, E2B's own session limit).
pub const COMMAND_TIMEOUT_MAX_SECS: u64 = 86_400;
/// How long a workflow step waits for a tool before it polls, in seconds; below this a Lambda is cheaper than state transitions.
pub const STEP_INLINE_WAIT_SECS: u64 = 45;
/// How long an HTTP call waits for a command, in seconds: API Gateway ends a call at 29.
pub const HTTP_INLINE_WAIT_SECS: u64 = 25;
/// The most an agent sees of one tool's output, in bytes, head and tail.
pub const OUTPUT_TO_MODEL_BYTES: usize = 32 * 1024;
/// The most of one tool result's data, in bytes of JSON: its text says the same, and a record holds 400 KB.
pub const TOOL_DATA_BYTES: usize = 64 * 1024;
/// The most kept of one output stream, in bytes.
pub const OUTPUT_KEPT_BYTES: usize = 8 * 1024 * 1024;
/// The most output in one HTTP answer, in bytes as encoded (API Gateway's payload is 10 MB, a Lambda's 6 MB).
pub const OUTPUT_INLINE_BYTES: usize = 1024 * 1024;
/// Output stored inside a record, in bytes; longer goes to S3 (a DynamoDB item holds 400 KB).
pub const OUTPUT_IN_RECORD_BYTES: usize = 16 * 1024;
/// The longest body kept inside a record, in bytes; longer goes to S3.
pub const BODY_IN_RECORD_BYTES: usize = 32 * 1024;
/// Turns of one run unless asked otherwise.
pub const TURNS_DEFAULT: u32 = 25;
/// The most turns of one run.
pub const TURNS_MAX: u32 = 100;
/// The most tool calls that one model answer may make.
pub const TOOL_CALLS_PER_STEP: usize = 10;
/// Steps of one workflow segment: 25 history events each stay far below the 25,000 of an execution.
pub const STEPS_PER_SEGMENT: u32 = 200;
/// Polls of one tool call before the model is told that it still runs: with their growing pauses they last longer than any
/// command may run, so that its end is seen. Ten such calls of one answer stay below the 25,000 events of an execution.
pub const TOOL_POLLS_MAX: u32 = 160;
/// The largest upload in a request body, in bytes (a Lambda request carries 6 MB, and base64 adds a third).
pub const UPLOAD_INLINE_BYTES: u64 = 4 * 1024 * 1024;
/// The largest presigned upload, in bytes (S3's limit of a single PUT).
pub const UPLOAD_PRESIGNED_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// The largest upload in parts, in bytes: twice the disk of a VM, so that what could never be there is refused at once.
pub const UPLOAD_PARTS_BYTES: u64 = 20 * 1024 * 1024 * 1024;
/// The most parts of an upload: their signed requests stay far below what one answer may carry.
pub const UPLOAD_PARTS: u64 = 500;
/// The smallest size of a part, in bytes (S3 takes 5 MiB; larger ones make fewer requests).
pub const UPLOAD_PART_BYTES: u64 = 16 * 1024 * 1024;
/// How long the signed requests of an upload in parts are good, in seconds.
pub const UPLOAD_PARTS_SECS: u64 = 6 * 3600;
/// An upload is given up this long after its signed request has run out, in seconds: one that began in time may take a
/// while.
pub const UPLOAD_GRACE_SECS: u64 = 3600;
/// Uploads of one file that may be open at a time.
pub const UPLOADS_OPEN: usize = 10;
/// Earlier versions of a file that are kept.
pub const FILE_VERSIONS: usize = 20;
/// A file that the VM deleted is kept this many days, with its earlier versions, unless set otherwise: long enough to
/// notice, short enough not to fill a store with what builds leave behind.
pub const DELETED_FILES_KEPT_DAYS: u64 = 7;
/// The record of an ended command and its whole output are kept this many days unless set otherwise.
pub const COMMANDS_KEPT_DAYS: u64 = 30;
/// The shortest such time, in days: a repeated request must still find the command that the first one made.
pub const COMMANDS_KEPT_MIN_DAYS: u64 = 2;
/// A command whose start was never heard of is started by whoever looks at it within this time after it was accepted, in
/// seconds. Later nobody can tell it from one that ran and that the VM's journal has forgotten.
pub const COMMAND_START_SECS: u64 = 86_400;
/// The journal of a VM remembers a run this long after its end, in seconds.
pub const JOURNAL_KEPT_SECS: u64 = 7 * 86_400;
/// An archive of a workspace is kept this long, in seconds.
pub const ARCHIVE_SECS: u64 = 86_400;
/// An archive that is not ready after this time has failed, in seconds: the function that builds one ends before.
pub const ARCHIVE_BUILD_SECS: u64 = 1_800;
/// The longest target of a symbolic link, in bytes (Linux's PATH_MAX).
pub const LINK_BYTES: usize = 4096;
/// The largest JSON request body, in bytes.
pub const JSON_BODY_BYTES: usize = 1024 * 1024;
/// How long a presigned URL is good, in seconds.
pub const PRESIGNED_SECS: u64 = 900;
/// A model call's time, in seconds.
pub const MODEL_CALL_SECS: u64 = 300;
/// Text deltas are flushed after this many milliseconds.
pub const DELTA_FLUSH_MILLIS: u64 = 250;
/// Text deltas are flushed after this many bytes.
pub const DELTA_FLUSH_BYTES: usize = 800;
/// An event stream closes after this many seconds (a streaming Lambda may run 15 minutes).
pub const SSE_CLOSE_SECS: u64 = 14 * 60;
/// The longest `wait` of a long poll, in seconds.
pub const POLL_WAIT_SECS: u64 = 20;
/// A comment line is sent on an idle event stream this often, in seconds.
pub const SSE_HEARTBEAT_SECS: u64 = 15;
/// An idle VM is paused after this many seconds.
pub const VM_IDLE_SECS: u64 = 15 * 60;
/// A paused VM is kept this many seconds, then saved and killed.
pub const VM_PAUSED_SECS: u64 = 30 * 86_400;
/// The timeout that a VM gets from its provider at each use, in seconds; longer than the idle time, so that we
/// pause it before the provider does.
pub const VM_TIMEOUT_SECS: u64 = 3_600;
/// A lifecycle operation that was not heard of for this many seconds may be taken over. Each of its steps says that it is
/// alive, so that an operation as a whole may take longer, such as one that repeats installs.
pub const VM_OPERATION_SECS: u64 = 900;
/// The longest that one step of a lifecycle operation may take, in seconds, with the wait before it: the state machine's
/// own limit of a task is below it.
pub const VM_STEP_SECS: u64 = 600;
/// The clean-up makes sure this often, in seconds, that a paused VM is still there.
pub const VM_PAUSED_LOOK_SECS: u64 = 6 * 3_600;
/// The shortest time without use after which a project may have its VM paused, in seconds: a minute of the clean-up.
pub const VM_IDLE_MIN_SECS: u64 = 60;
/// The longest, in seconds: E2B's clock ends a VM after a day.
pub const VM_IDLE_MAX_SECS: u64 = 86_400 - VM_TIMEOUT_SECS;
/// The longest time that a paused VM may be kept, in seconds (a year).
pub const VM_PAUSED_MAX_SECS: u64 = 365 * 86_400;
/// VMs of one owner that run at the same time unless set otherwise: each has 2 GiB of memory.
pub const VMS_RUNNING: u64 = 100;
/// Conversations of one owner with a run under way unless set otherwise.
pub const CONVERSATIONS_RUNNING: u64 = 200;
/// Services of one owner unless set otherwise.
pub const SERVICES: u64 = 500;
/// Bytes of one owner's files, earlier versions included, unless set otherwise (100 GiB).
pub const STORAGE_BYTES: u64 = 100 * 1024 * 1024 * 1024;
/// Commands of one owner in a minute unless set otherwise: a hundred a second, more than two cores run.
pub const COMMANDS_PER_MINUTE: u64 = 6_000;
/// What a VM said for a status document is told again for this long, in milliseconds.
pub const STATUS_KEPT_MILLIS: u64 = 2_000;
/// Entries of a list answer unless asked otherwise.
pub const LIST_DEFAULT: u32 = 100;
/// The most entries of a list answer.
pub const LIST_MAX: u32 = 1000;
/// The longest project name, in characters.
pub const NAME_CHARS: usize = 100;
/// The longest project description, in characters.
pub const DESCRIPTION_CHARS: usize = 4000;
/// The longest path of a file, in bytes (a DynamoDB sort key has 1,024 with its prefix).
pub const PATH_BYTES: usize = 1000;
/// The longest command, in bytes (Linux passes at most 128 KiB in one argument).
pub const COMMAND_BYTES: usize = 128 * 1024 - 64;
/// The longest message of a user, in bytes.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// The longest message of a conversation as it is encoded in JSON, in bytes: its event is stored so, and an item of the
/// store holds 400 KiB, with some room for what the event says beside the text.
pub const MESSAGE_ENCODED_BYTES: usize = 360 * 1024;
/// The arguments of all calls of one model answer together, in bytes as JSON: they are planned in one transaction, which
/// holds 4 MB, some of them twice (with the approval that they need).
pub const ARGUMENTS_PER_STEP_BYTES: usize = 1024 * 1024;
/// Messages of users that may wait to join a run.
pub const STEERS_WAITING: usize = 8;
/// Messages of users that may wait for the run under way to end.
pub const RUNS_WAITING: usize = 8;
/// Writes that one transaction of the store holds.
pub const TRANSACTION_ITEMS: usize = 100;
/// The most writes that ending a run and all that wait for it makes in one transaction: a call that a person is asked about
/// has its record, its approval and an event of each; a message that joins leaves the inbox for its place; so does that of
/// a run that waits, which is written with the event of its end. To that come the run with the event of its end, a message
/// cut short with its event, the conversation, its log's head and what is counted of its owner.
pub const CANCEL_ITEMS: usize = 4 * TOOL_CALLS_PER_STEP + 2 * STEERS_WAITING + 4 * RUNS_WAITING + 7;
/// The most agents of one conversation.
pub const AGENTS_PER_CONVERSATION: usize = 10;
/// The most environment variables of a project or command.
pub const ENV_VARS: usize = 100;
/// The most secrets of a project: each is a rule that the egress proxy looks through.
pub const SECRETS_PER_PROJECT: usize = 50;
/// The longest value of a secret, in bytes (servers take headers of 8 KiB).
pub const SECRET_BYTES: usize = 8 * 1024;
/// An idempotency key is honoured this long, in seconds.
pub const IDEMPOTENCY_SECS: u64 = 86_400;
/// Deltas are kept this long, in seconds.
pub const DELTA_TTL_SECS: u64 = 7_200;
/// A stream ticket is good this long, in seconds.
pub const TICKET_SECS: u64 = 60;

const _: () = assert!(HTTP_INLINE_WAIT_SECS < 29);
const _: () = assert!(STEP_INLINE_WAIT_SECS < COMMAND_TIMEOUT_DEFAULT_SECS);
const _: () = assert!(COMMAND_TIMEOUT_DEFAULT_SECS <= COMMAND_TIMEOUT_MAX_SECS);
const _: () = assert!(IDEMPOTENCY_SECS < COMMANDS_KEPT_MIN_DAYS * 86_400);
const _: () = assert!(COMMAND_TIMEOUT_MAX_SECS < COMMANDS_KEPT_MIN_DAYS * 86_400);
const _: () = assert!(COMMANDS_KEPT_MIN_DAYS <= COMMANDS_KEPT_DAYS);
const _: () = assert!(COMMAND_START_SECS < JOURNAL_KEPT_SECS);
const _: () = assert!(VM_STEP_SECS < VM_OPERATION_SECS);
const _: () = assert!(STEP_INLINE_WAIT_SECS < VM_STEP_SECS);
const _: () = assert!(VM_IDLE_MAX_SECS + VM_TIMEOUT_SECS <= 86_400);
const _: () = assert!(TURNS_DEFAULT <= TURNS_MAX);
const _: () = assert!(UPLOAD_INLINE_BYTES * 4 / 3 < 6 * 1024 * 1024);
const _: () = assert!(UPLOAD_PART_BYTES * UPLOAD_PARTS < UPLOAD_PARTS_BYTES);
const _: () = assert!(UPLOAD_PRESIGNED_BYTES < UPLOAD_PARTS_BYTES);
const _: () = assert!(SSE_CLOSE_SECS < 15 * 60);
const _: () =
    assert!(MESSAGE_BYTES < MESSAGE_ENCODED_BYTES && MESSAGE_ENCODED_BYTES + 16 * 1024 < 400 * 1024);
const _: () = assert!(CANCEL_ITEMS <= TRANSACTION_ITEMS);
const _: () = assert!(2 * ARGUMENTS_PER_STEP_BYTES + MESSAGE_ENCODED_BYTES * 2 < 4_000_000);
const _: () = assert!(VM_IDLE_SECS < VM_TIMEOUT_SECS);
const _: () = assert!(VM_IDLE_MIN_SECS <= VM_IDLE_SECS && VM_IDLE_SECS <= VM_IDLE_MAX_SECS);
const _: () = assert!(VM_PAUSED_SECS <= VM_PAUSED_MAX_SECS);
const _: () = assert!(OUTPUT_IN_RECORD_BYTES * 4 < 400 * 1024);
const _: () = assert!(OUTPUT_INLINE_BYTES < OUTPUT_KEPT_BYTES);
