//! Reads a parameter of SSM's Parameter Store: keys of model providers, where an operator keeps them there instead of in
//! Secrets Manager. It is one plain signed request at a function's start: the SDK's own client of this service is nine
//! times the code of the one of Secrets Manager, and all programs would be built with it.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde::Deserialize;
use serde_json::json;

/// The action, as the service and its permissions name it.
const TARGET: &str = "AmazonSSM.GetParameter";
const CONNECT: Duration = Duration::from_secs(2);
const ATTEMPT: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
/// The pause before the second try; before the third it is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

/// Parameter Store in one region.
#[derive(Debug, Clone)]
pub struct Parameters {
    http: reqwest::Client,
    url: String,
    region: String,
    credentials: SharedCredentialsProvider,
}

/// How one try ended otherwise than with a value.
enum Failed {
    /// A further try may help.
    Passing(anyhow::Error),
    /// It will not.
    Lasting(anyhow::Error),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Parameter")]
    parameter: Parameter,
}

#[derive(Deserialize)]
struct Parameter {
    #[serde(rename = "Value")]
    value: String,
}

#[derive(Deserialize, Default)]
struct Told {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl Parameters {
    /// Parameter Store of `region`, at `url` where it is not AWS's.
    ///
    /// # Errors
    /// Where the client cannot be made.
    pub fn new(
        region: &str,
        url: Option<&str>,
        credentials: SharedCredentialsProvider,
    ) -> anyhow::Result<Self> {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let url = url.map_or_else(|| format!("https://ssm.{region}.{domain}"), str::to_owned);
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ATTEMPT)
            .redirect(reqwest::redirect::Policy::none());
        if url.starts_with("http://") {
            // An emulator on this machine.
            http = http.no_proxy();
        }
        let http = http.build().context("the client of SSM cannot be made")?;
        Ok(Self { http, url, region: region.to_owned(), credentials })
    }

    /// The text of the parameter `name` (or ARN), decrypted where it is a `SecureString`.
    ///
    /// # Errors
    /// Where there is none, it may not be read, or the service does not answer; says which parameter and what to do.
    pub async fn read(&self, name: &str) -> anyhow::Result<String> {
        let mut attempt = 1;
        loop {
            match self.try_read(name).await {
                Ok(text) => return Ok(text.trim().to_owned()),
                Err(Failed::Passing(error)) if attempt < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "the parameter is asked for again");
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(Failed::Passing(error) | Failed::Lasting(error)) => {
                    return Err(error.context(format!("the parameter {name} cannot be read")));
                }
            }
        }
    }

    async fn try_read(&self, name: &str) -> Result<String, Failed> {
        let body = json!({"Name": name, "WithDecryption": true}).to_string();
        let request = self.signed(body).await.map_err(Failed::Lasting)?;
        let response = self.http.execute(request).await.map_err(|error| Failed::Passing(error.into()))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| Failed::Passing(error.into()))?;
        if status.is_success() {
            // The error of the parser could quote the value.
            let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
                Failed::Lasting(anyhow::anyhow!("SSM answered something else than a parameter"))
            })?;
            return Ok(answer.parameter.value);
        }
        let told: Told = serde_json::from_slice(&body).unwrap_or_default();
        let kind = told.kind.rsplit('#').next().unwrap_or_default();
        let error = match kind {
            "ParameterNotFound" => anyhow::anyhow!(
                "there is none of this name; make it with `aws ssm put-parameter --type SecureString --name ...`"
            ),
            _ => anyhow::anyhow!("SSM answered {} {kind}: {}", status.as_u16(), told.message),
        };
        let passing = status.is_server_error() || status.as_u16() == 429 || kind.contains("Throttl");
        Err(if passing { Failed::Passing(error) } else { Failed::Lasting(error) })
    }

    /// The request with its signature.
    async fn signed(&self, body: String) -> anyhow::Result<reqwest::Request> {
        let credentials = self.credentials.provide_credentials().await.context("there are no credentials")?;
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("ssm")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let mut request = http::Request::post(&self.url)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", TARGET)
            .body(body)?;
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()));
        let bytes = SignableBody::Bytes(request.body().as_bytes());
        let signable = SignableRequest::new("POST", request.uri().to_string(), headers, bytes)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.try_into()?)
    }
}
