//! A function may do what its program's ports need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::template::TEMPLATE;
use crate::{differences, ports};

const TABLES: &[&str] = &["${AppTable.Arn}", "${EventsTable.Arn}"];
const TABLES_AND_INDEXES: &[&str] =
    &["${AppTable.Arn}", "${AppTable.Arn}/index/GSI1", "${AppTable.Arn}/index/GSI2", "${EventsTable.Arn}"];
const BUCKET: &[&str] = &["${FilesBucket.Arn}"];
/// Files of projects, long texts of conversations, archives.
const OBJECTS: &[&str] = &["${FilesBucket.Arn}/p/*", "${FilesBucket.Arn}/c/*", "${FilesBucket.Arn}/a/*"];
const PRESIGNED: &[&str] = &["${FilesBucket.Arn}/p/*", "${FilesBucket.Arn}/a/*"];
const UPLOADED: &[&str] = &["${FilesBucket.Arn}/p/*"];
const MACHINES: &[&str] = &[
    "@states:stateMachine:${AWS::StackName}-run-turn",
    "@states:stateMachine:${AWS::StackName}-vm-lifecycle",
];
const EXECUTIONS: &[&str] =
    &["@states:execution:${AWS::StackName}-run-turn:*", "@states:execution:${AWS::StackName}-vm-lifecycle:*"];
const RUN_TURN: &[&str] = &["@states:stateMachine:${AWS::StackName}-run-turn"];
const SAVES: &[&str] = &["${SaveQueue.Arn}"];
const PROJECT_SECRETS: &[&str] = &["@secretsmanager:secret:pvm/${AWS::StackName}/*"];
const E2B_KEY: &[&str] = &["${E2bKeySecret.Id}"];
const MODEL_KEYS: &[&str] = &["${ModelKeysSecret.Id}"];
const MODEL_PARAMETER: &[&str] = &["@ssm:parameter${ModelKeysParameter}"];
/// An inference profile calls its model in other regions.
const BEDROCK_MODELS: &[&str] = &[
    "arn:${AWS::Partition}:bedrock:*::foundation-model/${BedrockModels}",
    "arn:${AWS::Partition}:bedrock:*:${AWS::AccountId}:inference-profile/*",
    "arn:${AWS::Partition}:bedrock:*:${AWS::AccountId}:application-inference-profile/*",
];

/// Actions on resources, as the template names them; `@service:` stands for this account and region.
type Rule = (&'static [&'static str], &'static [&'static str]);

const READ: Rule = (&["dynamodb:GetItem", "dynamodb:Query"], TABLES_AND_INDEXES);
/// Without it, a missing object would read as a forbidden one.
const TELL_MISSING: Rule = (&["s3:ListBucket"], BUCKET);
const READ_MODEL_KEYS: [Rule; 2] =
    [(&["secretsmanager:GetSecretValue"], MODEL_KEYS), (&["ssm:GetParameter"], MODEL_PARAMETER)];

/// What each port's adapter calls, and on what.
const RULES: &[(&str, &[Rule])] = &[
    ("ReadStore", &[READ]),
    (
        "WriteStore",
        &[
            READ,
            (
                &[
                    "dynamodb:BatchWriteItem",
                    "dynamodb:ConditionCheckItem",
                    "dynamodb:DeleteItem",
                    "dynamodb:PutItem",
                    "dynamodb:UpdateItem",
                ],
                TABLES,
            ),
        ],
    ),
    ("GetObject", &[(&["s3:GetObject"], OBJECTS), TELL_MISSING]),
    ("PutObject", &[(&["s3:AbortMultipartUpload", "s3:PutObject"], OBJECTS)]),
    ("DeleteObject", &[(&["s3:DeleteObject"], OBJECTS), TELL_MISSING]),
    ("PresignObject", &[(&["s3:GetObject", "s3:PutObject"], PRESIGNED)]),
    ("UploadParts", &[(&["s3:AbortMultipartUpload", "s3:PutObject"], UPLOADED)]),
    ("StartExecution", &[(&["states:StartExecution"], MACHINES)]),
    ("StopExecution", &[(&["states:StopExecution"], EXECUTIONS)]),
    ("SendTask", &[(&["states:SendTaskSuccess"], RUN_TURN)]),
    ("RequestSave", &[(&["sqs:SendMessage"], SAVES)]),
    ("ReadSecrets", &[(&["secretsmanager:GetSecretValue"], PROJECT_SECRETS)]),
    (
        "KeepSecrets",
        &[(
            &["secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:PutSecretValue"],
            PROJECT_SECRETS,
        )],
    ),
    ("KnowModels", &READ_MODEL_KEYS),
    // Bedrock's Converse, streamed, is allowed by the name of the older call.
    (
        "CallModel",
        &[
            READ_MODEL_KEYS[0],
            READ_MODEL_KEYS[1],
            (&["bedrock:InvokeModelWithResponseStream"], BEDROCK_MODELS),
        ],
    ),
    ("Vm", &[(&["secretsmanager:GetSecretValue"], E2B_KEY)]),
];

