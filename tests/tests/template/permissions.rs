//! A function may do what its program's ports need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::template::TEMPLATE;
use crate::{differences, ports};

/// What each port's adapter calls.
const ACTIONS: &[(&str, &[&str])] = &[
    ("ReadStore", &["dynamodb:GetItem", "dynamodb:Query"]),
    (
        "WriteStore",
        &[
            "dynamodb:BatchWriteItem",
            "dynamodb:ConditionCheckItem",
            "dynamodb:DeleteItem",
            "dynamodb:GetItem",
            "dynamodb:PutItem",
            "dynamodb:Query",
            "dynamodb:UpdateItem",
        ],
    ),
    ("GetObject", &["s3:GetObject", "s3:ListBucket"]),
    ("PutObject", &["s3:AbortMultipartUpload", "s3:PutObject"]),
    ("DeleteObject", &["s3:DeleteObject", "s3:ListBucket"]),
    ("PresignObject", &["s3:GetObject", "s3:PutObject"]),
    ("UploadParts", &["s3:AbortMultipartUpload", "s3:PutObject"]),
    ("StartExecution", &["states:StartExecution"]),
    ("StopExecution", &["states:StopExecution"]),
    ("SendTask", &["states:SendTaskSuccess"]),
    ("RequestSave", &["sqs:SendMessage"]),
    ("ReadSecrets", &["secretsmanager:GetSecretValue"]),
    (
        "KeepSecrets",
        &["secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:PutSecretValue"],
    ),
    ("KnowModels", &["secretsmanager:GetSecretValue", "ssm:GetParameter"]),
    // Bedrock's Converse, streamed, is allowed by the name of the older call.
    (
        "CallModel",
        &["bedrock:InvokeModelWithResponseStream", "secretsmanager:GetSecretValue", "ssm:GetParameter"],
    ),
    ("Vm", &["secretsmanager:GetSecretValue"]),
];

/// Functions that are called by a queue, and the policies (without `Policy`) to receive from it.
const QUEUES: &[(&str, &str)] = &[("sync-files", "ReceiveUploads"), ("save-files", "ReceiveSaves")];
const RECEIVE: &[&str] = &["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"];

/// What the calls of the AWS libraries need. `None` for those that only the embedded install makes.
const CALLS: &[(&str, Option<&[&str]>)] = &[
    ("get_item", Some(&["dynamodb:GetItem"])),
    ("query", Some(&["dynamodb:Query"])),
    ("put_item", Some(&["dynamodb:PutItem"])),
    ("delete_item", Some(&["dynamodb:DeleteItem"])),
    ("batch_write_item", Some(&["dynamodb:BatchWriteItem"])),
    (
        "transact_write_items",
        Some(&[
            "dynamodb:ConditionCheckItem",
            "dynamodb:DeleteItem",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
        ]),
    ),
    ("get_object", Some(&["s3:GetObject"])),
    ("head_object", Some(&["s3:GetObject"])),
    ("list_objects_v2", Some(&["s3:ListBucket"])),
    ("put_object", Some(&["s3:PutObject"])),
    ("create_multipart_upload", Some(&["s3:PutObject"])),
    ("upload_part", Some(&["s3:PutObject"])),
    ("complete_multipart_upload", Some(&["s3:PutObject"])),
    ("abort_multipart_upload", Some(&["s3:AbortMultipartUpload"])),
    ("delete_object", Some(&["s3:DeleteObject"])),
    ("delete_objects", Some(&["s3:DeleteObject"])),
    ("start_execution", Some(&["states:StartExecution"])),
    ("stop_execution", Some(&["states:StopExecution"])),
    ("send_task_success", Some(&["states:SendTaskSuccess"])),
    ("send_message", Some(&["sqs:SendMessage"])),
    ("get_secret_value", Some(&["secretsmanager:GetSecretValue"])),
    ("create_secret", Some(&["secretsmanager:CreateSecret"])),
    ("put_secret_value", Some(&["secretsmanager:PutSecretValue"])),
    ("delete_secret", Some(&["secretsmanager:DeleteSecret"])),
    ("converse_stream", Some(&["bedrock:InvokeModelWithResponseStream"])),
    // A request that the adapter signs itself, by its target.
    ("AmazonSSM.GetParameter", Some(&["ssm:GetParameter"])),
    ("create_table", None),
    ("describe_table", None),
    ("describe_time_to_live", None),
    ("update_time_to_live", None),
    ("create_bucket", None),
    ("head_bucket", None),
];

