//! The client that commands share: which brokers, whose CA, how patient.

use std::time::Duration;

use anyhow::Context;
use millstream_client::{CertificateFiles, Client, ClientOptions, TransportOptions};

use crate::{failure::Malformed, flags::Common};

/// How long a broker may take to answer; far above what any request takes but those that compile.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The same for uploads: the broker gives its compiler two minutes.
const COMPILE_MAX: Duration = Duration::from_secs(150);

/// A broker that is silent for so long is lost: whoever watches a terminal should hear of it soon.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Whoever watches a topic should soon see what goes to its new partitions.
const METADATA_MAX_AGE: Duration = Duration::from_secs(3);

/// Connects to the first of the brokers that answers.
pub(crate) async fn connect(common: &Common) -> anyhow::Result<Client> {
    connect_for(common, ANSWER_MAX).await
}

/// As [`connect`], for requests that make the broker compile.
pub(crate) async fn connect_to_compile(common: &Common) -> anyhow::Result<Client> {
    connect_for(common, COMPILE_MAX).await
}

async fn connect_for(common: &Common, request_timeout: Duration) -> anyhow::Result<Client> {
    let transport =
        TransportOptions { idle_timeout: SILENCE_MAX, keep_alive: SILENCE_MAX / 4, ..TransportOptions::default() };
    let certificate = match (&common.client_cert, &common.client_key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate: certificate.clone(), key: key.clone() }),
        (None, None) => None,
        _ => {
            let told = "--client-cert and --client-key belong together: one of them is not given";
            return Err(Malformed(told.into()).into());
        }
    };
    let options = ClientOptions {
        transport,
        certificate,
        brokers: common.broker.iter().map(ToString::to_string).collect(),
        client_id: "millstream-cli".into(),
        request_timeout,
        metadata_max_age: METADATA_MAX_AGE,
        ..ClientOptions::default()
    };
    Client::connect(options).await.with_context(|| match common.broker.as_slice() {
        [one] => format!("cannot connect to {one}"),
        several => format!("cannot connect to any of {}", crate::output::joined(several)),
    })
}
