//! Keys of model providers in SSM's Parameter Store, read as a function reads them. The emulator checks signatures, and
//! holds every call to its caller's permissions: here those of the template's own policy.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use axum::Router;
use axum::http::StatusCode;
use pvm_aws::Parameters;
use pvm_entry::key_table;
use pvm_tests::aws::tools;
use serde_json::Value;

const REGION: &str = "us-east-1";
/// What operators make: two parameters, and a role that may read the first.
const SETUP: &str = r#"
import boto3, json
for name, value in (("model-keys", '{"anthropic": "from-ssm"}\n'), ("other", "hush")):
    boto3.client("ssm").put_parameter(Name="/pvm/t/" + name, Type="SecureString", Value=value)
iam = boto3.client("iam")
iam.create_user(UserName="function")
allow = {"Effect": "Allow", "Action": "ssm:GetParameter",
         "Resource": "arn:aws:ssm:us-east-1:000000000000:parameter/pvm/t/*"}
deny = {"Effect": "Deny", "Action": "ssm:*", "Resource": "arn:aws:ssm:us-east-1:000000000000:parameter/pvm/t/other"}
policy = json.dumps({"Version": "2012-10-17", "Statement": [allow, deny]})
iam.put_user_policy(UserName="function", PolicyName="p", PolicyDocument=policy)
key = iam.create_access_key(UserName="function")["AccessKey"]
print(json.dumps({"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))
"#;

struct Emulator {
    program: Child,
    url: String,
    home: tempfile::TempDir,
}

impl Emulator {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let program = Command::new(tools().join("emulator/bin/ministack"))
            .current_dir(home.path())
            .envs([("AUTH", "true"), ("IOT_MTLS_ENABLED", "0"), ("BIND_HOST", "127.0.0.1")])
            .envs([("PERSIST_STATE", "0"), ("LAMBDA_EXECUTOR", "local")])
            .env("GATEWAY_PORT", port.to_string())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let emulator = Self { program, url, home };
        for _ in 0..1200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return emulator;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}", std::fs::read_to_string(emulator.home.path().join("log")).unwrap());
    }

    /// Runs [`SETUP`] as the account's root; answers the function's access key.
    fn set_up(&self) -> Value {
        let ran = Command::new(tools().join("emulator/bin/python"))
            .args(["-c", SETUP])
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ENDPOINT_URL", &self.url)
            .envs([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    fn parameters(&self, id: &str, secret: &str) -> Parameters {
        let credentials = Credentials::new(id, secret, None, None, "test");
        Parameters::new(REGION, Some(&self.url), SharedCredentialsProvider::new(credentials)).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test]
async fn keys_are_read_from_the_parameter_that_the_function_may_read_and_from_no_other() {
    let emulator = Emulator::start().await;
    let key = emulator.set_up();
    let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    let function = emulator.parameters(id, secret);
    let text = function.read("/pvm/t/model-keys").await.unwrap();
    assert_eq!(key_table("PVM_MODEL_KEYS_PARAMETER", &text).unwrap()["anthropic"], "from-ssm");

    let denied = format!("{:#}", function.read("/pvm/t/other").await.unwrap_err());
    assert!(denied.contains("/pvm/t/other") && denied.contains("AccessDenied"), "{denied}");
    let missing = format!("{:#}", function.read("/pvm/t/none").await.unwrap_err());
    assert!(missing.contains("/pvm/t/none") && missing.contains("aws ssm put-parameter"), "{missing}");
    let stranger = emulator.parameters(id, "not-the-secret").read("/pvm/t/model-keys").await.unwrap_err();
    assert!(format!("{stranger:#}").contains("InvalidSignature"), "{stranger:#}");
}

#[tokio::test]
async fn a_service_that_is_out_for_a_moment_is_asked_again_and_a_refusal_is_not() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move |body: String| {
        let at = count.fetch_add(1, Ordering::SeqCst);
        let refuses = body.contains("/refused");
        async move {
            let text = |status: StatusCode, text: &str| (status, text.to_owned());
            match at {
                _ if refuses => {
                    text(StatusCode::BAD_REQUEST, r#"{"__type": "ValidationException", "message": "no"}"#)
                }
                0 => text(StatusCode::SERVICE_UNAVAILABLE, "down"),
                1 => text(
                    StatusCode::BAD_REQUEST,
                    r#"{"__type": "ThrottlingException", "message": "slow down"}"#,
                ),
                _ => text(StatusCode::OK, r#"{"Parameter": {"Name": "/p", "Value": "v"}}"#),
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().route("/", axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let credentials = SharedCredentialsProvider::new(Credentials::new("id", "secret", None, None, "test"));
    let parameters = Parameters::new(REGION, Some(&url), credentials).unwrap();
    assert_eq!(parameters.read("/p").await.unwrap(), "v");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let refused = format!("{:#}", parameters.read("/refused").await.unwrap_err());
    assert!(refused.contains("/refused") && refused.contains("400 ValidationException: no"), "{refused}");
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}