fn actions(statements: &Value) -> BTreeSet<String> {
    let all = statements.as_array().unwrap().iter().map(|statement| &statement["Action"]);
    let all = all.flat_map(|action| match action {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
        other => panic!("{other}"),
    });
    all.collect()
}

#[test]
fn a_function_has_the_policies_of_its_ports() {
    let mut problems = Vec::new();
    for (name, path) in ports::programs() {
        let Some(function) = TEMPLATE.function_of(&name) else { continue };
        let mut ports = ports::of_program(&path);
        // A function that a queue calls takes its messages itself.
        ports.extend(
            QUEUES.iter().filter(|(function, _)| *function == name).map(|(_, policy)| (*policy).to_owned()),
        );
        let lines = differences(("its ports", &ports), ("its policies", &function.policies));
        problems.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
    }
    super::none(problems);
}

#[test]
fn a_policy_allows_what_its_port_calls() {
    let expected: BTreeMap<_, _> = ACTIONS.iter().copied().collect();
    assert_eq!(expected.keys().copied().collect::<BTreeSet<_>>(), ports::PORTS.iter().copied().collect());
    let mut seen = BTreeSet::new();
    for (id, properties) in TEMPLATE.of_type("AWS::IAM::ManagedPolicy") {
        let port = id.strip_suffix("Policy").unwrap();
        if QUEUES.iter().any(|(_, policy)| *policy == port) {
            let allowed = actions(&properties["PolicyDocument"]["Statement"]);
            assert_eq!(allowed, RECEIVE.iter().map(|action| (*action).to_owned()).collect(), "{id}");
            continue;
        }
        let wanted = expected.get(port).unwrap_or_else(|| panic!("{id} belongs to no port"));
        let allowed = actions(&properties["PolicyDocument"]["Statement"]);
        assert_eq!(allowed, wanted.iter().map(|action| (*action).to_owned()).collect(), "{id}");
        seen.insert(port);
    }
    assert_eq!(seen, expected.keys().copied().collect());
}

#[test]
fn no_statement_is_about_everything() {
    let mut problems = Vec::new();
    let mut look = |id: &str, statements: &Value| {
        for statement in statements.as_array().into_iter().flatten() {
            let resources = match &statement["Resource"] {
                Value::Array(several) => several.clone(),
                one => vec![one.clone()],
            };
            if resources.iter().any(|resource| resource == "*") {
                problems.push(format!("{id}: the resource is *"));
            }
            if statement["Effect"] == "Allow"
                && actions(&serde_json::json!([statement])).iter().any(|it| it.contains('*'))
            {
                problems.push(format!("{id}: an action has a *"));
            }
        }
    };
    for (id, resource) in TEMPLATE.whole["Resources"].as_object().unwrap() {
        let properties = &resource["Properties"];
        look(id, &properties["PolicyDocument"]["Statement"]);
        for policy in properties["Policies"].as_array().into_iter().flatten() {
            look(id, &policy["Statement"]);
        }
    }
    super::none(problems);
}

/// The adapters call what the table above knows, so that a new call cannot be forgotten there.
#[test]
fn the_adapters_call_nothing_that_no_policy_knows() {
    let known: BTreeMap<_, _> = CALLS.iter().copied().collect();
    let mut called = BTreeSet::new();
    let mut problems = Vec::new();
    let adapters = ["shared/aws/src", "shared/models/src/bedrock_converse"];
    for path in adapters.into_iter().flat_map(crate::sources) {
        let text: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
        for (at, _) in text.match_indices("\"AmazonSSM.") {
            let target = text[at + 1..].split('"').next().unwrap();
            match known.get(target) {
                Some(actions) => called.extend(actions.unwrap_or_default()),
                None => problems.push(format!("{}: {target}: which action is that?", path.display())),
            }
        }
        for (at, _) in text.match_indices("client.").chain(text.match_indices("signer.")) {
            let rest = text[at..].split_once('.').unwrap().1;
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !rest[name.len()..].starts_with("()") || name == "clone" || name == "config" {
                continue;
            }
            match known.get(name.as_str()) {
                Some(actions) => called.extend(actions.unwrap_or_default()),
                None => problems.push(format!("{}: {name}: which action is that?", path.display())),
            }
        }
    }
    super::none(problems);
    let allowed: BTreeSet<&str> = ACTIONS.iter().flat_map(|(_, actions)| *actions).copied().collect();
    assert_eq!(called, allowed, "what the adapters call, and what policies allow");
}
