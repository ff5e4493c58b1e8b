//! The conversation with an ACME authority: the account, and one order at a time from its beginning to the
//! certificate.

use std::path::Path;
use std::time::Duration;

use atoll_router::{CertificateFacts, Challenge, ChallengeKind, parse_pem};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, ExternalAccountKey,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::blocking;
use super::error::AcmeError;
use super::http::AuthorityClient;
use super::publisher::Publisher;
use crate::config::AcmeConfig;
use crate::registry::{AcmeIssued, Registry};

/// How the authority is asked how far it is: seldom, and not for ever.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// An account at an authority.
pub(super) struct Authority {
    account: Account,
    client: AuthorityClient,
}

impl Authority {
    /// Takes up the account that the registry has, or makes one.
    pub(super) async fn open(config: &AcmeConfig, registry: &Registry) -> Result<Self, AcmeError> {
        let directory = config.directory.clone();
        let (config, stored) = (config.clone(), registry.clone());
        let (client, known, config) = blocking(move || {
            let known = stored.acme_account(&config.directory)?;
            Ok::<_, AcmeError>((AuthorityClient::new(&config)?, known, config))
        })
        .await?;
        let builder = Account::builder_with_http(Box::new(client.clone()));
        if let Some(known) = known {
            let credentials: AccountCredentials =
                serde_json::from_slice(&known).map_err(instant_acme::Error::Json)?;
            return Ok(Self { account: builder.from_credentials(credentials).await?, client });
        }
        let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: config.terms_accepted,
            only_return_existing: false,
        };
        let external = config.external_key().map_err(AcmeError::Unusable)?;
        let external = external.map(|(id, key)| ExternalAccountKey::new(id, &key));
        let made = builder.create(&new, directory.clone(), external.as_ref()).await;
        let (account, credentials) = made?;
        let bytes = serde_json::to_vec(&credentials).map_err(instant_acme::Error::Json)?;
        let registry = registry.clone();
        blocking(move || registry.put_acme_account(&directory, &bytes)).await?;
        tracing::info!(directory = config.directory, "made an account at the ACME authority");
        Ok(Self { account, client })
    }

    /// How long the authority has asked to be left alone.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        self.client.asked_to_wait()
    }

    /// Gets a certificate for one name. When the next one is due is for the caller to say.
    pub(super) async fn issue(
        &self,
        host: &str,
        kind: ChallengeKind,
        publisher: &mut Publisher,
    ) -> Result<AcmeIssued, AcmeError> {
        let names = [Identifier::Dns(host.to_owned())];
        let mut order = self.account.new_order(&NewOrder::new(&names)).await?;
        prove(&mut order, host, kind, publisher).await?;
        let ready = order.poll_ready(&POLLS).await;
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            let why = why_invalid(&mut order).await;
            ready?;
            return Err(why.unwrap_or(AcmeError::TooLong));
        }
        let private_key = order.finalize().await?;
        let chain = order.poll_certificate(&POLLS).await?;
        understood(host, chain, private_key)
    }
}

/// Has the nodes answer what the authority asks, and tells it to.
async fn prove(
    order: &mut Order,
    host: &str,
    kind: ChallengeKind,
    publisher: &mut Publisher,
) -> Result<(), AcmeError> {
    let (wanted, name) = match kind {
        ChallengeKind::Http01 => (ChallengeType::Http01, "http-01"),
        ChallengeKind::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let challenge = authorization.challenge(wanted.clone());
        let mut challenge = challenge.ok_or(AcmeError::NoChallenge(name))?;
        let answer = challenge.key_authorization().as_str().to_owned();
        let (host, token) = (host.to_owned(), challenge.token.clone());
        publisher.publish(Challenge { kind, host, token, answer }).await?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the authority has found wrong with the answers.
async fn why_invalid(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return Some(AcmeError::Refused(problem.into()));
        }
    }
    None
}

/// Reads what was issued: what cannot be served must not replace what can.
fn understood(host: &str, chain: String, private_key: String) -> Result<AcmeIssued, AcmeError> {
    let place = Path::new("the authority's answer");
    let parsed = parse_pem(chain.as_bytes(), private_key.as_bytes(), place, place)
        .map_err(|error| AcmeError::Unfit(error.to_string()))?;
    let facts = CertificateFacts::of(&parsed)
        .ok_or_else(|| AcmeError::Unfit("it cannot be read".to_owned()))?;
    if !facts.names.iter().any(|name| name == host) {
        return Err(AcmeError::Unfit(format!("it is for {}", facts.names.join(", "))));
    }
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let (from_s, expires_s) = (seconds(facts.not_before_s), seconds(facts.not_after_s));
    Ok(AcmeIssued { chain, private_key, from_s, expires_s, due_ms: 0 })
}
