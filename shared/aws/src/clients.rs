//! The SDK's clients, made once per process. Each service has its own function, so that a program links only those
//! that it calls.

use std::time::Duration;

use anyhow::Context;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider, SharedHttpClient};

use crate::Parameters;

const CONNECT: Duration = Duration::from_secs(2);
const ATTEMPT: Duration = Duration::from_secs(10);
/// S3 moves parts of 8 MiB in one attempt, and a laptop's uplink may need this long for one.
const OBJECT_ATTEMPT: Duration = Duration::from_mins(1);
const ATTEMPTS: u32 = 3;

/// Where the services are. The default is AWS, with region, credentials and addresses as the environment gives them.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// Region; the environment's if none.
    pub region: Option<String>,
    /// Credentials; the environment's if none.
    pub credentials: Option<StaticCredentials>,
    /// URL of DynamoDB, where it is not AWS's.
    pub dynamodb_url: Option<String>,
    /// URL of S3, where it is not AWS's; its buckets are then addressed by path.
    pub s3_url: Option<String>,
    /// URL of Step Functions, where it is not AWS's.
    pub sfn_url: Option<String>,
    /// What carries DynamoDB's requests instead of the network: an embedded engine.
    pub dynamodb_http: Option<SharedHttpClient>,
}

/// An access key with its secret. Does not show itself in logs.
#[derive(Clone)]
pub struct StaticCredentials {
    /// Access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl std::fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticCredentials([redacted])")
    }
}

impl std::fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSettings")
            .field("region", &self.region)
            .field("dynamodb_url", &self.dynamodb_url)
            .field("s3_url", &self.s3_url)
            .field("sfn_url", &self.sfn_url)
            .finish_non_exhaustive()
    }
}

/// Region, credentials, retries and timeouts, from which the clients are made.
#[derive(Debug, Clone)]
pub struct Base {
    config: SdkConfig,
    settings: ClientSettings,
}

/// Loads what all clients share. With static credentials and a region nothing outside is asked, in particular no
/// instance metadata service.
pub async fn load(settings: ClientSettings) -> Base {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(own) = &settings.credentials {
        let name = "static";
        let credentials = Credentials::new(&own.access_key, &own.secret_key, None, None, name);
        loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
    }
    Base { config: loader.load().await, settings }
}

impl Base {
    /// A client of DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.config);
        // Set only where there is one: "none" would also undo what the environment says (AWS_ENDPOINT_URL).
        if let Some(url) = &self.settings.dynamodb_url {
            config.set_endpoint_url(Some(url.clone()));
        }
        if let Some(carrier) = &self.settings.dynamodb_http {
            config.set_http_client(Some(carrier.clone()));
        }
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// A client of S3.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        self.s3_at(self.settings.s3_url.clone())
    }

    /// A client of S3 under another URL: the one that browsers reach it by, for signing.
    pub fn s3_at(&self, url: Option<String>) -> aws_sdk_s3::Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(OBJECT_ATTEMPT)
            .build();
        let mut config = aws_sdk_s3::config::Builder::from(&self.config).timeout_config(timeouts);
        // Whatever is not AWS has no host name for each bucket.
        config = config.force_path_style(url.is_some() || self.config.endpoint_url().is_some());
        if let Some(url) = url {
            config.set_endpoint_url(Some(url));
        }
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// A client of Step Functions.
    pub fn sfn(&self) -> aws_sdk_sfn::Client {
        let mut config = aws_sdk_sfn::config::Builder::from(&self.config);
        if let Some(url) = &self.settings.sfn_url {
            config.set_endpoint_url(Some(url.clone()));
        }
        aws_sdk_sfn::Client::from_conf(config.build())
    }

    /// A client of Secrets Manager.
    pub fn secretsmanager(&self) -> aws_sdk_secretsmanager::Client {
        aws_sdk_secretsmanager::Client::new(&self.config)
    }

    /// Parameter Store of SSM.
    ///
    /// # Errors
    /// Without a region or credentials.
    pub fn parameters(&self) -> anyhow::Result<Parameters> {
        let region = self.region().context("no region is set (AWS_REGION)")?;
        let credentials = self.config.credentials_provider().context("there are no AWS credentials")?;
        Parameters::new(region, self.config.endpoint_url(), credentials)
    }

    /// A client of SQS.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    /// A client of Bedrock's models in `region`, at `url` where it is not AWS's. It tries nothing again by itself: who
    /// calls it knows whether a repetition is wanted, and a model may think for minutes before its first word.
    pub fn bedrock(&self, region: &str, url: Option<&str>) -> aws_sdk_bedrockruntime::Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .disable_operation_attempt_timeout()
            .disable_read_timeout()
            .build();
        let mut config = aws_sdk_bedrockruntime::config::Builder::from(&self.config)
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(url) = url {
            config.set_endpoint_url(Some(url.to_owned()));
        }
        aws_sdk_bedrockruntime::Client::from_conf(config.build())
    }

    /// The region in use.
    pub fn region(&self) -> Option<&str> {
        self.config.region().map(AsRef::as_ref)
    }
}