/// Functions that are called by a queue, and the policies (without `Policy`) to receive from it.
const QUEUES: &[(&str, &str, &str)] = &[
    ("sync-files", "ReceiveUploads", "${UploadQueue.Arn}"),
    ("save-files", "ReceiveSaves", "${SaveQueue.Arn}"),
];
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

fn several(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |all| all.iter().collect())
}

/// A resource as the template names it, whichever function of CloudFormation does so.
fn resource_name(resource: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let name = text(resource)
        .or_else(|| text(&resource["Fn::Sub"]))
        .or_else(|| Some(format!("${{{}}}", text(&resource["Ref"])?)))
        .or_else(|| {
            let path: Option<Vec<String>> = resource["Fn::GetAtt"].as_array()?.iter().map(text).collect();
            Some(format!("${{{}}}", path?.join(".")))
        });
    name.unwrap_or_else(|| panic!("no resource's name: {resource}"))
}

/// Which action is allowed on what, a line for each.
fn allowed(statements: &Value) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for statement in statements.as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        for action in several(&statement["Action"]) {
            for resource in several(&statement["Resource"]) {
                lines.insert(format!("{} on {}", action.as_str().unwrap(), resource_name(resource)));
            }
        }
    }
    lines
}

/// The same of rules.
fn ruled(rules: &[Rule]) -> BTreeSet<String> {
    let here = |resource: &str| match resource.strip_prefix('@').and_then(|rest| rest.split_once(':')) {
        Some((service, name)) => {
            format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{name}")
        }
        None => resource.to_owned(),
    };
    let lines = rules.iter().flat_map(|(actions, resources)| {
        actions
            .iter()
            .flat_map(move |action| resources.iter().map(move |it| format!("{action} on {}", here(it))))
    });
    lines.collect()
}

#[test]
fn a_function_has_the_policies_of_its_ports() {
    let mut problems = Vec::new();
    for (name, path) in ports::programs() {
        let Some(function) = TEMPLATE.function_of(&name) else { continue };
        let mut ports = ports::of_program(&path);
        // A function that a queue calls takes its messages itself.
        ports.extend(
            QUEUES
                .iter()
                .filter(|(function, ..)| *function == name)
                .map(|(_, policy, _)| (*policy).to_owned()),
        );
        let lines = differences(("its ports", &ports), ("its policies", &function.policies));
        problems.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
    }
    super::none(problems);
}

#[test]
fn a_policy_allows_what_its_port_calls_on_what_it_is_for() {
    let expected: BTreeMap<_, _> = RULES.iter().copied().collect();
    assert_eq!(expected.keys().copied().collect::<BTreeSet<_>>(), ports::PORTS.iter().copied().collect());
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (id, properties) in TEMPLATE.of_type("AWS::IAM::ManagedPolicy") {
        let port = id.strip_suffix("Policy").unwrap();
        let queue = QUEUES.iter().find(|(_, policy, _)| *policy == port);
        let wanted = match queue {
            Some((.., queue)) => RECEIVE.iter().map(|action| format!("{action} on {queue}")).collect(),
            None => ruled(expected.get(port).unwrap_or_else(|| panic!("{id} belongs to no port"))),
        };
        let given = allowed(&properties["PolicyDocument"]["Statement"]);
        let lines = differences(("its port", &wanted), ("the policy", &given));
        problems.extend(lines.into_iter().map(|line| format!("{id}: {line}")));
        seen.extend(queue.is_none().then_some(port));
    }
    super::none(problems);
    assert_eq!(seen, expected.keys().copied().collect());
}

#[test]
fn no_statement_is_about_everything() {
    let mut problems = Vec::new();
    let mut look = |id: &str, statements: &Value| {
        for statement in statements.as_array().into_iter().flatten() {
            if several(&statement["Resource"]).iter().any(|resource| *resource == "*") {
                problems.push(format!("{id}: the resource is *"));
            }
            let has_star = |action: &&Value| action.as_str().is_some_and(|action| action.contains('*'));
            if statement["Effect"] == "Allow" && several(&statement["Action"]).iter().any(has_star) {
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
    let rules = RULES.iter().flat_map(|(_, rules)| *rules);
    let allowed: BTreeSet<&str> = rules.flat_map(|(actions, _)| *actions).copied().collect();
    assert_eq!(called, allowed, "what the adapters call, and what policies allow");
}
