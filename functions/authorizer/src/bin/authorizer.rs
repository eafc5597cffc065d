//! The Lambda authorizer of the REST API.

use lambda_runtime::{LambdaEvent, run, service_fn};
use pvm_application::signing;
use pvm_authorizer::{Authorizer, HttpJson, Issuer, IssuerSettings, policy};
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("authorizer").await?;
    let store = start.store()?;
    // Every call passes here first, so this is where the install's signing key is made.
    signing::ensure(store, &System).await?;
    let fetch = HttpJson::new()?;
    let issuer = IssuerSettings::of(&start.settings)?.map(|settings| Issuer::new(settings, fetch));
    let authorizer = Authorizer::new(store.clone(), System, start.signer(store).await?.clone(), issuer);
    let authorizer = &authorizer;
    run(service_fn(move |event: LambdaEvent<policy::Event>| policy::invoke(authorizer, event))).await
}
